"""The code with which a reader repeats in Python what was selected with the mouse."""

from __future__ import annotations

from explorer.engine.interventions import Epoch, FreshDraw, Intervention

_SOURCES = "explorer.engine.interventions"


def code_of(intervention: Intervention, opened: str, options: str) -> str:
    """Return Python that measures one intervention.

    Parameters
    ----------
    intervention : Intervention
        What is measured.
    opened : str
        Python expression that opens the stack.
    options : str
        Keyword arguments of `explorer.evaluate` that are not as by default, each begun by a comma.

    Returns
    -------
    str
        A few lines that run as they are, where the stack can be opened by a name.
    """
    imports, expression = _expression(intervention)
    return (
        f"import explorer as lx\n{imports}\n"
        f"stack = lx.open_stack({opened})\n"
        f"*_, last = lx.evaluate(stack, {expression}{options})\n"
        "print(last.error, last.error_low, last.error_high, last.examples)\n"
    )


def _expression(intervention: Intervention) -> tuple[str, str]:
    """Return imports, and a Python expression that is equal to the intervention."""
    layers = list(intervention.layers)
    named = repr(layers[0] if len(layers) == 1 else layers)
    sources = {source for _, source in intervention.changes}
    if len(sources) == 1:
        (source,) = sources
        if isinstance(source, Epoch):
            return "", f"lx.reinitialise({named}, epoch={source.epoch})"
        if isinstance(source, FreshDraw):
            return "", f"lx.rerandomise({named}, draw={source.draw}, seed={source.seed})"
    text = repr(intervention)
    known = ("Epoch", "FreshDraw", "Intervention", "Mixture", "Moments", "Noise", "Skip", "Zeros")
    used = ", ".join(name for name in known if f"{name}(" in text)
    return f"from {_SOURCES} import {used}\n", text
