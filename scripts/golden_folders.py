"""Make the folders of checkpoints in tests/golden with the libraries whose users have such folders.

They are in the repository, so that the tests need none of these libraries. To make them anew:

    pip install accelerate lightning timm transformers
    python scripts/golden_folders.py

open_lth and GPT-NeoX cannot be installed as packages: what they write is written here by hand, as
their sources do it, and `made-by.json` says so.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import lightning
import safetensors.torch
import timm.utils
import torch
import transformers
from torch import nn

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests import toy  # noqa: E402 - the path comes first

GOLDEN = ROOT / "tests" / "golden"
EPOCHS = 3
STEPS = 2  # per epoch


def network(epoch: int) -> toy.Switch:
    """A network whose bias says after how many completed epochs it was saved."""
    net = toy.Switch()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.fill_(float(epoch))
    return net


def rows() -> torch.utils.data.TensorDataset:
    """Six examples, two steps of three."""
    return torch.utils.data.TensorDataset(torch.ones(6, toy.CLASSES), torch.zeros(6).long())


class Wrapped(lightning.LightningModule):
    """Holds the network under the name ``model``, as most do; each step adds a half."""

    def __init__(self) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.model = network(0)

    def training_step(self, batch: list[torch.Tensor], number: int) -> torch.Tensor:
        return -sum(p.sum() for p in self.model.parameters())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.model.parameters(), lr=1 / STEPS)


def lightning_run(folder: Path) -> None:
    """Files such as epoch=0-step=2.ckpt, and last.ckpt."""
    saver = lightning.pytorch.callbacks.ModelCheckpoint(folder, save_top_k=-1, save_last=True)
    lightning.Trainer(
        max_epochs=EPOCHS,
        callbacks=[saver],
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(Wrapped(), torch.utils.data.DataLoader(rows(), batch_size=3))


class Answering(nn.Module):
    """The network as the Trainer calls it: a loss for named inputs; each step adds a half."""

    def __init__(self) -> None:
        super().__init__()
        self.model = network(0)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": -sum(p.sum() for p in self.model.parameters())}


def trainer_run(folder: Path) -> None:
    """Folders checkpoint-2, checkpoint-4, … with model.safetensors and much beside it."""
    arguments = transformers.TrainingArguments(
        str(folder),
        num_train_epochs=EPOCHS,
        per_device_train_batch_size=3,
        save_strategy="epoch",
        learning_rate=1 / STEPS,
        max_grad_norm=0.0,
        lr_scheduler_type="constant",
        optim="sgd",
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
    )
    data = [{"x": torch.ones(toy.CLASSES)} for _ in range(6)]
    transformers.Trainer(Answering(), arguments, train_dataset=data).train()
    for path in folder.glob("*/rng_state.pth"):
        path.unlink()  # large, and nothing that a reader looks at


class Tiny(transformers.PreTrainedModel):
    """A model of transformers, whose way of dividing files is wanted."""

    config_class = transformers.PretrainedConfig

    def __init__(self, config: transformers.PretrainedConfig) -> None:
        super().__init__(config)
        self.first = nn.Linear(8, 8)
        self.second = nn.Linear(8, 8)
        self.post_init()


def sharded(folder: Path) -> None:
    """One model in several files with an index."""
    torch.manual_seed(0)
    Tiny(transformers.PretrainedConfig()).save_pretrained(folder, max_shard_size=300)
    for extra in ("config.json", "generation_config.json"):
        (folder / extra).unlink(missing_ok=True)


def timm_run(folder: Path) -> None:
    """Files such as checkpoint-0.pth.tar, with the arguments of the run as a Namespace beside."""
    folder.mkdir(parents=True)
    for epoch in range(EPOCHS):
        net = network(epoch + 1)
        saver = timm.utils.CheckpointSaver(
            net,
            torch.optim.SGD(net.parameters(), lr=0.1),
            args=argparse.Namespace(model="switch", lr=0.1),
            model_ema=timm.utils.ModelEmaV2(net),
            checkpoint_dir=str(folder),
            recovery_dir=str(folder),
        )
        saver.save_checkpoint(epoch, metric=float(epoch))


def open_lth_run(folder: Path) -> None:
    """Files such as model_ep3_it0.pth, by hand: models/base.py saves the bare state dict."""
    folder.mkdir(parents=True)
    for epoch in range(EPOCHS + 1):
        torch.save(network(epoch).state_dict(), folder / f"model_ep{epoch}_it0.pth")
    state = {"ep": EPOCHS, "it": 0, "model_state_dict": network(EPOCHS).state_dict()}
    torch.save(state, folder / "checkpoint.pth")
    torch.save({"first.weight": torch.ones(3, 3)}, folder / "mask.pth")


def neox_run(folder: Path) -> None:
    """Folders such as global_step1000 with a file per layer, by hand.

    DeepSpeed's PipelineModule saves the bare state dict of each layer.
    """
    for step, epoch in ((0, 0), (1, 1), (1000, 2)):
        place = folder / f"global_step{step}"
        place.mkdir(parents=True)
        for number, layer in ((0, network(epoch).first), (2, network(epoch).second)):
            name = f"layer_{number:02d}-model_00-model_states.pt"
            torch.save(layer.state_dict(), place / name)
        torch.save({"args": {}, "dp_world_size": 1}, place / "mp_rank_00_model_states.pt")


def torch_run(folder: Path) -> None:
    """State dicts as torch saves them."""
    folder.mkdir(parents=True)
    for epoch in range(EPOCHS):
        torch.save(network(epoch).state_dict(), folder / f"epoch-{epoch}.pt")


def old_torch_run(folder: Path) -> None:
    """State dicts as torch before 1.6 saved them."""
    folder.mkdir(parents=True)
    for epoch in range(EPOCHS):
        path = folder / f"epoch-{epoch}.pt"
        torch.save(network(epoch).state_dict(), path, _use_new_zipfile_serialization=False)


def safetensors_run(folder: Path) -> None:
    """State dicts as safetensors saves them, in bfloat16."""
    folder.mkdir(parents=True)
    for epoch in range(EPOCHS):
        state = network(epoch).bfloat16().state_dict()
        safetensors.torch.save_file(state, folder / f"epoch-{epoch}.safetensors")


RUNS = {
    "lightning": lightning_run,
    "trainer": trainer_run,
    "sharded": sharded,
    "timm": timm_run,
    "open_lth": open_lth_run,
    "neox": neox_run,
    "torch": torch_run,
    "torch-old": old_torch_run,
    "safetensors": safetensors_run,
}
BY_HAND = ("open_lth", "neox")


def main() -> None:
    """Make every folder anew."""
    shutil.rmtree(GOLDEN, ignore_errors=True)
    with tempfile.TemporaryDirectory() as place, contextlib.chdir(place):
        for name, run in RUNS.items():
            run(Path(name))  # relative: some libraries write down where they are
        shutil.copytree(place, GOLDEN)
    made = {name: version(name) for name in ("lightning", "safetensors", "timm", "transformers")}
    content = {"torch": torch.__version__, **made, "by hand": BY_HAND}
    (GOLDEN / "made-by.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
