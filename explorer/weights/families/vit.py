"""Vision transformers: torchvision's (Dosovitskiy et al. 2021), at any width and side.

The defaults are ViT-B/16 at 224 pixels. The hidden width is 64·width per attention head, the
MLP's four times that; L/16 has depth 24 and 16 heads.
"""

from __future__ import annotations

from torch import nn
from torchvision.models.vision_transformer import Encoder, VisionTransformer

from explorer.weights.families.blocks import (
    BLOCKS,
    HEAD_WIDTH,
    block_unit,
    make_blocks,
)
from explorer.weights.families.family import Family, Size, Sizes, is_block, scaled
from explorer.weights.families.images import image_sizes, one_image
from explorer.weights.families.initialisers import from_table, normal, zeros
from explorer.weights.families.patches import PATCHES, Patches, ZeroHead, patches_a_side


def _module(sizes: Sizes) -> nn.Module:
    patches_a_side("vit", sizes)
    depth, heads = sizes["depth"], sizes["heads"]
    hidden = heads * scaled(HEAD_WIDTH, sizes["width"])
    network: nn.Module = VisionTransformer(
        image_size=sizes["side"],
        patch_size=sizes["patch"],
        num_layers=0,
        num_heads=heads,
        hidden_dim=hidden,
        mlp_dim=4 * hidden,
        num_classes=sizes["classes"],
    )
    network.set_submodule("conv_proj", Patches(sizes["channels"], hidden, sizes["patch"]))
    network.set_submodule("encoder.layers", make_blocks(depth, heads, hidden))
    network.set_submodule("heads.head", ZeroHead(hidden, sizes["classes"]))
    return network


def _unit(_sizes: Sizes, name: str) -> str:
    if name.startswith("encoder.layers."):
        return block_unit(name)
    return "head" if name.startswith(("encoder.ln.", "heads.")) else "embedding"


VIT = Family(
    name="vit",
    takes={
        "depth": Size(12, "blocks of attention and MLP"),
        "heads": Size(12, "attention heads"),
        "width": Size(1.0, "multiplier of all widths", "factor"),
        "patch": Size(16, "side of a patch, in pixels"),
        **image_sizes(classes=1000, side=224),
    },
    module=_module,
    unit=_unit,
    initialise=from_table(
        {
            **BLOCKS,
            **PATCHES,
            VisionTransformer: {"class_token": zeros},
            Encoder: {"pos_embedding": normal(0.02)},
        }
    ),
    example=one_image,
    skips=is_block,
)
