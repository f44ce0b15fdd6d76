"""Make the bundled stacks: train, sweep, and write their manifest entries.

Run with ``make bundle`` after a recipe has changed. Everything in `explorer/inventory/bundled/` and
`pretrained_manifest.json` comes from here.
"""

from __future__ import annotations

import json
import sys

from explorer.api import save_netcdf
from explorer.engine.sweep import sweep
from explorer.inventory.store import BUNDLED_FOLDER, STACK_FILE, manifest_path, placed
from explorer.training.recipes import EXPERIMENTS
from explorer.training.train import train
from explorer.weights.folder import file_entry
from explorer.weights.stack import open_stack

SWEEP_FILE = "sweep.nc"


def main(names: list[str]) -> None:
    """Bundle the named experiments, or all of them."""
    path = manifest_path()
    content = {"schema_version": 1, "stacks": []}
    if path.exists():
        content = json.loads(path.read_text(encoding="utf-8"))
    for name in names or list(EXPERIMENTS):
        entry = bundle(name)
        content["stacks"] = [s for s in content["stacks"] if s["name"] != name] + [entry]
    with placed(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def bundle(name: str) -> dict[str, object]:
    """Train and sweep one experiment; returns its manifest entry."""
    folder = train(name, out=BUNDLED_FOLDER / name, device="cpu", resume=False)
    entry: dict[str, object] = json.loads((folder / STACK_FILE).read_text())["stacks"][0]
    result = sweep(open_stack(folder), device="cpu")
    save_netcdf(result, folder / SWEEP_FILE)
    (folder / STACK_FILE).unlink()  # the manifest says the same
    return {**entry, "folder": name, "sweep": file_entry(folder, SWEEP_FILE)}


if __name__ == "__main__":
    main(sys.argv[1:])
