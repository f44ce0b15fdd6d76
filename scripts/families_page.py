"""Write docs/families.md: the families, their bundled stacks, and what the paper says of them.

Run with ``make families`` after a family or a bundled stack has changed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import explorer as lx
from explorer.engine.results import open_sweep
from explorer.engine.verdicts import DEFAULT_THRESHOLD, damage, verdicts
from explorer.inventory.manifest import load_manifest
from explorer.weights.families.known import FAMILIES, find_family

PAGE = Path(__file__).parents[1] / "docs" / "families.md"


@dataclass(frozen=True)
class Statement:
    """What the paper's figures show for a family; see docs/decisions/0009."""

    critical: tuple[str, ...]
    """Layers that are destroyed by re-initialisation."""
    either: tuple[str, ...] = ()
    """Layers in between."""
    words: str = ""
    """The statement in one sentence."""


STATEMENTS = {
    "fcn3x256-digits": Statement(("layer1",), words="only the first layer is critical"),
    "vgg11-digits": Statement(
        ("stage1.block1", "stage2.block1", "stage3.block1", "stage3.block2"),
        ("stage4.block1",),
        "stages 1 to 3 are critical, stage 4 half, everything from stage 5 on robust",
    ),
    "resnet18-digits": Statement(
        ("stage0", *(f"stage{s}.resblk1" for s in (1, 2, 3, 4)), "final_linear"),
        words="stem, first block of each stage and output layer are critical, all other blocks "
        "robust even to fresh draws (shown for ResNet-50 with 1,000 classes)",
    ),
}
"""Stack → statement, where the paper's figures have one that could be read."""


def page() -> str:
    """Return the whole page."""
    stacks = [entry for entry in load_manifest().stacks.values() if entry.sweep]
    return "\n".join(
        [
            "# Families and bundled stacks",
            "",
            "Made by `make families`. A layer is critical when its values of the first epoch take "
            f"the error more than {DEFAULT_THRESHOLD:.0%} of the way from the final error to "
            "chance, and mixed when only those of a later epoch do; the threshold is ours. Where "
            "the paper's two words are compared, mixed counts as critical.",
            "",
            "## Families",
            "",
            "| family | sizes and their defaults | default layers | parameters |",
            "|---|---|---|---|",
            *(family_row(name) for name in FAMILIES),
            "| `torchvision/NAME` | classes | one per module | any classifier of "
            "`torchvision.models.list_models()` |",
            "| `timm/NAME` | classes | one per module | where timm is installed |",
            "",
            "## Bundled stacks",
            "",
            "| stack | family | units | parameters | dataset | final error | chance | critical | "
            "mixed | robust to fresh draws | agreement with the paper |",
            "|---|---|---|---|---|---|---|---|---|---|---|",
            *(stack_row(entry) for entry in stacks),
            "",
            "## Test errors, in percent",
            "",
            *(line for entry in stacks for line in table(entry.name)),
        ]
    )


def family_row(name: str) -> str:
    """One line of the table of families, for its default sizes."""
    family = find_family(name)
    sizes = ", ".join(f"{key}={value:g}" for key, value in family.sizes.items())
    layers = list(family.layers(family.sizes))
    shown = layers if len(layers) < 6 else [*layers[:3], "…", *layers[-2:]]
    count = sum(p.numel() for p in family.skeleton(family.sizes).parameters())
    return f"| `{name}` | {sizes} | {', '.join(shown)} ({len(layers)}) | {count:,} |"


def stack_row(entry: object) -> str:
    """One line of the table of stacks."""
    sweep = open_sweep(entry.name)
    found = verdicts(sweep).to_series()
    critical, mixed = (
        [str(layer) for layer, verdict in found.items() if verdict == word]
        for word in ("critical", "mixed")
    )
    chance, final = (float(sweep.attrs[f"{end}_error"]) for end in ("chance", "final"))
    fresh = (sweep["rerandomized_error"].max("draw") - final) / (chance - final)
    immune = [str(layer) for layer in fresh["layer"].values[(fresh <= DEFAULT_THRESHOLD).values]]
    return (
        f"| `{entry.name}` | {entry.family} | {len(found)} | {parameters(entry):,} | "
        f"{entry.dataset} | {final:.1%} | {chance:.1%} | {', '.join(critical) or 'none'} | "
        f"{', '.join(mixed) or 'none'} | {', '.join(immune) or 'none'} | "
        f"{agreement(entry.name, critical + mixed, list(found.index))} |"
    )


def parameters(entry: object) -> int:
    """Number of parameters of a stack's network."""
    return int(lx.catalog().loc[entry.name, "parameters"])


def agreement(name: str, critical: list[str], layers: list[str]) -> str:
    """Compare verdicts with the paper's statement, layer by layer."""
    statement = STATEMENTS.get(name)
    if statement is None:
        return "no statement of the paper could be read for this network"
    judged = [layer for layer in layers if layer not in statement.either]
    differing = [x for x in judged if (x in critical) != (x in statement.critical)]
    text = f"{len(judged) - len(differing)} of {len(judged)} layers ({statement.words})"
    if differing:
        text += "; differing: " + ", ".join(
            f"{x} ({'critical' if x in critical else 'robust'} here)" for x in differing
        )
    return text


def table(name: str) -> list[str]:
    """The sweep of one stack, and how far each layer goes towards chance."""
    sweep = open_sweep(name)
    epochs = sweep["epoch"].values.tolist()
    worst = damage(sweep).max("epoch")
    lines = [
        f"### {name}",
        "",
        f"| layer | ReRnd | {' | '.join(map(str, epochs))} | largest damage |",
        "|---" * (len(epochs) + 3) + "|",
    ]
    for layer in sweep["layer"].values:
        row = sweep.sel(layer=layer)
        fresh = float(row["rerandomized_error"].mean())
        cells = [f"{100 * e:.1f}" for e in (fresh, *row["error"].values.tolist())]
        lines.append(f"| {layer} | {' | '.join(cells)} | {float(worst.sel(layer=layer)):.0%} |")
    curve = [f"{100 * e:.1f}" for e in sweep["fullmodel_error"].values.tolist()]
    return [*lines, f"| fullmodel | – | {' | '.join(curve)} | – |", ""]


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
