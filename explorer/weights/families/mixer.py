"""MLP-Mixer (Tolstikhin et al. 2021): blocks that mix tokens and then channels, by MLPs only.

The defaults are B/16 at 224 pixels. Names are those of timm, so that its weights fit. Initial
values follow torchvision's vision transformer, whose patches, MLPs and head are the same parts.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from explorer.weights.families.family import Family, Size, Sizes, scaled
from explorer.weights.families.images import image_sizes, one_image
from explorer.weights.families.initialisers import TORCH, from_table, glorot_uniform, normal
from explorer.weights.families.patches import PATCHES, Patches, ZeroHead, patches_a_side

_EPSILON = 1e-6
"""Of the layer norms, as in timm and torchvision's transformer."""


class Mlp(nn.Module):
    """Two linear layers with a GELU between."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(inputs, hidden)
        self.fc2 = nn.Linear(hidden, inputs)

    def forward(self, x: Tensor) -> Tensor:
        """(…, inputs) → the same shape."""
        out: Tensor = self.fc2(functional.gelu(self.fc1(x)))
        return out


class MixerBlock(nn.Module):
    """One MLP over the tokens and one over the channels, each with a skip around it."""

    def __init__(self, tokens: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(hidden, eps=_EPSILON)
        self.mlp_tokens = Mlp(tokens, scaled(hidden, 0.5))
        self.norm2 = nn.LayerNorm(hidden, eps=_EPSILON)
        self.mlp_channels = Mlp(hidden, 4 * hidden)

    def forward(self, x: Tensor) -> Tensor:
        """(example, token, hidden) → the same shape."""
        across = self.norm1(x).transpose(1, 2)  # (example, hidden, token)
        x = x + self.mlp_tokens(across).transpose(1, 2)
        out: Tensor = x + self.mlp_channels(self.norm2(x))
        return out


class Stem(nn.Module):
    """Patches of an image as tokens."""

    def __init__(self, channels: int, hidden: int, patch: int) -> None:
        super().__init__()
        self.proj = Patches(channels, hidden, patch)

    def forward(self, x: Tensor) -> Tensor:
        """(example, channel, side, side) → (example, token, hidden)."""
        embedded: Tensor = self.proj(x)  # (example, hidden, patches down, patches across)
        return embedded.flatten(2).transpose(1, 2)


class Mixer(nn.Module):
    """Stem, blocks, norm, mean over the tokens, linear output."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        tokens, hidden = patches_a_side("mixer", sizes) ** 2, scaled(768, sizes["width"])
        self.stem = Stem(sizes["channels"], hidden, sizes["patch"])
        self.blocks = nn.Sequential(*(MixerBlock(tokens, hidden) for _ in range(sizes["depth"])))
        self.norm = nn.LayerNorm(hidden, eps=_EPSILON)
        self.head = ZeroHead(hidden, sizes["classes"])

    def forward(self, x: Tensor) -> Tensor:
        """(example, channel, side, side) → (example, classes) logits."""
        x = self.norm(self.blocks(self.stem(x)))  # (example, token, hidden)
        logits: Tensor = self.head(x.mean(1))
        return logits


def _unit(_sizes: Sizes, name: str) -> str:
    part, *rest = name.split(".")
    if part == "blocks":
        tokens = rest[1] in ("norm1", "mlp_tokens")
        return f"layer{int(rest[0]) + 1}.{'token_mixing' if tokens else 'mlp'}"
    return "embedding" if part == "stem" else "head"


MIXER = Family(
    name="mixer",
    takes={
        "depth": Size(12, "blocks of token mixing and MLP"),
        "width": Size(1.0, "multiplier of all widths", "factor"),
        "patch": Size(16, "side of a patch, in pixels"),
        **image_sizes(classes=1000, side=224),
    },
    module=Mixer,
    unit=_unit,
    initialise=from_table(
        {**TORCH, **PATCHES, nn.Linear: {"weight": glorot_uniform, "bias": normal(1e-6)}}
    ),
    example=one_image,
    skips=lambda unit: unit.startswith("layer"),
)
