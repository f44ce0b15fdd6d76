"""The manifest: what is accepted, and what is refused with file and key named."""

from __future__ import annotations

import copy
import json
import subprocess
import sys

import pytest

import explorer as lx
from explorer.errors import ManifestError, UnknownNameError
from explorer.inventory import manifest
from explorer.inventory.entries import TensorSpec
from explorer.inventory.manifest import SCHEMA_FILE, load_manifest, parse_manifest
from explorer.inventory.store import BUNDLED_FOLDER, manifest_path, verified
from explorer.training.recipes import EXPERIMENTS
from explorer.weights.checkpoints import SafetensorsCheckpoint
from explorer.weights.families.known import find_family

BUNDLED = "fcn3x256-digits"


@pytest.fixture
def content():
    return json.loads(manifest_path().read_text(encoding="utf-8"))


def parsed(content, tmp_path):
    return parse_manifest(content, tmp_path / "stack.json", tmp_path)


def refuse(content, tmp_path, match):
    with pytest.raises(ManifestError, match=match):
        parsed(content, tmp_path)


def test_the_catalog_lists_the_bundled_stack_with_its_final_error():
    frame = lx.catalog()
    assert frame.loc[BUNDLED, "checkpoints"] == 8
    assert frame.loc[BUNDLED, "parameters"] == 335_114
    assert 0.02 < frame.loc[BUNDLED, "test_error"] < 0.05


def test_every_bundled_file_is_as_the_manifest_says():
    entry = load_manifest()[BUNDLED]
    assert [c.epoch for c in entry.checkpoints] == [0, 1, 2, 3, 8, 40, 90, 100]
    for checkpoint in entry.checkpoints:
        verified(checkpoint.record)
        specs = SafetensorsCheckpoint(checkpoint.record).specs()
        assert {n: s.shape for n, s in specs.items()} == {
            n: s.shape for n, s in entry.tensors.items()
        }
    verified(entry.sweep)


def test_the_manifest_and_the_recipe_agree():
    entry, experiment = load_manifest()[BUNDLED], EXPERIMENTS[BUNDLED]
    assert dict(entry.recipe) == experiment.recipe.as_json()
    assert (entry.seed, entry.dataset) == (experiment.seed, experiment.dataset)
    assert tuple(c.epoch for c in entry.checkpoints) == experiment.keep
    assert dict(entry.layers) == find_family(entry.family).layers(entry.sizes)


def test_a_key_of_the_schema_that_is_not_described_by_name_has_a_description():
    """Documented: every property below a stack says what it is, or is named in the schema."""
    schema = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
    plain = {"name", "sizes", "epochs", "batch_size", "momentum", "weight_decay", "decay_factor"}
    properties = schema["$defs"]["stack"]["properties"]
    assert len(properties) == 15
    for key in ("folder", "layers", "tensors", "final", "sweep"):
        assert properties[key]["description"]
    recipe = properties["recipe"]["properties"]
    assert all("description" in recipe[key] or key in plain for key in recipe)


