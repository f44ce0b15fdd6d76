"""Networks that others have trained, with one checkpoint: torchvision and timm by name."""

from __future__ import annotations

import hashlib
import importlib.machinery
import io
import sys
import types

import numpy as np
import pytest
import torch
from safetensors.numpy import save
from torch import nn
from torchvision import models

import explorer as lx
from explorer.engine.evaluator import Evaluator
from explorer.engine.interventions import FreshDraw, Intervention, Moments, Zeros
from explorer.engine.verdicts import verdicts
from explorer.errors import CheckpointError, StackError, UnknownNameError
from explorer.weights.pretrained import is_pretrained_name
from explorer.weights.stack import content_hash, read_epoch
from tests.dataset_files import serving
from tests.hub_server import hub_server

SHORT = "squeezenet1_1"
NAME = f"torchvision/{SHORT}@IMAGENET1K_V1"


@pytest.fixture(scope="module")
def state():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return models.squeezenet1_1().state_dict()


@pytest.fixture(scope="module")
def content(state):
    stream = io.BytesIO()
    torch.save(state, stream)
    return stream.getvalue()


@pytest.fixture
def server(content, monkeypatch, tmp_path):
    """A server in the place of torchvision's, and an empty folder for weights."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    with serving() as server:
        file = f"{SHORT}-{hashlib.sha256(content).hexdigest()[:8]}.pth"
        server.files[f"/{file}"] = content
        fake = types.SimpleNamespace(
            name="IMAGENET1K_V1", url=server.address + file, meta={"_file_size": 4.73}
        )
        known = types.SimpleNamespace(__members__={"IMAGENET1K_V1": fake, "DEFAULT": fake})
        monkeypatch.setattr(models, "get_model_weights", lambda _name: known)
        server.url = fake.url
        server.weights = fake
        yield server


@pytest.fixture(scope="module")
def data():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(4, 3, 40, 40, generator=generator), torch.arange(4)


def test_opening_downloads_nothing_and_says_what_reading_costs(server, state):
    stack = lx.open_stack(NAME)
    assert stack.epoch.values.tolist() == [1]
    assert stack.attrs["checkpoint_unit"] == "checkpoint"
    assert stack.attrs["family"] == f"torchvision/{SHORT}"
    assert stack.attrs["title"] == f"{SHORT}, weights IMAGENET1K_V1 of torchvision, 5.0 MB"
    content_hash(stack)
    assert "squeezenet1_1" in stack._repr_html_()
    assert server.asked == []
    found = read_epoch(stack, 1)
    assert list(found) == list(state)
    assert all(np.array_equal(found[n], state[n].numpy()) for n in state)
    assert len(server.asked) == 1
    read_epoch(lx.open_stack(f"torchvision/{SHORT}@DEFAULT"), 1)
    assert len(server.asked) == 1  # it is there, where torchvision looks for it too


def test_a_file_with_another_hash_is_refused(server):
    path = "/" + server.url.rpartition("/")[2]
    server.files[path] = server.files[path][:-1] + b"\1"
    stack = lx.open_stack(NAME)
    with pytest.raises(CheckpointError, match=r"sent another file, with sha256"):
        read_epoch(stack, 1)


def test_an_address_without_a_hash_is_not_trusted(server):
    server.weights.url = server.address + "weights.pth"
    with pytest.raises(CheckpointError, match=r"holds no hash"):
        read_epoch(lx.open_stack(NAME), 1)
    assert server.asked == []


def test_every_address_of_torchvision_ends_in_a_hash():
    from explorer.weights.pretrained import HASH_IN_NAME

    names = models.list_models(module=models)
    found = [w.url for name in names for w in models.get_model_weights(name)]
    assert len(found) >= 100
    assert [url for url in found if not HASH_IN_NAME.search(url)] == []


def test_what_older_files_lack_or_name_otherwise_is_corrected(server, monkeypatch):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        new = models.densenet121().state_dict()
    old = {
        n.replace(".norm1.", ".norm.1.").replace(".conv2.", ".conv.2."): t
        for n, t in new.items()
        if not n.endswith("num_batches_tracked")
    }
    stream = io.BytesIO()
    torch.save(old, stream, _use_new_zipfile_serialization=False)
    file = f"densenet121-{hashlib.sha256(stream.getvalue()).hexdigest()[:8]}.pth"
    server.files[f"/{file}"] = stream.getvalue()
    server.weights.url = server.address + file
    found = read_epoch(lx.open_stack("torchvision/densenet121@IMAGENET1K_V1"), 1)
    assert all(np.array_equal(found[n], t.numpy()) for n, t in new.items())


def test_names_and_tags_that_do_not_exist_are_refused_with_those_that_do(server):
    with pytest.raises(UnknownNameError, match=r"no weights .*@V3'(.|\n)*@IMAGENET1K_V1"):
        lx.open_stack(f"torchvision/{SHORT}@V3")
    with pytest.raises(UnknownNameError, match=r"no family 'torchvision/squeezenet9'"):
        lx.open_stack("torchvision/squeezenet9@DEFAULT")
    with pytest.raises(StackError, match=r"changes googlenet"):
        lx.open_stack("torchvision/googlenet@DEFAULT")


def test_everything_but_an_earlier_epoch_can_be_measured(server, data):
    stack = lx.open_stack(NAME)
    run = Evaluator(stack, data=data, device="cpu")
    network = models.squeezenet1_1().eval()
    network.load_state_dict({n: torch.from_numpy(a) for n, a in read_epoch(stack, 1).items()})
    with torch.no_grad():
        errors = int((network(data[0]).argmax(1) != data[1]).sum())
    assert run.result(Intervention(())).errors == errors
    before = run.result(Intervention(()))
    for source in (FreshDraw(), Moments(), Zeros()):
        after = run.result(Intervention((("classifier.1", source),)))
        assert after.exact
        assert after.loss != before.loss


def test_a_sweep_and_distances_of_one_checkpoint(server, data):
    stack = lx.open_stack(NAME)
    layers = ["features.0", "classifier.1"]
    found = lx.sweep(stack, data=data, layers=layers, draws=1, device="cpu", progress=False)
    assert (found.error == found.attrs["final_error"]).all()
    assert found.rerandomized_error.notnull().all()
    assert set(verdicts(found).values) == {"not known"}  # nothing is known of earlier values
    apart = lx.distances(stack, draws=1)
    assert (apart.l2 == 0).all()
    assert (apart.fresh_l2.sel(layer="classifier.1") > 0).all()


# --- timm -----------------------------------------------------------------------------------------


class Tiny(nn.Module):
    """What the stand-in for timm makes."""

    def __init__(self, classes):
        super().__init__()
        self.head = nn.Linear(4, classes)
        self.default_cfg = {"input_size": (1, 2, 2)}

    def forward(self, images):
        return self.head(images.flatten(1))


@pytest.fixture
def timm(monkeypatch):
    """Put a stand-in with timm's functions in its place."""
    pytest.importorskip("huggingface_hub", reason="needs the extra [hub]")
    module, inner = types.ModuleType("timm"), types.ModuleType("timm.models")
    module.__spec__ = importlib.machinery.ModuleSpec("timm", None)
    module.is_model = lambda name: name.partition(".")[0] == "tiny_net"
    module.list_models = lambda: ["tiny_net"]
    module.create_model = lambda name, pretrained, num_classes: Tiny(num_classes)

    def config(name):
        tag = name.partition(".")[2]
        if tag != "a1_in1k":
            raise RuntimeError(f"Invalid pretrained tag ({tag}) for tiny_net.")
        return types.SimpleNamespace(tag=tag, hf_hub_id=f"timm/{name}", num_classes=3)

    inner.get_pretrained_cfg = config
    monkeypatch.setitem(sys.modules, "timm", module)
    monkeypatch.setitem(sys.modules, "timm.models", inner)


