"""A network's layers as a diagram in text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import nn

PLAIN, SKIPPED = "↓", "↷"


def draw_layers(
    title: str,
    example: Sequence[int],
    network: nn.Module,
    layers: Mapping[str, Sequence[str]],
    skips: Callable[[str], bool],
) -> str:
    """Draw one line per layer: an arrow, its name, its numbers of parameters and buffers.

    Parameters
    ----------
    title : str
        What the network is.
    example : sequence of int
        Shape of one example.
    network : torch.nn.Module
        Only names and shapes are looked at.
    layers : mapping
        Layer → names of its parameters and buffers, in forward order.
    skips : function
        Layer → whether a skip connection leads around it.

    Returns
    -------
    str
    """
    parameters = {n: p.numel() for n, p in network.named_parameters()}
    buffers = {n: b.numel() for n, b in network.named_buffers()}
    own = {layer: sum(parameters.get(n, 0) for n in names) for layer, names in layers.items()}
    moving = {layer: sum(buffers.get(n, 0) for n in names) for layer, names in layers.items()}
    name_width, count_width = max(map(len, layers)), max(len(f"{n:,}") for n in own.values())
    lines = [f"{title}: {sum(own.values()):,} parameters", f"  {' × '.join(map(str, example))}"]
    for layer in layers:
        mark = SKIPPED if skips(layer) else PLAIN
        beside = f" + {moving[layer]:,} in buffers" if moving[layer] else ""
        lines.append(f"  {mark} {layer:<{name_width}}  {own[layer]:>{count_width},}{beside}")
    if any(map(skips, layers)):
        lines.append(f"  {SKIPPED}: a skip connection leads around this layer")
    return "\n".join(lines)