def test_an_unknown_stack_is_refused_with_the_nearest_name():
    with pytest.raises(UnknownNameError, match=r"no stack 'fcn3x256'(.|\n)*'fcn3x256-digits'"):
        lx.open_stack("fcn3x256")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda s: s.update(colour="red"), r"stack.json: stacks\[0\]: .*'colour' was unexpected"),
        (lambda s: s.pop("seed"), r"stacks\[0\]: 'seed' is a required property"),
        (
            lambda s: s["checkpoints"][1].pop("sha256"),
            r"stacks\[0\].checkpoints\[1\]: 'sha256' is a required property",
        ),
        (
            lambda s: s["checkpoints"][1].update(sha256="abc"),
            r"checkpoints\[1\].sha256: 'abc' does not match",
        ),
        (
            lambda s: s["checkpoints"][2].update(epoch=1),
            r"checkpoints\[2\].epoch: 1 comes after 1",
        ),
        (
            lambda s: s["checkpoints"][0].update(bytes=12),
            r"checkpoints\[0\].bytes: 12 bytes cannot hold",
        ),
        (
            lambda s: s["checkpoints"][0].update(file="../../evil"),
            r"checkpoints\[0\].file is '../../evil', which leaves",
        ),
        (
            lambda s: s["checkpoints"][0].update(file="/etc/passwd"),
            r"file is '/etc/passwd', which leaves",
        ),
        (
            lambda s: s["checkpoints"][0].update(file="C:\\x"),
            r"file is 'C:\\\\x', which leaves",
        ),
        (
            lambda s: s["checkpoints"][0].update(file="a\\..\\..\\x"),
            r"which leaves its folder",
        ),
        (
            lambda s: s["checkpoints"][0].update(file="con.safetensors"),
            r"checkpoints\[0\].file is 'con.safetensors', which names the Windows device",
        ),
        (
            lambda s: s["sweep"].update(file="sweep.nc:stream"),
            r"stacks\[0\].sweep.file is 'sweep.nc:stream', which has a colon",
        ),
        (lambda s: s.update(folder="../up"), r"stacks\[0\].folder is '../up', which leaves"),
        (
            lambda s: s["layers"].pop("layer1"),
            r"stacks\[0\].layers: layer1.bias, layer1.weight is not in exactly one",
        ),
        (
            lambda s: s["layers"].update(again=["layer1.bias"]),
            r"layers: layer1.bias is not in exactly one layer",
        ),
        (
            lambda s: s["final"].update(test_error=3.1),
            r"final.test_error: 3.1 is greater than the maximum of 1",
        ),
    ],
)
def test_a_faulty_manifest_is_refused_with_file_and_key(content, tmp_path, change, match):
    change(content["stacks"][0])
    refuse(content, tmp_path, match)


def test_two_stacks_of_one_name_are_refused(content, tmp_path):
    content["stacks"].append(copy.deepcopy(content["stacks"][0]))
    again = len(content["stacks"]) - 1
    refuse(content, tmp_path, rf"stacks\[{again}\].name: 'fcn3x256-digits' stands there twice")


def test_a_key_that_stands_twice_is_refused(tmp_path):
    path = tmp_path / "stack.json"
    path.write_text('{"schema_version": 1, "stacks": [], "stacks": []}', encoding="utf-8")
    with pytest.raises(ManifestError, match=r"stack.json: the key 'stacks' stands twice"):
        load_manifest(path)


def test_what_is_not_json_is_refused_with_its_line(tmp_path):
    path = tmp_path / "stack.json"
    path.write_text('{\n"schema_version": 1,\n}', encoding="utf-8")
    with pytest.raises(ManifestError, match=r"stack.json, line 3"):
        load_manifest(path)


def test_a_missing_manifest_says_where_it_was_looked_for(tmp_path):
    with pytest.raises(ManifestError, match=r"nothing.json cannot be read"):
        load_manifest(tmp_path / "nothing.json")


def test_our_own_manifest_is_read_without_the_schema_and_follows_it(monkeypatch, tmp_path):
    code = (
        "import sys; from explorer.inventory.manifest import load_manifest; load_manifest();"
        "print('jsonschema' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "False"
    own = json.loads(manifest_path().read_text(encoding="utf-8"))
    assert parse_manifest(own, manifest_path(), BUNDLED_FOLDER) == load_manifest()
    del own["stacks"][0]["family"]
    broken = tmp_path / "manifest.json"
    broken.write_text(json.dumps(own), encoding="utf-8")
    monkeypatch.setattr(manifest, "manifest_path", lambda: broken)
    with pytest.raises(ManifestError, match="'family' is a required property"):
        load_manifest()


def test_a_tensor_has_as_many_bytes_as_its_numbers_take():
    sizes = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I16": 2, "U8": 1}
    for dtype, size in sizes.items():
        assert TensorSpec(dtype, (3, 5)).bytes == 15 * size
    assert TensorSpec("F32", ()).bytes == 4
