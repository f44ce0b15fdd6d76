"""The stacks that come along: trained, small, and with the numbers of their own checkpoints."""

from __future__ import annotations

import pytest

import explorer as lx
from explorer.inventory.manifest import load_manifest
from explorer.weights.families.known import FAMILIES
from explorer.weights.stack import layer_names
from scripts import families_page

BUNDLED = sorted(load_manifest().stacks)


def size_of(entry):
    records = [*(checkpoint.record for checkpoint in entry.checkpoints), entry.sweep]
    return sum(record.bytes for record in records)


def test_every_family_of_the_paper_has_a_bundled_stack():
    families = {entry.family for entry in load_manifest().stacks.values()}
    assert families == set(FAMILIES)


def test_bundled_stacks_are_small_enough_to_come_along():
    """At most 6 MB each but for the first, whose eight epochs the paper's figure has."""
    sizes = {name: size_of(entry) for name, entry in load_manifest().stacks.items()}
    assert all(size <= 6e6 for name, size in sizes.items() if name != "fcn3x256-digits"), sizes
    assert sum(sizes.values()) <= 40e6


@pytest.mark.parametrize("name", BUNDLED)
def test_a_bundled_stack_has_learnt_and_its_sweep_is_of_its_own_checkpoints(name):
    entry = load_manifest().stacks[name]
    stack, sweep = lx.open_stack(name), lx.open_sweep(name)
    assert sweep.attrs["content_hash"] == stack.attrs["content_hash"]
    assert sweep.attrs["final_error"] == pytest.approx(entry.test_error, abs=1e-9)
    assert entry.test_error < 0.55 * sweep.attrs["chance_error"]
    assert list(sweep["layer"].values) == layer_names(stack)
    for prefix in ("", "rerandomized_", "fullmodel_"):
        assert (sweep[f"{prefix}reason"] == "").all()


@pytest.mark.parametrize("name", BUNDLED)
def test_a_cell_of_a_bundled_sweep_comes_out_again(name):
    stack, sweep = lx.open_stack(name), lx.open_sweep(name)
    layer, epoch = layer_names(stack)[0], int(sweep["epoch"].values[1])
    *_, last = lx.evaluate(stack, lx.reinitialise(layer, epoch), device="cpu")
    # another processor may round otherwise, and tip over a label or two
    assert last.error == pytest.approx(float(sweep.error.sel(layer=layer, epoch=epoch)), abs=0.002)


def test_the_page_of_families_is_up_to_date():
    assert families_page.PAGE.read_text(encoding="utf-8") == families_page.page()
