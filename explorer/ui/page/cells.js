// The cells of the heatmap for a keyboard and a screen reader. The heatmap is a picture on a
// canvas; this table beside it takes the focus, and Python draws its cursor into the picture.

const STEPS = {
  ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1],
  PageUp: [-1e9, 0], PageDown: [1e9, 0], Home: [0, -1e9], End: [0, 1e9],
}
const ASKS = {Enter: "compute", " ": "toggle", Escape: "stop"}

// In JupyterLab a plain key in a menu is a notebook command first: an arrow leaves the menu for
// the next cell, a letter may insert or delete one. Lumino leaves an element with this attribute
// alone; it has to be the focused one itself, since Lab's selectors ask for `:focus`.
function keepKeys(event) {
  const command = event.ctrlKey || event.metaKey || event.altKey
  if (event.target.closest?.(".layer-explorer"))
    event.target.toggleAttribute("data-lm-suppress-shortcuts", !command)
}

// Bokeh leaves the tooltip of a figure on the page that goes away under the pointer.
function clearTooltips() {
  for (const view of globalThis.Bokeh?.index ?? []) {
    if (view.el.isConnected) continue
    for (const tool of view.tool_views?.values() ?? [])
      for (const tooltip of tool.ttmodels?.values() ?? []) tooltip.clear()
  }
}

function render({model, el}) {
  window.addEventListener("keydown", keepKeys, true)
  el.classList.add("layer-explorer-cells")
  const grid = el.appendChild(document.createElement("div"))
  grid.setAttribute("role", "grid")
  grid.setAttribute("aria-multiselectable", "true")
  let cells = []
  let answered = true

  const cellAt = ([row, column]) => cells[row]?.[column]
  const send = (kind, [row, column]) => { if (answered) model.send({kind, row, column}) }

  function draw() {
    grid.setAttribute("aria-label", model.get("label"))
    const focused = grid.contains(document.activeElement)
    cells = model.get("names").map(line => line.map(name => {
      if (!name) return null
      const cell = document.createElement("span")
      cell.setAttribute("role", "gridcell")
      cell.tabIndex = -1
      return cell
    }))
    grid.replaceChildren(...cells.map((line, row) => {
      const whole = document.createElement("div")
      whole.setAttribute("role", "row")
      line.forEach((cell, column) => {
        if (!cell) return
        cell.addEventListener("click", () => send("compute", [row, column]))
        cell.addEventListener("focus", () => moved([row, column]))
        whole.append(cell)
      })
      return whole
    }))
    name()
    mark(focused)
  }

  function name() {
    model.get("names").forEach((line, row) => line.forEach((text, column) => {
      if (cells[row]?.[column]?.getAttribute("aria-label") !== text)
        cells[row]?.[column]?.setAttribute("aria-label", text)
    }))
  }

  function rename() {
    const names = model.get("names")
    const same = names.length === cells.length && names[0]?.length === cells[0]?.length
    if (same) name()
    else draw()
  }

  function mark(focus = grid.contains(document.activeElement)) {
    const chosen = new Set(model.get("selected").map(String))
    cells.forEach((line, row) => line.forEach((cell, column) => {
      if (!cell) return
      cell.setAttribute("aria-selected", chosen.has(String([row, column])))
      cell.tabIndex = -1
    }))
    const cell = cellAt(model.get("active"))
    if (!cell) return
    cell.tabIndex = 0
    if (focus) cell.focus({preventScroll: true})
  }

  function moved(at) {
    if (String(at) === String(model.get("active"))) return
    model.set("active", at)
    model.save_changes()  // so that Python, answering late, does not send the cursor back
    mark(false)
    send("move", at)
  }

  function step(at, [down, right]) {
    const clamp = (value, length) => Math.max(0, Math.min(length - 1, value))
    const inside = ([row, column]) => cells[row] && column in cells[row]
    const from = [clamp(at[0] + down, cells.length), clamp(at[1] + right, cells[0].length)]
    for (const way of [1, -1]) {  // over a gap: on in the same direction, or else back
      let to = from
      while (inside(to) && !cellAt(to))
        to = [to[0] + way * Math.sign(down), to[1] + way * Math.sign(right)]
      if (inside(to)) return to
    }
    return at
  }

  grid.addEventListener("keydown", event => {
    if (event.ctrlKey || event.metaKey || event.altKey) return
    const active = model.get("active")
    if (event.key in STEPS) cellAt(step(active, STEPS[event.key]))?.focus({preventScroll: true})
    else if (event.key in ASKS) send(ASKS[event.key], active)
    else return
    event.preventDefault()
    event.stopPropagation()
  })

  function escaped(event) {  // from wherever the focus is in the explorer
    const explorer = el.closest(".layer-explorer")
    if (event.key === "Escape" && !event.defaultPrevented && explorer?.contains(event.target))
      send("stop", model.get("active"))
  }

  function asked(message) {
    if (message.ask === "here") send("here", [0, 0])
  }

  function lost() {  // ipywidgets says this once, when the kernel has gone; to send is an error then
    answered = false
    const explorer = el.closest(".layer-explorer")
    if (!explorer || explorer.querySelector(".layer-explorer-lost")) return
    for (const part of explorer.children) part.inert = true  // for a keyboard, too
    const alert = document.createElement("div")
    alert.className = "layer-explorer-lost"
    alert.setAttribute("role", "alert")
    alert.textContent =
      "The kernel of this explorer has ended, so clicks are not answered. Run the cell again."
    explorer.prepend(alert)
  }

  window.addEventListener("keydown", escaped)
  model.on("change:names", rename)
  model.on("change:label", draw)
  model.on("change:active", () => mark())
  model.on("change:selected", () => mark())
  model.on("msg:custom", asked)
  model.on("comm_live_update", lost)
  draw()
  send("shown", [0, 0])
  return () => {
    window.removeEventListener("keydown", escaped)
    model.off("change:names", rename)
    model.off("msg:custom", asked)
    model.off("comm_live_update", lost)
    send("gone", [0, 0])
    setTimeout(clearTooltips, 200)  // once the figures beside it have gone, too
  }
}

export default {render}
