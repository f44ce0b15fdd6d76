// Files for the reader: pictures as the page has drawn them, data as Python has written it, and
// code that gives the same.

function save(blob, name) {
  const link = document.createElement("a")
  link.href = URL.createObjectURL(blob)
  link.download = name
  link.click()
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000)
}

async function picture(model, kind) {
  const [id, name] = model.get("pictures")[model.get("picture")]
  // one that was taken off the page stays in the index, and is empty: `isConnected` sees that, and
  // sees into shadow roots
  const view = [...window.Bokeh.index].find(one => one.model.id === id && one.el.isConnected)
  if (!view) return `${name} is not on the page: show it, then try again.`
  const layer = view.export(kind, kind === "png")
  save(await layer.to_blob(), `${name.toLowerCase().replaceAll(" ", "-")}.${kind}`)
  return `Saved the ${name.toLowerCase()} as ${kind.toUpperCase()}.`
}

// BokehJS keeps every document that it has drawn, and jupyter_bokeh (4.1) lets go of none: a page on
// which stacks are changed would grow by megabytes each time. A figure whose view is never removed
// is also kept by the view's own listener, so the document is emptied, and nobody is told.
function forget(ids) {
  const documents = globalThis.Bokeh?.documents ?? []
  for (const one of documentsOf(ids)) {
    one.views_manager?.clear()
    one._callbacks?.clear()
    one.clear()
    documents.splice(documents.indexOf(one), 1)
  }
}

function documentsOf(ids) {
  return (globalThis.Bokeh?.documents ?? []).filter(one => {
    const roots = one.roots()
    return roots.length && roots.every(root => ids.includes(root.id))
  })
}

function initialize({model}) {
  const named = () => model.get("pictures").map(([id]) => id)
  let ids = named()
  function changed() {
    const now = named()
    forget(ids.filter(id => !now.includes(id)))
    ids = now
  }
  // After a restart a figure that is moved, or resized with the page, would tell nobody of it, and
  // jupyter_bokeh raises an error each time.
  function lost() {
    for (const one of documentsOf(ids)) one._callbacks?.clear()
  }
  model.on("change:pictures", changed)
  model.on("comm_live_update", lost)
  return () => {
    model.off("change:pictures", changed)
    model.off("comm_live_update", lost)
    forget(ids)
  }
}

function render({model, el}) {
  el.classList.add("layer-explorer-export")
  const add = (tag, parent = el) => parent.appendChild(document.createElement(tag))
  const button = (text, parent, act) => {
    const made = add("button", parent)
    made.type = "button"
    made.className = "jupyter-button"
    made.textContent = text
    made.addEventListener("click", act)
  }
  const say = text => { said.textContent = text }

  const pictures = add("p")
  const label = add("label", pictures)
  label.append("Picture ")
  const menu = add("select", label)
  menu.addEventListener("change", () => { model.set("picture", menu.selectedIndex) })
  for (const kind of ["png", "svg"])
    button(kind.toUpperCase(), pictures, () =>
      picture(model, kind).then(say, error => say(`The picture could not be made: ${error}`)))

  const files = add("p")
  files.append("Data ")
  for (const [kind, text] of model.get("files"))
    button(text, files, () => { say("Writing …"); model.send({kind}) })

  const code = add("div")
  const head = add("p", code)
  head.append(`${model.get("about")} `)
  const listing = add("pre", code)
  listing.tabIndex = 0
  listing.setAttribute("role", "region")
  listing.setAttribute("aria-label", model.get("about"))
  button("Copy", head, () => navigator.clipboard.writeText(listing.textContent).then(
    () => say("Copied."),
    () => { window.getSelection().selectAllChildren(listing); say("Selected: copy it by hand.") }))
  const said = add("p")
  said.setAttribute("role", "status")

  function draw() {
    listing.textContent = model.get("code")
    menu.replaceChildren(...model.get("pictures").map(([, name]) => new Option(name)))
    menu.selectedIndex = model.get("picture")
  }
  function arrived(message, buffers) {
    if (message.failure) return say(message.failure)
    save(new Blob(buffers, {type: message.type}), message.name)
    say(`Saved ${message.name}.`)
  }
  model.on("change:code change:pictures", draw)
  model.on("msg:custom", arrived)
  draw()
  return () => {
    model.off("change:code change:pictures", draw)
    model.off("msg:custom", arrived)
  }
}

export default {initialize, render}
