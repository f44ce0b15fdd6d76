// A Bokeh update is three messages or more, and a view begins to listen whenever it has been drawn,
// also in the middle of one. As shipped (BokehJS 3.9), its receiver takes the first that it hears
// for a header, stays out of step for good and drops every later update without a word. Headers
// can be told from the rest: what comes before one is dropped, and one begins an update always.
(() => {
  let prototype
  try {
    prototype = window.Bokeh.require("protocol/receiver").Receiver.prototype
  } catch {
    return // another BokehJS, which has no such part: it is left as it is
  }
  const {consume} = prototype
  if (consume.name === "consumeInStep") return
  prototype.consume = function consumeInStep(fragment) {
    const begins = typeof fragment === "string" && fragment.startsWith('{"msgid"')
    if (begins) this._current_consumer = this._HEADER
    else if (this._current_consumer === this._HEADER) this.message = null
    if (begins || this._current_consumer !== this._HEADER) consume.call(this, fragment)
  }
})()
