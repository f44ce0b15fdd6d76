"""Slow, obvious twins of the fast code: the same names, nothing shared with it."""

from __future__ import annotations

import copy
import math

import numpy as np
import torch

from explorer.weights.fresh import layer_seed


def pair_statistics(reference, current, out):
    """Twin of `explorer.stats.kernels.pair_statistics`, one exact sum at a time."""
    pairs = [(float(r), float(c)) for r, c in zip(reference, current, strict=True)]
    good = [(r, c) for r, c in pairs if math.isfinite(r) and math.isfinite(c)]
    out[0] = math.fsum(abs(c - r) for r, c in good)
    out[1] = math.fsum((c - r) ** 2 for r, c in good)
    out[2] = max((abs(c - r) for r, c in good), default=0.0)
    out[3] = math.fsum(r * r for r, c in good)
    out[4] = math.fsum(c * c for r, c in good)
    out[5] = len(pairs) - len(good)


def four_statistics(reference, a, b, c, d, out):
    """Twin of `explorer.stats.kernels.four_statistics`, one pair after the other."""
    for one, current in zip(out, (a, b, c, d), strict=True):
        more = np.empty(6)
        pair_statistics(reference, current, more)
        top = max(one[2], more[2])
        one += more
        one[2] = top


def labels(network, final, replacement, inputs, batch_size=128):
    """Predicted labels as public re-implementations compute them.

    A copy of the network, the final state with the replaced tensors in it, and the whole test set
    in batches of 128.
    """
    twin = copy.deepcopy(network)
    twin.load_state_dict({**final, **replacement})
    twin.eval()
    with torch.no_grad():
        return torch.cat([twin(part).argmax(1) for part in inputs.split(batch_size)])


def l2(start, now):
    """‖now − start‖₂ over all parameters of a layer, in float64."""
    flat = [np.ravel(now[name]).astype(float) - np.ravel(start[name]) for name in start]
    return math.sqrt(math.fsum(float(x) ** 2 for part in flat for x in part))


def valley_point(
    network, final, start, layer, alpha, sigma, draws, seed, data, with_buffers
):  # as many arguments as the formula has letters
    """Mean loss and error of a layer at (1 − α)·start + α·final + u: a copy and a pass per draw."""
    twin = copy.deepcopy(network)
    parameters = [n for n, _ in twin.named_parameters() if n.startswith(f"{layer}.")]
    losses, errors = [], []
    for draw in draws if sigma else [0]:
        generator = torch.Generator().manual_seed(layer_seed(seed, f"Noise {layer}", draw))
        state = {name: tensor.clone() for name, tensor in final.items()}
        for name in state:
            moves = name in parameters or (with_buffers and name.startswith(f"{layer}."))
            if moves and state[name].is_floating_point():
                state[name] = (1 - alpha) * start[name] + alpha * final[name]
        for name in [n for n in final if n in parameters]:
            state[name] += sigma * torch.randn(state[name].shape, generator=generator)
        twin.load_state_dict(state)
        with torch.no_grad():
            logits = twin.eval()(data[0])
        losses.append(float(torch.nn.functional.cross_entropy(logits, data[1])))
        errors.append(float((logits.argmax(1) != data[1]).float().mean()))
    return sum(losses) / len(losses), sum(errors) / len(errors)


def path_point(network, start, end, layers, share, data, with_buffers, calibration=None):
    """Mean loss and error with some layers at (1 − λ)·start + λ·end: a copy and a whole pass."""
    twin = copy.deepcopy(network)
    parameters = {name for name, _ in twin.named_parameters()}
    state = {name: tensor.clone() for name, tensor in start.items()}
    for name in state:
        moves = name.partition(".")[0] in layers and (with_buffers or name in parameters)
        if moves and state[name].is_floating_point():
            state[name] = (1 - share) * start[name] + share * end[name]
    twin.load_state_dict(state)
    twin.eval()
    if calibration is not None:
        norms = [part for part in twin.modules() if isinstance(part, torch.nn.BatchNorm2d)]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None
            norm.train()
        with torch.no_grad():
            twin(calibration)
        twin.eval()
    with torch.no_grad():
        logits = twin(data[0])
    loss = float(torch.nn.functional.cross_entropy(logits, data[1]))
    return loss, float((logits.argmax(1) != data[1]).float().mean())
