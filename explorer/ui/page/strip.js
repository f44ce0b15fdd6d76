// The network as a row of layers, each with its size and verdict; ticked layers are put back
// together.

function box(model, layer) {
  const label = document.createElement("label")
  label.className = `layer-explorer-layer ${layer.verdict.replace(" ", "-")}`
  const tick = document.createElement("input")
  tick.type = "checkbox"
  tick.checked = layer.ticked
  tick.addEventListener("change", () =>
    model.send({kind: "tick", layer: layer.name, ticked: tick.checked}))
  const part = (name, text) => {
    const span = document.createElement("span")
    span.className = name
    span.textContent = text
    return span
  }
  const words = document.createElement("span")
  words.className = "words"
  words.append(part("name", layer.name), part("size", layer.size), part("verdict", layer.verdict))
  label.title = layer.tip
  label.append(tick, words)
  return label
}

function render({model, el}) {
  el.classList.add("layer-explorer-strip")
  const group = el.appendChild(document.createElement("div"))
  group.setAttribute("role", "group")
  group.setAttribute("aria-label", "Layers of the network; tick those to put back together")

  function draw() {
    const layers = model.get("layers")
    const held = [...group.children].findIndex(child => child.contains(document.activeElement))
    group.replaceChildren(...layers.map(layer => box(model, layer)))
    if (held >= 0) group.children[held]?.querySelector("input").focus({preventScroll: true})
  }

  model.on("change:layers", draw)
  draw()
  return () => model.off("change:layers", draw)
}

export default {render}
