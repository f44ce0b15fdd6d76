"""Make the bundled stacks: train, sweep, and write their manifest entries.

Run with ``make bundle`` after a recipe has changed. Everything in `explorer/inventory/bundled/` and
`pretrained_manifest.json` comes from here: ``python scripts/bundle.py`` bundles all that is to be
bundled, ``… NAME`` some of it, and ``… --recipes`` trains nothing and only lists again what else
can be trained.
"""

from __future__ import annotations

import json
import sys

from explorer.engine.results import as_json
from explorer.engine.sweep import sweep
from explorer.inventory.placing import placed
from explorer.inventory.store import BUNDLED_FOLDER, STACK_FILE, manifest_path
from explorer.training.recipes import BUNDLED, EXPERIMENTS, Experiment
from explorer.training.train import CITATION, train
from explorer.weights.families.known import find_family
from explorer.weights.folder import file_entry
from explorer.weights.stack import open_stack

SWEEP_FILE = "sweep.json"


def main(arguments: list[str]) -> None:
    """Bundle the named experiments, or all of them."""
    path = manifest_path()
    content = {"schema_version": 1, "stacks": []}
    if path.exists():
        content = json.loads(path.read_text(encoding="utf-8"))
    names = [] if arguments == ["--recipes"] else arguments or list(BUNDLED)
    entries = {stack["name"]: stack for stack in content["stacks"]}
    for name in names:
        entries[name] = bundle(name)
    content["stacks"] = [entries[name] for name in BUNDLED if name in entries]
    content["recipes"] = [recipe(e) for e in EXPERIMENTS.values() if e.name not in entries]
    with placed(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def recipe(experiment: Experiment) -> dict[str, object]:
    """Manifest entry of an experiment that is not bundled."""
    network = find_family(experiment.family).skeleton(experiment.sizes)
    return {
        "name": experiment.name,
        "title": experiment.title,
        "family": {"name": experiment.family, "sizes": dict(experiment.sizes)},
        "dataset": experiment.dataset,
        "recipe": experiment.recipe.as_json(),
        "seed": experiment.seed,
        "keep": list(experiment.keep),
        "parameters": sum(p.numel() for p in network.parameters()),
        "citation": CITATION,
    }


def bundle(name: str) -> dict[str, object]:
    """Train and sweep one experiment; returns its manifest entry."""
    folder = train(name, out=BUNDLED_FOLDER / name, device="cpu", resume=False)
    entry: dict[str, object] = json.loads((folder / STACK_FILE).read_text())["stacks"][0]
    result = sweep(open_stack(folder), device="cpu")
    with placed(folder / SWEEP_FILE) as temporary:
        temporary.write_text(as_json(result), encoding="utf-8")
    (folder / STACK_FILE).unlink()  # the manifest says the same
    return {**entry, "folder": name, "sweep": file_entry(folder, SWEEP_FILE)}


if __name__ == "__main__":
    main(sys.argv[1:])
