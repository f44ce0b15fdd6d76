"""Several stacks beside each other: known networks, permuted copies, what is kept and drawn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr
from scipy.stats import rankdata

import explorer as lx
from explorer.api import save_netcdf
from explorer.cli import main
from explorer.data.datasets import load_training_set
from explorer.engine.across_summary import DEPTHS
from explorer.engine.evaluator import Evaluator
from explorer.errors import UnknownNameError, UsageError
from explorer.ui.across_figure import MARKS, across_figure, multiples_of, shared_columns
from explorer.ui.across_page import comparison_page, comparison_text
from tests import toy

pytestmark = pytest.mark.filterwarnings("ignore::explorer.errors.NumbersWarning")

QUIET = {"device": "cpu", "progress": False}


def sum_net(depth):
    """Linear layers in a chain, each the identity and a bias, as many as are asked for."""
    return torch.nn.Sequential(*(torch.nn.Linear(3, 3) for _ in range(depth)))


def sum_states(pushes):
    """At epoch 0 layer k pushes class 0 by pushes[k]; at epoch 1, trained, none pushes."""
    eye = torch.eye(3)
    return [
        {
            f"{k}.{name}": tensor
            for k, push in enumerate(pushes)
            for name, tensor in (("weight", eye.clone()), ("bias", at * push * eye[0]))
        }
        for at in (1.0, 0.0)
    ]


EXAMPLES = 300


def one_hot(count=EXAMPLES):
    """Examples that the trained network gets right; a push of 5 makes it answer 0 always."""
    truth = torch.arange(count) % 3
    return torch.eye(3)[truth], truth


@pytest.fixture(scope="module")
def linear():
    """Two linear networks: of two layers the first is critical, of five the second and the last."""
    pushes = {"short": (5.0, 0.0), "long": (0.0, 5.0, 0.0, 0.0, 5.0)}
    nets = {label: sum_net(len(one)) for label, one in pushes.items()}
    stacks = {k: lx.open_stack(sum_states(one), model=nets[k]) for k, one in pushes.items()}
    return lx.compare(stacks, model=nets, data=one_hot(), draws=1, **QUIET)


# --- closed forms ---------------------------------------------------------------------------------


def test_two_linear_networks_have_the_critical_layers_that_they_were_given(linear):
    """A push of 5 in class 0 makes two of three examples wrong, which is chance: damage 1."""
    table = linear.table
    assert table.index.tolist() == ["short", "long"]
    assert table[["layers", "critical", "robust"]].values.tolist() == [[2, 1, 1], [5, 2, 3]]
    assert table["parameters"].tolist() == [24, 60]
    assert table["critical_parameters_share"].tolist() == [0.5, 0.4]
    assert table["mean_damage"].tolist() == pytest.approx([0.5, 0.4])
    assert table["final_error"].tolist() == [0, 0]
    long = linear["stacks/long"]
    expected = [[0, 0], [1, 0], [0, 0], [0, 0], [1, 0]]
    np.testing.assert_allclose(long["damage"], expected, atol=1e-12)
    words = ["robust", "critical", "robust", "robust", "critical"]
    assert long["verdict"].values.tolist() == words
    assert long["depth"].values.tolist() == [0, 0.25, 0.5, 0.75, 1]


def test_networks_of_different_depth_lie_on_one_axis_with_straight_lines_between_layers(linear):
    found = linear["summary"]["damage_by_depth"]
    np.testing.assert_allclose(found.sel(stack="short"), 1 - DEPTHS, atol=1e-12)
    expected = np.select(
        [DEPTHS <= 0.25, DEPTHS <= 0.5, DEPTHS <= 0.75],
        [4 * DEPTHS, 2 - 4 * DEPTHS, 0],
        4 * DEPTHS - 3,
    )
    np.testing.assert_allclose(found.sel(stack="long"), expected, atol=1e-12)


def test_layers_of_other_names_have_no_agreement(linear):
    assert np.isnan(linear["summary"]["rank_correlation"].sel(stack="short", other="long"))
    assert linear.table[["rank_agreement", "verdict_agreement"]].isna().all(axis=None)


def permuted(states, order):
    """The same functions with the hidden units of ConvNet in another order."""
    moved = ("conv.weight", "conv.bias", "norm.weight", "norm.bias")
    moved += ("norm.running_mean", "norm.running_var")
    found = []
    for state in states:
        new = {name: state[name][order] if name in moved else state[name] for name in state}
        found.append({**new, "head.weight": state["head.weight"][:, order]})
    return found


@pytest.fixture(scope="module")
def relatives():
    """A stack, the same with its units permuted, and an unrelated one of the same layers."""
    states = toy.conv_states(3)
    net = toy.ConvNet()
    inputs, _ = toy.conv_examples(200)
    net.load_state_dict(states[-1])
    with torch.no_grad():
        truth = net.eval()(inputs).argmax(1)
    runs = {
        "run": states,
        "permuted": permuted(states, [2, 0, 3, 1]),
        "other": [*reversed(states[:2]), states[-1]],
    }
    stacks = {label: lx.open_stack(one, model=net) for label, one in runs.items()}
    return lx.compare(stacks, model=net, data=(inputs, truth), draws=0, **QUIET)


def test_permuted_copies_of_a_stack_agree_perfectly(relatives):
    pair = relatives["summary"].sel(stack="run", other="permuted")
    assert pair["rank_correlation"] == pytest.approx(1)
    assert pair["same_verdicts"] == 1
    one, other = (relatives[f"stacks/{k}"]["error"].values for k in ("run", "permuted"))
    np.testing.assert_allclose(one, other, atol=1 / 200)


def test_agreement_is_what_the_ranks_and_words_written_out_give(relatives):
    firsts, words = {}, {}
    for label in ("run", "other"):
        node = relatives[f"stacks/{label}"]
        firsts[label] = rankdata(node["damage"].values[:, 0])
        words[label] = node["verdict"].values
    pair = relatives["summary"].sel(stack="run", other="other")
    assert pair["rank_correlation"] == pytest.approx(np.corrcoef(*firsts.values())[0, 1])
    assert pair["same_verdicts"] == np.mean(words["run"] == words["other"])
    others = relatives["summary"]["rank_correlation"].sel(stack="other").values
    mean = relatives.table["rank_agreement"]["other"]
    assert mean == pytest.approx(np.delete(others, 2).mean())


# --- a plain twin ---------------------------------------------------------------------------------


def test_the_numbers_of_bundled_stacks_are_those_of_their_sweeps_and_verdicts():
    names = ["resnet18-digits", "resnet18bn-digits"]
    found = lx.compare(names, progress=False)
    firsts = [lx.open_sweep(name)["error"].sel(epoch=0).values for name in names]
    rank = np.corrcoef(*map(rankdata, firsts))[0, 1]
    assert found.table["rank_agreement"].tolist() == pytest.approx([rank, rank])
    for name in names:
        sweep, judged = lx.open_sweep(name), lx.verdicts(name)
        row, words = found.table.loc[name], judged["verdict"].values.tolist()
        way = sweep.attrs["chance_error"] - sweep.attrs["final_error"]
        first = (sweep["error"].sel(epoch=0) - sweep.attrs["final_error"]) / way
        sizes = {
            layer: sum(a[0].size for a in node.data_vars.values() if not a.attrs["buffer"])
            for layer, node in lx.open_stack(name).children.items()
        }
        assert row["parameters"] == sum(sizes.values()) == lx.catalog().loc[name, "parameters"]
        for word in ("robust", "mixed", "critical", "undecided"):
            assert row[word] == words.count(word)
        large = sum(
            sizes[layer] for layer, word in zip(sizes, words, strict=True) if word == "critical"
        )
        assert row["critical_parameters_share"] == pytest.approx(large / sum(sizes.values()))
        assert row["mean_damage"] == pytest.approx(float(first.mean()))
        fresh = (float(sweep["rerandomized_error"].mean()) - sweep.attrs["final_error"]) / way
        assert row["mean_rerandomized_damage"] == pytest.approx(fresh)
        assert found[f"stacks/{name}"]["verdict"].values.tolist() == words


def test_parameters_that_layers_share_count_once():
    from tests.members import MEMBERS, examples, initial_state

    network, state = initial_state("transformer-tied")
    states = [initial_state("transformer-tied", 1)[1], state]
    stack = lx.open_stack(states, model=network)
    tokens = examples("transformer-tied")
    found = lx.compare({"tied": stack}, model=network, data=(tokens, tokens), draws=0, **QUIET)
    assert found.table["parameters"].item() == sum(p.numel() for p in network.parameters())
    assert MEMBERS["transformer-tied"][1]["tied"]


# --- what is taken, measured, kept ----------------------------------------------------------------


def test_a_bundled_sweep_is_taken_unless_something_else_is_asked_for(monkeypatch):
    asked = []

    def opened(stack, **options):
        asked.append(options)
        raise UsageError("enough", "seen", "stop")

    monkeypatch.setattr("explorer.engine.evaluator.Evaluator", opened)
    assert lx.compare("fcn3x256-digits", epochs=[0, 100], progress=False)["stacks/fcn3x256-digits"][
        "epoch"
    ].values.tolist() == [0, 100]
    assert not asked
    for other in (
        {"draws": 1},
        {"seed": 7},
        {"batchnorm": "weights_only"},
        {"epochs": [4]},
        {"data": "digits28"},
    ):
        with pytest.raises(UsageError, match="enough"):
            lx.compare("fcn3x256-digits", progress=False, **other)
    assert [one["batchnorm"] for one in asked[:3]] == ["with_layer", "with_layer", "weights_only"]
    assert asked[4]["data"] == "digits28"


def test_sweeps_and_their_files_are_taken_as_they_are(tmp_path):
    sweep = lx.open_sweep("fcn3x256-digits").isel(epoch=[0, -1])
    path = save_netcdf(sweep, tmp_path / "mine.nc")
    found = lx.compare([sweep, path, sweep], progress=False)
    assert list(found["stacks"].children) == ["fcn3x256-digits", "mine", "fcn3x256-digits (2)"]
    assert found.table["parameters"].tolist() == [335_114] * 3
    rank = found["summary"]["rank_correlation"].values
    np.testing.assert_allclose(rank, 1)


def test_figures_of_a_paper_which_hold_only_errors_are_judged_by_the_threshold():
    from explorer.engine.verdicts import verdicts
    from explorer.inventory.paper import paper_sweep

    paper = paper_sweep("fcn3x256-mnist")
    found = lx.compare({"paper": paper, "ours": "fcn3x256-digits"}, progress=False)
    assert found.table["tested"].tolist() == [False, True]
    expected = verdicts(paper).values.tolist()
    assert found["stacks/paper"]["verdict"].values.tolist() == expected
    assert np.isnan(found.table["parameters"]["paper"])
    assert "not all of them tested" in comparison_text(found)


class StopHere:
    """Counts what is measured, and interrupts after so many calls."""

    def __init__(self, monkeypatch, after=None):
        self.counted, self.calls = 0, 0
        original = Evaluator.count

        def count(evaluator, replacements, *arguments, **options):
            self.calls += 1
            if after is not None and self.calls > after:
                raise KeyboardInterrupt
            self.counted += len(replacements)
            return original(evaluator, replacements, *arguments, **options)

        monkeypatch.setattr(Evaluator, "count", count)


def three(tmp_path):
    net = toy.ConvNet()
    stacks = {
        f"seed {k}": lx.open_stack(toy.conv_states()[k:] + toy.conv_states()[:k], model=net)
        for k in range(3)
    }
    settings = {"model": net, "data": toy.conv_examples(60), "draws": 1, **QUIET}
    return stacks, {**settings, "store": tmp_path / "kept"}


def test_a_comparison_that_was_stopped_returns_what_is_known_and_goes_on(tmp_path):
    stacks, settings = three(tmp_path)
    whole = lx.compare(stacks, **{**settings, "store": None})
    with pytest.MonkeyPatch.context() as patch:
        first = StopHere(patch, after=5)
        part = lx.compare(stacks, **settings)
    assert part.attrs["complete"] == 0
    assert list(part["stacks"].children) == ["seed 0", "seed 1"]
    assert part.attrs["missing"] == "seed 2"
    assert part.table["complete"].tolist() == [True, False]
    assert "Stopped before: seed 2. Stopped within: seed 1." in comparison_text(part)
    with pytest.MonkeyPatch.context() as patch:
        second = StopHere(patch)
        again = lx.compare(stacks, **settings)
    with pytest.MonkeyPatch.context() as patch:
        third = StopHere(patch)
        lx.compare(stacks, **settings)
    assert first.counted > 0
    assert second.counted > 0
    assert third.counted == 0
    assert again.attrs["complete"] == 1
    for label in stacks:
        one, other = (c[f"stacks/{label}"]["error"] for c in (whole, again))
        xr.testing.assert_identical(one.drop_attrs(), other.drop_attrs())


def test_a_comparison_is_known_part_by_part_and_stops_at_the_next_slice(tmp_path):
    stacks, settings = three(tmp_path)
    settings = {k: v for k, v in settings.items() if k not in ("store", "progress")}
    ready = lx.open_sweep("fcn3x256-digits")
    members = {"ready": ready, **stacks}
    own = {name: dict.fromkeys(stacks, settings[name]) for name in ("model", "data")}
    settings |= own
    whole = lx.compare(members, **settings, progress=False)
    with pytest.MonkeyPatch.context() as patch:
        seen = StopHere(patch)
        parts = iter(lx.compare_parts(members, **settings, batch_size=32))
        shares, steps = [], []
        for part in parts:
            found = part.dataset()
            shares.append(part.done / part.total)
            steps.append((len(found["stacks"].children), int(found.attrs["complete"])))
            assert list(found.table.index) == list(members)[: steps[-1][0]]
        assert shares == sorted(shares)
        assert (shares[0], shares[-1]) == (0, 1)
        assert steps == sorted(steps)
        assert [one for one, _ in steps].count(2) > 4  # 60 examples in slices of 32, 2 layers
        assert steps[-1] == (4, 1)
        assert steps[-3] == (4, 0)
        for label in stacks:  # slices of another size round otherwise
            one, other = (c[f"stacks/{label}"]["error"] for c in (whole, found))
            np.testing.assert_allclose(one, other, atol=2 / 60)
        every = seen.calls
        parts = lx.compare_parts(members, **settings, batch_size=32)
        for part in parts:
            if len(part.dataset()["stacks"].children) == 3:
                break
        stopped = part.dataset()
        assert every < seen.calls < 2 * every
    assert stopped.attrs["complete"] == 0
    assert stopped.attrs["missing"] == "seed 2"
    assert stopped.table["complete"].tolist() == [True, True, False]


def test_a_network_that_is_loaded_already_is_not_loaded_again(monkeypatch):
    net = toy.Switch()
    stack = lx.open_stack(toy.switch_states(), model=net)
    loaded = Evaluator(stack, model=net, data=toy.one_hot_examples(), device="cpu")
    expected = lx.compare(
        {"switch": stack}, model=net, data=toy.one_hot_examples(), draws=0, **QUIET
    )
    monkeypatch.setattr("explorer.engine.evaluator.Evaluator", None)
    *_, last = lx.compare_parts({"switch": stack}, draws=0, loaded={"switch": loaded})
    xr.testing.assert_identical(
        last.dataset()["stacks/switch"].to_dataset(), expected["stacks/switch"].to_dataset()
    )


def test_effective_parameters_are_searched_for_once_and_then_kept(tmp_path):
    net = toy.Switch()
    stack = lx.open_stack(toy.switch_states(), model=net)
    settings = {"model": net, "data": toy.one_hot_examples(), "draws": 0, "store": tmp_path}
    settings |= {**QUIET, "effective": True, "margin": 0.1}
    found = lx.compare({"switch": stack}, **settings).table
    direct = lx.effective_parameters(
        stack, model=net, data=toy.one_hot_examples(), margin=0.1, **QUIET
    )
    assert found["effective_parameters"].item() == direct["effective_parameters"].item() == 12
    assert found["effective_share"].item() == 0.5
    with pytest.MonkeyPatch.context() as patch:
        counted = StopHere(patch)
        again = lx.compare({"switch": stack}, **settings).table
        assert counted.counted == 0
        lx.compare({"switch": stack}, **{**settings, "margin": 0.9})
        assert counted.counted > 0
    assert again.equals(found)
    (kept,) = tmp_path.glob("*.json")
    kept.write_text("{", encoding="utf-8")
    assert lx.compare({"switch": stack}, **settings).table.equals(found)


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stacks", "options", "error", "match"),
    [
        ([], {}, UsageError, "There are no stacks"),
        ({"a/b": "fcn3x256-digits"}, {}, UsageError, "called 'a/b'"),
        ({"": "fcn3x256-digits"}, {}, UsageError, "called ''"),
        ("nothing of this name", {}, UnknownNameError, "nothing of this name"),
        ([xr.Dataset({"x": ("a", [1])})], {}, UsageError, "is a Dataset over a"),
        ("fcn3x256-digits", {"data": {"vgg": 1}}, UnknownNameError, "stack for data= 'vgg'"),
        ("fcn3x256-digits", {"threshold": 5}, UsageError, "threshold is 5"),
        ("fcn3x256-digits", {"level": 2}, UsageError, "level is 2"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_anything_is_measured(
    stacks, options, error, match
):
    with pytest.raises(error, match=match):
        lx.compare(stacks, progress=False, **options)


# --- what is shown --------------------------------------------------------------------------------


def test_multiples_share_columns_height_and_scale_and_blank_what_is_not_there(linear, relatives):
    pair = lx.compare(
        {
            "a": lx.open_sweep("fcn3x256-digits"),
            "b": lx.open_sweep("resnet18-digits").isel(epoch=[1, 4, -1]),
        },
        progress=False,
    )
    one, other = multiples_of(pair)
    assert one.x_range is other.x_range
    assert one.height == other.height
    cells = [plot.renderers[0].data_source.data for plot in (one, other)]
    assert max(cells[0]["y"]) == 3
    assert max(cells[1]["y"]) == 9
    ticks = other.xaxis[0].major_label_overrides
    assert {ticks[x] for x in cells[1]["x"]} == {"ReRnd", "1", "5", "100"}
    for data in cells:
        by_place = dict(zip(zip(data["x"], data["y"], strict=True), data["fill"], strict=True))
        assert by_place[max(x for x, _ in by_place), 0] == "#ffffff"  # trained: no damage
    assert "layer1 critical" in one.html_attributes["aria-label"]
    for found in (linear, relatives, pair):
        assert across_figure(found) is not None


def test_stacks_that_count_steps_and_epochs_are_lined_up_by_their_share_of_the_training():
    sweep = lx.open_sweep("fcn3x256-digits")
    steps = sweep.assign_coords(epoch=sweep["epoch"] * 7)
    steps.attrs |= {"checkpoint_unit": "step", "final_epoch": 700}
    found = shared_columns({"a": sweep, "b": steps})
    assert found.axis == "share of the training"
    assert found.place(sweep, 8) == found.place(steps, 56)
    assert found.labels[-1] == "100 %"


def test_the_page_names_every_stack_and_layer_and_lets_no_name_out(linear, tmp_path):
    sweep = lx.open_sweep("fcn3x256-digits").isel(epoch=[0, -1])
    bad = "<script>x"
    named = sweep.assign_coords(layer=["a", bad, "$$c$$", "d"])
    page = comparison_page(lx.compare({bad: named, "ours": sweep}, progress=False))
    assert "<script>x" not in page
    assert "&lt;script&gt;x" in page
    assert all(mark in page for mark in MARKS.values())


def test_the_command_writes_page_data_and_table(capsys, tmp_path):
    files = [str(tmp_path / name) for name in ("c.html", "c.nc", "c.csv")]
    arguments = ["compare", "one=fcn3x256-digits", "fcn3x256-digits", "--epochs", "0", "100"]
    assert main([*arguments, "--quiet", "--out", *files]) == 0
    said = capsys.readouterr().out
    assert "one" in said
    assert "rank agreement" in said
    with xr.open_datatree(files[1], engine="h5netcdf") as found:
        assert found["stacks/one"]["error"].sizes["epoch"] == 2
        assert found["summary"]["critical"].sizes["stack"] == 2
    assert (tmp_path / "c.csv").read_text().startswith("stack,title,")
    assert (tmp_path / "c.html").read_text().rstrip().endswith("</html>")
    assert main([*arguments, "--out", str(tmp_path / "c.pdf")]) == 2
    assert "c.pdf cannot be written" in capsys.readouterr().err


def test_a_notebook_shows_the_table(linear):
    page = linear._repr_html_()
    assert "Comparison of 2 stacks" in page
    assert "short" in page


# --- every kind of difference, trained ------------------------------------------------------------

SMALL = {"dataset": "digits16", "inputs": 256, "width": 16, "learning_rate": 0.1, "keep": "0,1,3"}
KINDS = {
    "base": {},
    "seed": {"seed": 1},
    "width": {"width": 32},
    "depth": {"depth": 1},
    "BatchNorm": {"batchnorm": 1},
    "random labels": {"label_noise": 1.0, "augment": False},
}
"""Label → what differs; `seed` is an argument of its own."""


@pytest.mark.slow
def test_widths_depths_seeds_normalisation_and_random_labels_stand_beside_each_other(tmp_path):
    folders = {}
    for label, changes in KINDS.items():
        settings = {**SMALL, **changes}
        options = {"epochs": 6, "seed": settings.pop("seed", 0), "settings": settings}
        folders[label] = lx.train(
            "fcn3x256-digits", out=tmp_path / label, device="cpu", progress=False, **options
        )
    noisy = load_training_set("digits16", augment=False, label_noise=1.0, seed=0)
    found = lx.compare(
        folders, data={"random labels": (noisy.plain, noisy.labels)}, effective=True, **QUIET
    )
    table = found.table
    assert table.index.tolist() == list(KINDS)
    assert table["layers"].tolist() == [4, 4, 4, 2, 4, 4]
    assert table["parameters"]["BatchNorm"] == table["parameters"]["base"] + 2 * 3 * 16
    assert table["parameters"]["width"] > table["parameters"]["base"]
    learned = table.drop("random labels")  # of which so few epochs learn next to nothing
    assert learned["rank_agreement"].isna().tolist() == [k == "depth" for k in learned.index]
    assert (learned["final_error"] < learned["chance_error"]).all()
    assert np.isfinite(learned["mean_rerandomized_damage"]).all()
    assert (table["effective_parameters"] <= table["parameters"]).all()
    assert found["stacks/random labels"].attrs["examples"] == 1437
    assert len(multiples_of(found)) == len(KINDS)
