"""Several layers at once: the ticks, the presets and the curve say the same."""

from __future__ import annotations

import pytest

from explorer.ui.controls import Controls
from explorer.ui.wording import can_be_put_back
from tests import fakes

FOUR = tuple(f"stage{at}.block" for at in range(4))


def ticks(bench):
    return [layer["name"] for layer in bench.pictures.strip.layers if layer["ticked"]]


def tick(bench, layer):
    message = {"kind": "tick", "layer": layer, "ticked": layer not in ticks(bench)}
    bench.pictures.strip._handle_custom_msg(message, [])


def choose(menu, beginning):
    (menu.index,) = [at for name, at in menu.options if name.startswith(beginning)]


@pytest.fixture
def four_layers(on_bench):
    """The last two of the layers are robust, from a tenth of the way to chance on all four."""
    bench = on_bench(stack=fakes.stack(layers=FOUR, content_hash=""), draws=0)
    results = bench.session.results
    for at, error in enumerate((0.15, 0.15, 0.101, 0.101)):
        results["error"][at] = error
        results["reason"][at] = ""
    results.attrs["final_error"] = 0.1
    bench.shown.shown.threshold.index = 0
    return bench


def test_layers_that_are_chosen_together_stay_so_when_other_ones_are_good_enough(four_layers):
    bench, menu = four_layers, four_layers.controls.preset
    choose(menu, "all robust layers (2)")
    bench.shown.shown.threshold.index = 3
    assert "all robust layers (4)" in [name for name, _ in menu.options]
    assert menu.label == "as ticked (2)"
    assert ticks(bench) == [*FOUR[2:]]
    bench.evaluator.asked.clear()
    bench.controls.compute.click()
    bench.wait()
    assert bench.evaluator.asked == [", ".join(f"{layer} ← epoch 0" for layer in FOUR[2:])]
    bench.shown.shown.threshold.index = 0
    assert menu.label == "all robust layers (2)"


def test_the_presets_follow_the_ticks(four_layers):
    bench, menu = four_layers, four_layers.controls.preset
    choose(menu, "all robust layers (2)")
    tick(bench, FOUR[3])
    assert menu.label == "as ticked (1)"
    tick(bench, FOUR[0])
    assert menu.label == "as ticked (2)"
    tick(bench, FOUR[1])
    assert menu.label == "all but the last (3)"
    assert "as ticked" not in str(menu.options)
    for layer in FOUR[:3]:
        tick(bench, layer)
    assert menu.label == "one layer"


def test_a_preset_of_the_same_layers_as_another_stays_the_one_that_was_chosen(four_layers):
    bench, menu = four_layers, four_layers.controls.preset
    bench.session.results["error"][1] = 0.101
    bench.shown.shown.threshold.index = 1
    choose(menu, "all robust layers (3)")
    assert ticks(bench) == [*FOUR[1:]]
    assert menu.label == "all robust layers (3)"


def test_layers_that_were_clicked_together_can_be_ended_in_the_menu(on_bench):
    bench = on_bench()
    bench.tap(0, 0)
    bench.tap(0, 1, held={"shift": False, "ctrl": True, "alt": False})
    bench.wait()
    assert bench.controls.preset.label == "as ticked (2)"
    bench.controls.preset.index = 0
    assert ticks(bench) == []
    assert bench.curve == "second ← epoch 0 (not run yet)"


def test_a_choice_that_waits_for_whoever_paints_is_not_set_back():
    controls = Controls(fakes.GRID)
    controls.offer({"both": fakes.LAYERS})
    controls.preset.index = 1
    controls.offer({"both": fakes.LAYERS})
    assert controls.chosen_preset == fakes.LAYERS


def test_the_curve_names_the_layers_that_are_ticked_now(on_bench):
    bench = on_bench()
    tick(bench, "first")
    assert bench.curve == "first ← epoch 0 (not run yet)"
    tick(bench, "second")
    assert bench.curve == "first, second ← epoch 0 (not run yet)"
    bench.press("toggle", 1, 1)
    assert bench.curve == "first ← epoch 0 (not run yet)"


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        (0, "No layer can be put back to step 0"),
        (1, "1 layer can be put back to step 0"),
        (2, "2 layers can be put back together to step 0"),
    ],
)
def test_one_layer_is_not_put_back_together(layers, said):
    assert can_be_put_back(layers, "step 0") == said


def test_of_the_whole_network_the_profile_is_its_own(on_bench):
    bench = on_bench()
    bench.controls.layer.index = 2
    view = bench.pictures.profile
    assert view.figure.title.text == "fullmodel\nall layers put back to the same epoch"
    assert list(view._line.data["error"]) == fakes.CURVE.tolist()
    assert list(view._draws.data["error"]) == []
    assert view._since.visible is False
    bench.controls.layer.index = 0
    assert view.figure.title.text.startswith("first")
    assert list(view._draws.data["error"]) == [0.8, 0.9]