def test_weights_of_timm_come_from_the_hub(timm, tmp_path):
    from explorer.inventory.hub import Hub

    weights = {"head.weight": np.eye(3, 4, dtype=np.float32), "head.bias": np.zeros(3, np.float32)}
    with hub_server() as server:
        server.put("timm/tiny_net.a1_in1k", "main", {"model.safetensors": save(weights)})
        hub = Hub(folder=tmp_path, endpoint=server.address, progress=False)
        stack = lx.open_stack("timm/tiny_net@a1_in1k", hub=hub)
        assert stack.attrs["family"] == "timm/tiny_net.a1_in1k"
        assert server.downloads() == []
        data = (torch.eye(4)[:3].reshape(3, 1, 2, 2), torch.arange(3))
        run = Evaluator(stack, data=data, device="cpu")
        assert run.result(Intervention(())).errors == 0
        assert run.result(Intervention((("head", Zeros()),))).errors == 2
        with pytest.raises(UnknownNameError, match=r"no weights 'timm/tiny_net@other'"):
            lx.open_stack("timm/tiny_net@other", hub=hub)


def test_a_library_and_an_at_sign_make_the_name_of_weights_and_neither_alone_does(tmp_path):
    assert is_pretrained_name(NAME)
    assert is_pretrained_name("timm/resnet18@a1_in1k")
    for other in ("runs@2", "torchvision/resnet18", "timm/mine", tmp_path / "timm" / "a@b", None):
        assert not is_pretrained_name(other)
