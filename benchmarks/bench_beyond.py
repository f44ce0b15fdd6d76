"""Measures beyond the paper against the pattern of public code.

A: for every set of layers, cell or point, a deep copy of the network, load_state_dict, and a
DataLoader of 128 over the whole test set, for verdicts McNemar's test of each cell; for motion
numpy over every checkpoint. Both in one process, in turn; processor time, medians of some repeats.
Where A would take too long, some of its points are timed and scaled, which the table says. The
numbers of both sides are compared.

    python benchmarks/bench_beyond.py [--only vgg11-digits] [--repeats 3] [--out FILE.md]
"""

from __future__ import annotations

import argparse
import copy
import platform
import statistics
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from scipy.stats import binomtest
from torch.utils.data import DataLoader, TensorDataset

import explorer as lx
from explorer.data.datasets import load_test_set
from explorer.engine.evaluator import Evaluator
from explorer.engine.interventions import reinitialise
from explorer.engine.paired import exact_interval, p_beyond, p_within
from explorer.stats.spectra import as_matrix
from explorer.weights.families.known import build_network
from explorer.weights.stack import epoch_numbers, layer_names, layer_variables, read_epoch

SAMPLE = 12
"""Sets or points that A measures; the rest is scaled."""

BINS = 15
"""Of the calibration error."""

EXACT = 1e-3
"""Errors may differ by so much: a few labels that rounding decides, of 1,800."""


class Plain:
    """What public code does for a set of layers."""

    def __init__(self, stack):
        self._network = build_network(stack.attrs["family"], stack.attrs["sizes"])
        self._final = tensors(read_epoch(stack, epoch_numbers(stack)[-1]))
        self._evaluator = Evaluator(stack, device="cpu")
        examples = load_test_set(stack.attrs["dataset"])
        self._loader = DataLoader(TensorDataset(examples.inputs, examples.labels), batch_size=128)

        self._read = []

    def tensors(self, layers, epoch=0):
        if not layers:
            return {}
        return self._evaluator.network.replacement(reinitialise(layers, epoch))

    def between(self, layer, share):
        """Tensors of a layer on the way from the end to epoch 0."""
        early = self.tensors([layer])
        return {name: (1 - share) * self._final[name] + share * early[name] for name in early}

    def logits(self, own):
        twin = copy.deepcopy(self._network)
        twin.load_state_dict({**self._final, **own})
        twin.eval()
        *_, head = (one for one in twin.modules() if isinstance(one, torch.nn.Linear))
        head.register_forward_pre_hook(lambda _module, given: self._read.append(given[0]))
        with torch.no_grad():
            for inputs, labels in self._loader:
                logits = twin(inputs)
                yield logits, labels, self._read.pop()

    def wrong(self, own):
        """Which examples are misclassified."""
        return torch.cat([logits.argmax(1) != labels for logits, labels, _ in self.logits(own)])

    def error(self, own):
        return float(self.wrong(own).float().mean())

    def mcnemar(self, trained, layer, epoch):
        """Answers turned wrong, turned right, and the p value of the exact test."""
        patched = self.wrong(self.tensors([layer], epoch))
        turned = int((patched & ~trained).sum()), int((trained & ~patched).sum())
        return *turned, exact_mcnemar(*turned)

    def answers(self, own):
        """Logits, labels and what the head reads, of all examples."""
        return [torch.cat(parts) for parts in zip(*self.logits(own), strict=True)]

    def compare(self, layer, trained=None):
        """All that `outputs` says of one cell; `trained`: the kept answers of the trained one."""
        x, labels, read_x = trained or self.answers({})
        y, _, read_y = self.answers(self.tensors([layer]))
        x, y, read_x, read_y = (one.double() for one in (x, y, read_x, read_y))
        p, q = x.softmax(1), y.softmax(1)
        middle = (p + q) / 2
        confidence, answer = q.max(1)
        right = answer == labels
        bins = (confidence * BINS).ceil().long()
        return {
            "softmax_cosine": float(torch.cosine_similarity(p, q).mean()),
            "js_divergence": float(relative(p, middle) + relative(q, middle)) / 2,
            "cka": linear_cka(x, y),
            "penultimate_cka": linear_cka(read_x, read_y),
            "ece": sum(
                abs(float((right[bins == k].double() - confidence[bins == k]).sum()))
                for k in range(1, BINS + 1)
            )
            / len(right),
            "by_class": [float((~right[labels == one]).double().mean()) for one in labels.unique()],
        }


def exact_mcnemar(wrong, right):
    """As statsmodels computes it: a binomial test of those that turned."""
    return float(binomtest(wrong, wrong + right).pvalue) if wrong + right else 1.0


def relative(p, m):
    """Mean Kullback–Leibler divergence of rows."""
    return torch.special.xlogy(p, p / m).sum(1).mean()


