"""The command `explorer`, as a person types it."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import xarray as xr

from explorer import __version__, cli
from explorer.engine.evaluator import Evaluator
from explorer.errors import UsageError
from explorer.stats.distances import MEASURES

STACK = "fcn3x256-digits"
COMMANDS = ("catalog", "data", "train", "sweep", "distances", "report", "lab", "dashboard")
COMMANDS += ("check", "diff", "compare")


def run(capsys, *arguments):
    """Exit status, standard output and standard error of a command."""
    status = cli.main(arguments)
    said = capsys.readouterr()
    return status, said.out, said.err


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--help"])
    said = capsys.readouterr().out
    assert all(command in said for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_has_an_example(command, capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main([command, "--help"])
    assert f"explorer {command}" in capsys.readouterr().out.partition("examples:")[2]


def test_data_lists_and_checks_datasets_and_says_how_to_get_what_is_missing(capsys, tmp_path):
    status, said, _ = run(capsys, "data")
    assert status == 0
    assert {"digits28", "mnist", "cifar10"} <= set(said.split())
    status, said, _ = run(capsys, "data", "digits16")
    assert (status, said.strip()) == (0, "digits16: 1,800 test examples of 1×16×16")
    status, _, complaint = run(capsys, "data", "mnist", "--folder", str(tmp_path))
    assert status == 2
    assert "explorer data mnist --download" in complaint
    assert str(tmp_path) in complaint


def test_data_downloads_when_it_is_told_to(capsys, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "explorer.data.datasets.download_dataset",
        lambda name, folder: asked.append((name, folder)) or tmp_path,
    )
    status, said, _ = run(capsys, "data", "cifar10", "--download", "--folder", "here")
    assert (status, asked) == (0, [("cifar10", "here")])
    assert str(tmp_path) in said


def test_sweep_takes_screen_policy_and_memory(capsys, monkeypatch):
    asked = {}

    def sweep(stack, **options):
        asked.update(options)
        raise UsageError("enough", "seen", "stop")

    monkeypatch.setattr("explorer.sweep", sweep)
    options = ("--screen", "--batchnorm", "recalibrate", "--memory", "1000")
    assert run(capsys, "sweep", STACK, *options)[0] == 2
    assert (asked["screen"], asked["batchnorm"], asked["memory"]) == (True, "recalibrate", 1000)


def test_catalog_lists_the_bundled_stack(capsys):
    status, said, _ = run(capsys, "catalog")
    assert status == 0
    stacks, _, recipes = said.partition("To be trained with explorer train NAME")
    assert STACK in stacks
    assert "335,114" in stacks
    assert "2.9%" in stacks
    rows = {line.split()[0]: line for line in recipes.splitlines()[1:] if line}
    assert "9,750,922  VGG-11 on CIFAR-10, no normalisation · cifar10" in rows["vgg11-cifar10"]
    assert STACK not in rows


def test_sweep_prints_the_table_and_writes_the_data(capsys, tmp_path):
    status, said, progress = run(
        capsys, "sweep", STACK, "--device", "cpu", "--out", str(tmp_path / "s.nc")
    )
    assert status == 0
    rows = {line.split()[0]: line.split()[1:] for line in said.splitlines() if line[:5] == "layer"}
    assert list(rows) == ["layer1", "layer2", "layer3", "layer4"]
    assert rows["layer1"][-1] == "critical"
    assert rows["layer4"][-1] == "robust"
    assert "critical: at the first epoch the error goes more than 10%" in said
    assert "sweep: 100%" in progress
    with xr.open_dataset(tmp_path / "s.nc", engine="h5netcdf") as stored:
        assert stored.attrs["complete"] == 1


def test_an_interrupted_sweep_prints_what_was_measured_and_says_so(capsys, monkeypatch):
    original = Evaluator.count

    def interrupted(self, replacements, tolerance):
        yield next(original(self, replacements, tolerance))
        raise KeyboardInterrupt

    monkeypatch.setattr(Evaluator, "count", interrupted)
    status, said, _ = run(capsys, "sweep", STACK, "--device", "cpu")
    assert status == 130
    assert "estimated: the fewest examples behind a cell are 128 of 1800" in said


def test_distances_prints_the_measure(capsys, tmp_path):
    out = tmp_path / "d.nc"
    status, said, _ = run(capsys, "distances", STACK, "--measure", "linf", "--out", str(out))
    assert status == 0
    assert said.startswith("linf from epoch 0")
    assert out.exists()


def test_every_measure_there_is_can_be_asked_for(capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main(["distances", "--help"])
    assert "{" + ",".join(MEASURES) + "}" in "".join(capsys.readouterr().out.split())


def test_report_writes_the_page_and_the_data(capsys, tmp_path):
    status, said, _ = run(capsys, "report", STACK, "--device", "cpu", "--out", str(tmp_path))
    assert status == 0
    for name in ("report.html", "sweep.nc", "distances.nc"):
        assert str(tmp_path / name) in said
        assert (tmp_path / name).stat().st_size > 1000


def test_train_makes_a_stack_that_sweep_opens(capsys, tmp_path):
    out = str(tmp_path / "run")
    status, said, _ = run(capsys, "train", STACK, "--out", out, "--epochs", "1", "--device", "cpu")
    assert (status, "Stack with epochs [0, 1]" in said) == (0, True)
    assert run(capsys, "sweep", out, "--draws", "0", "--device", "cpu")[0] == 0


def test_train_takes_several_seeds_one_folder_each(capsys, tmp_path):
    options = ("--epochs", "1", "--device", "cpu", "--quiet", "--out", str(tmp_path))
    status, said, progress = run(capsys, "train", STACK, "--seeds", "0,3", *options)
    assert (status, progress) == (0, "")
    assert [line.rpartition(" in ")[2] for line in said.splitlines()] == [
        str(tmp_path / "seed-0"),
        str(tmp_path / "seed-3"),
    ]
    seeds = [json.loads((tmp_path / f"seed-{n}" / "stack.json").read_text()) for n in (0, 3)]
    assert [content["stacks"][0]["seed"] for content in seeds] == [0, 3]


def test_every_option_of_train_reaches_the_stack(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    typed = "--epochs 2 --width 50 --seed 4 --keep 1 --steps 1,2 --device cpu --quiet"
    typed += " --set weight_decay=5e-4 --set batchnorm=1 --set augment=0 --set frozen=layer2,layer3"
    status, said, _ = run(capsys, "train", STACK, *typed.split())
    folder = Path("trained") / STACK
    assert (status, said) == (0, f"Stack with steps [0, 1, 2, 12, 24] in {folder}\n")
    (entry,) = json.loads((folder / "stack.json").read_text())["stacks"]
    recipe, sizes = entry["recipe"], entry["family"]["sizes"]
    assert (recipe["epochs"], recipe["weight_decay"], recipe["augment"]) == (2, 5e-4, False)
    assert recipe["frozen"] == ["layer2", "layer3"]
    assert (sizes["width"], sizes["batchnorm"], entry["seed"]) == (50, 1, 4)


def test_train_goes_on_unless_told_to_begin_anew(capsys, tmp_path):
    command = ("train", STACK, "--out", str(tmp_path), "--device", "cpu", "--quiet", "--epochs")
    assert run(capsys, *command, "1")[0] == 0
    status, _, said = run(capsys, *command, "2")
    assert (status, "begin anew" in said) == (2, True)
    assert run(capsys, *command, "2", "--restart")[0] == 0


def test_train_looks_for_datasets_where_it_is_told(capsys, tmp_path):
    status, _, said = run(
        capsys, "train", "fcn3x256-mnist", "--data", str(tmp_path / "sets"), "--out", str(tmp_path)
    )
    assert (status, str(tmp_path / "sets") in said) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("sweep", "fcn3x256"), ("no stack 'fcn3x256'", "Did you mean 'fcn3x256-digits'")),
        (("sweep", STACK, "--layers", "layer9"), ("no layer 'layer9'", "layer1, layer2")),
        (("sweep", STACK, "--device", "abacus"), ("device 'abacus'", "'auto', 'cpu'")),
        (("sweep", STACK, "--threshold", "7"), ("threshold is 7.0", "Divide a percentage")),
        (("distances", STACK, "--reference", "5"), ("no epoch 5", "0, 1, 2, 3, 8")),
        (("train", "resnet", "--out", "x"), ("no experiment 'resnet'", STACK)),
        (("train", STACK, "--set", "colour=1"), ("no setting 'colour'", "weight_decay, ", "width")),
        (("train", STACK, "--set", "augment"), ("'augment' has no name and value", "key=value")),
        (("train", STACK, "--width", "0.25"), ("width is '0.25'", "A whole number")),
        (("train", STACK, "--seeds", "1;2"), ("seeds are '1;2'", "--seeds 0,1,2")),
        (("sweep", "vgg11-cifar10"), ("a recipe for it", "explorer train vgg11-cifar10")),
    ],
)
def test_bad_input_is_explained_on_standard_error(capsys, arguments, parts):
    status, _, said = run(capsys, *arguments)
    assert status == 2
    assert said.rpartition("explorer: ")[2].count("\n") == 3
    assert all(part in said for part in parts)
    assert "Traceback" not in said


def test_python_m_explorer_is_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "explorer", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == __version__


def test_the_console_script_is_installed():
    (script,) = entry_points(group="console_scripts", name="explorer")
    assert script.load() is cli.main


def test_help_needs_none_of_the_slow_packages():
    code = (
        "import sys; from explorer.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'bokeh', 'numba', 'xarray'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
