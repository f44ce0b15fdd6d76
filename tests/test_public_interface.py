"""The names that other people's code uses."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import explorer as lx

NAMES = {
    "Explorer": "(stack=None, *, model=None, data=None, device='auto'",
    "catalog": "()",
    "check": "(stack, *, model=None, layers=None, reader=None, seed=0, progress=True)",
    "compare": "(stacks, *, model=None, data=None, epochs=None, draws=3, seed=0, device='auto', "
    "batch_size=None, batchnorm='with_layer', threshold=0.1, margin=None, level=0.05, "
    "effective=False, store=None, progress=True)",
    "compare_parts": "(stacks, *, model=None, data=None, epochs=None, draws=3, seed=0, "
    "device='auto', batch_size=None, batchnorm='with_layer', threshold=0.1, margin=None, "
    "level=0.05, effective=False, store=None, loaded=None)",
    "criticality": "(stack, *, epoch=None, layers=None, alphas=11, sigmas=(0.0, 0.001, 0.00215, "
    "0.00464, 0.01, 0.0215, 0.0464, 0.1, 0.215, 0.464, 1.0), draws=10, seed=0, factor=1.01, "
    "quantity='loss', every_cell=False, model=None, data=None, device='auto', batch_size=None, "
    "batchnorm='with_layer', memory=None, calibration=None, store=None, progress=True)",
    "diff": "(a, b, *, layers=None, reader=None, progress=True)",
    "distances": "(stack, *, reference=0",
    "effective_parameters": "(stack, *, epoch=None, draws=0, seed=0, threshold=0.1, margin=None, "
    "layers=None, model=None, data=None, device='auto', batch_size=None, "
    "batchnorm='with_layer', progress=True)",
    "evaluate": "(stack, intervention, *",
    "motion": "(stack, *, sweep=None, progress=True)",
    "open_stack": "(source, *, model=None, layers=None, epochs=None, reader=None, key=None, "
    "unit=None, every=1, only=None, hub=None)",
    "open_sweep": "(source, stack=None)",
    "outputs": "(stack, *, layers=None, epochs=None, draws=0, seed=0, model=None, data=None, "
    "device='auto', batch_size=None, batchnorm='with_layer', progress=True)",
    "paths": "(stack, *, other=None, start=None, epochs=None, layers=None, shares=11, "
    "cumulative=False, model=None, data=None, device='auto', batch_size=None, "
    "batchnorm='with_layer', memory=None, calibration=None, store=None, progress=True)",
    "predictions": "(stack, intervention, *, model=None, data=None, device='auto', "
    "batch_size=None, batchnorm='with_layer', screen=False, memory=None, calibration=None)",
    "readers": "()",
    "reinitialise": "(layers, epoch)",
    "rerandomise": "(layers, draw=0, seed=0)",
    "reset_order": "(stack, *, epoch=None, threshold=0.1, layers=None, model=None, data=None, "
    "device='auto', batch_size=None, batchnorm='with_layer', progress=True)",
    "save_stack": "(stack, path, *, form=None)",
    "sweep": "(stack, *, model=None, data=None, layers=None, epochs=None, draws=3, device='auto', "
    "batch_size=None, seed=0",
    "train": "(name, *, out, device='auto', resume=True",
    "verdicts": "(runs, *, threshold=0.1, margin=None, level=0.05, **measuring)",
}


def plain_signature(function):
    """Signature without annotations."""
    parameters = inspect.signature(function).parameters.values()
    bare = [p.replace(annotation=inspect.Parameter.empty) for p in parameters]
    return str(inspect.Signature(bare))


def test_the_public_names_are_these_and_no_others():
    assert set(lx.__all__) == {*NAMES, "__version__"}
    assert set(dir(lx)) == set(lx.__all__)


@pytest.mark.parametrize("name", NAMES)
def test_a_public_name_takes_the_documented_arguments(name):
    value = getattr(lx, name)
    target = value.__init__ if inspect.isclass(value) else value
    found = plain_signature(target).replace("(self, ", "(")
    assert found.startswith(NAMES[name]), found


@pytest.mark.parametrize("name", NAMES)
def test_a_public_name_is_documented_with_parameters_and_returns(name):
    text = inspect.getdoc(getattr(lx, name))
    if name not in ("catalog", "readers"):
        assert "Parameters\n----------" in text
    if name != "Explorer":
        assert "Returns\n-------" in text


def test_every_name_works_whatever_was_used_before():
    """The function `catalog` must not be hidden by a module that was imported first."""
    code = "import explorer as lx; lx.open_stack('fcn3x256-digits'); print(len(lx.catalog()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) >= 1


def test_an_unknown_name_is_refused_with_those_there_are():
    with pytest.raises(AttributeError, match=r"no attribute 'swep'; it has .*'sweep'"):
        lx.swep  # noqa: B018 - the access is what is tested


INTERRUPTED = """
import signal, sys
import torch
import explorer as lx

class CtrlC:
    asked = False
    def find_spec(self, name, path=None, target=None):
        if name == "numba.core.types.misc" and not self.asked:
            CtrlC.asked = True
            signal.raise_signal(signal.SIGINT)

sys.meta_path.insert(0, CtrlC())
states = [{"a.weight": torch.full((2, 2), float(k))} for k in range(2)]
try:
    lx.distances(states)
except KeyboardInterrupt:
    print("interrupted", CtrlC.asked)
print(lx.distances(states).l2.values.tolist())
"""


def test_ctrl_c_while_numba_is_imported_reaches_the_reader_and_spoils_nothing():
    """Python loses an interrupt now and then, where it meets a callback of a weak reference."""
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, check=False
        )
        *before, numbers = done.stdout.splitlines() or [""]
        assert numbers == "[[0.0, 2.0]]", done.stderr
        if before == ["interrupted True"]:
            return
    pytest.fail("no interrupt has reached the reader")