def linear_cka(x, y):
    """As Kornblith et al. write it for more examples than features."""
    x, y = x - x.mean(0), y - y.mean(0)
    return float((y.T @ x).norm() ** 2 / ((x.T @ x).norm() * (y.T @ y).norm()))


def tensors(arrays):
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def timed(work):
    start = time.process_time()  # of this process alone, whatever else the machine does
    found = work()
    return time.process_time() - start, found


class Sides:
    """Times of both sides in turn, a repeat after the other."""

    def __init__(self, repeats):
        self._repeats = repeats

    def __call__(self, name, what, count, points, plain, ours):
        """A row; `plain` takes a point, `ours` nothing and gives what is compared."""
        a, own, expected, found = [], [], [], None
        for _ in range(self._repeats):
            seconds, found = timed(ours)
            own.append(seconds)
            one = [timed(lambda point=point: plain(point)) for point in points]
            a.append(statistics.mean(seconds for seconds, _ in one))
            expected = [number for _, number in one]
        line = row(name, what, count, len(points), statistics.median(a), statistics.median(own))
        return line, expected, found


def verdicts(name, stack, plain, sides):
    """A: every cell's answers and McNemar's test, without margin or correction."""
    cells = [(layer, one) for layer in layer_names(stack) for one in epoch_numbers(stack)[:-1]]
    some = spread(cells)
    trained = plain.wrong({})

    def ours():
        forget_tests()
        return lx.verdicts(stack, device="cpu", progress=False)

    line, expected, found = sides(
        name,
        "verdicts, with the sweep",
        len(cells),
        some,
        lambda cell: plain.mcnemar(trained, *cell),
        ours,
    )
    for (layer, epoch), turned in zip(some, expected, strict=True):
        here = found.sel(layer=layer, epoch=epoch)
        for quantity, count in zip(("turned_wrong", "turned_right"), turned, strict=False):
            assert abs(int(here[quantity]) - count) <= 2, (layer, epoch, quantity)
    return line


def tests(name, _stack, _plain, sides):
    """The statistics alone, of a sweep that is there."""
    swept = lx.open_sweep(name)
    earlier = swept.isel(epoch=slice(None, -1))
    counts = [earlier[one].values.ravel().tolist() for one in ("turned_wrong", "turned_right")]
    cells = list(zip(*counts, strict=True))

    def ours():
        forget_tests()
        return lx.verdicts(swept)

    line, expected, found = sides(
        name, "the tests alone", len(cells), cells, lambda cell: exact_mcnemar(*cell), ours
    )
    ours_p = found["p_mcnemar"].sel(epoch=earlier["epoch"]).values.ravel()
    np.testing.assert_allclose(ours_p, expected, rtol=1e-9)
    return line


def spread(cells):
    """As many cells as A measures, from all over."""
    return cells[:: max(1, len(cells) // SAMPLE)][:SAMPLE]


def across(name, stack, plain, sides):
    """Two stacks of this size, every cell and the full model, and what is made of them."""
    every, epochs = layer_names(stack), epoch_numbers(stack)[:-1]
    cells = [(some, one) for some in (*([layer] for layer in every), every) for one in epochs]

    def ours():
        forget_tests()
        pair = {"one": stack, "other": stack}
        return lx.compare(pair, draws=0, device="cpu", progress=False)

    some = spread(cells)
    line, expected, found = sides(
        name,
        "compare, two stacks like this one",
        2 * len(cells),
        some,
        lambda cell: plain.error(plain.tensors(*cell)),
        ours,
    )
    swept = found["stacks/other"]
    for (layers, epoch), error in zip(some, expected, strict=True):
        at = {"epoch": epoch} if layers == every else {"layer": layers[0], "epoch": epoch}
        own = swept["fullmodel_error" if layers == every else "error"].sel(at)
        assert abs(float(own) - error) <= EXACT, (layers, epoch)
    return line


def forget_tests():
    """No p value is known from a repeat before."""
    for one in (p_within, p_beyond, exact_interval):
        one.cache_clear()


def effective(name, stack, plain, sides):
    layers = layer_names(stack)
    options = {"device": "cpu", "progress": False}
    count = lx.effective_parameters(stack, **options).attrs["measured"]
    sets = [layers[: k % len(layers) + 1] for k in range(min(SAMPLE, count))]
    line, expected, found = sides(
        name,
        "effective_parameters",
        count,
        sets,
        lambda one: plain.error(plain.tensors(one)),
        lambda: lx.effective_parameters(stack, **options),
    )
    single = float(found["alone_error"].sel(layer=layers[0])[0])
    assert abs(single - expected[0]) <= EXACT, (single, expected[0])
    return line


def outputs(name, stack, plain, sides):
    return outputs_against(name, stack, plain.compare, "outputs at epoch 0", sides)


def kept(name, stack, plain, sides):
    """The same against an A that runs the trained network once and keeps its answers."""
    trained = plain.answers({})
    what = "the same, A keeps the trained network's answers"
    return outputs_against(name, stack, lambda one: plain.compare(one, trained), what, sides)


def outputs_against(name, stack, compare, what, sides):
    layers = layer_names(stack)
    line, expected, found = sides(
        name,
        what,
        len(layers),
        layers[:SAMPLE],
        compare,
        lambda: lx.outputs(stack, epochs=[0], device="cpu", progress=False),
    )
    for layer, one in zip(layers, expected, strict=False):
        for quantity in ("softmax_cosine", "js_divergence", "cka", "penultimate_cka", "ece"):
            ours = float(found[quantity].sel(layer=layer, epoch=0))
            assert abs(ours - one[quantity]) < 1e-5, (layer, quantity, ours, one[quantity])
    return line


def paths(name, stack, plain, sides):
    layers, shares = layer_names(stack), np.linspace(0, 1, 11)
    points = [(layer, float(share)) for layer in layers for share in shares]
    some = points[:: max(1, len(points) // SAMPLE)][:SAMPLE]
    line, expected, found = sides(
        name,
        "paths to epoch 0, 11 shares",
        len(points) + len(shares),  # the whole network's path as well
        some,
        lambda point: plain.error(plain.between(*point)),
        lambda: lx.paths(stack, epochs=[0], device="cpu", progress=False),
    )
    for (layer, share), error in zip(some, expected, strict=True):
        along = found["error"].sel(layer=layer, epoch=0)
        ours = float(along.sel(share=share, method="nearest"))
        assert abs(ours - error) <= EXACT, (layer, share, ours, error)
    return line


def motion(name, stack, _plain, sides):
    epochs = epoch_numbers(stack)
    line, (expected,), found = sides(
        name,
        "motion of all checkpoints",
        1,
        [epochs],
        lambda _: numpy_motion(stack),
        lambda: lx.motion(stack, progress=False),
    )
    rotation, norms = expected
    np.testing.assert_allclose(found["rotation"], rotation, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(found["spectral_norm"], norms, rtol=1e-5)
    return line


def numpy_motion(stack):
    """Rotation, steps, signs and singular values, each checkpoint loaded as a whole."""
    states = [read_epoch(stack, epoch) for epoch in epoch_numbers(stack)]
    rotations, norms = [], []
    for layer in layer_names(stack):
        variables = layer_variables(stack, layer)
        names = [name for name, array in variables.items() if not array.attrs["buffer"]]
        flat = [np.concatenate([s[n].ravel() for n in names]).astype(float) for s in states]
        start = flat[0]
        lengths = [np.linalg.norm(one) for one in flat]
        rotations.append(
            [1 - start @ one / lengths[0] / n for one, n in zip(flat, lengths, strict=True)]
        )
        _steps = [np.linalg.norm(b - a) for a, b in pairwise(flat)]
        _flips = [(np.sign(start) * np.sign(one) < 0).mean() for one in flat]
        for n in names:
            if states[0][n].ndim > 1:
                matrices = [as_matrix(state[n]) for state in states]
                norms.append([np.linalg.svd(one, compute_uv=False)[0] for one in matrices])
    return np.array(rotations), np.array(norms)


def row(name, what, count, sample, each, ours):
    a = each * count
    about = "" if sample == count else f" ({sample} timed)"
    return f"| {name} | {what} | {count} | {a:.2f} s{about} | {ours:.2f} s | {a / ours:.1f}× |"


MEASURED = {
    "verdicts": verdicts,
    "tests": tests,
    "effective": effective,
    "outputs": outputs,
    "kept": kept,
    "paths": paths,
    "motion": motion,
    "across": across,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--only", nargs="+", default=["fcn3x256-digits", "vgg11-digits", "resnet18bn-digits"]
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--what", nargs="+", choices=list(MEASURED), default=list(MEASURED))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    lines = [
        f"`python benchmarks/bench_beyond.py`, {platform.system()} {platform.machine()}, torch "
        f"{torch.__version__}, xarray {xr.__version__}, numpy {np.__version__}, "
        f"{torch.get_num_threads()} thread(s), processor time, medians of "
        f"{options.repeats}.",
        "",
        "| stack | what | sets, cells or points | A | ours | against A |",
        "|---|---|---|---|---|---|",
    ]
    for name in options.only:
        stack = lx.open_stack(name)
        plain = Plain(stack)
        plain.error({})  # warm up
        for what in options.what:
            lines.append(MEASURED[what](name, stack, plain, Sides(options.repeats)))
            print(lines[-1], flush=True)
    if options.out:
        options.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
