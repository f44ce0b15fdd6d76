"""A causal transformer language model: each position predicts the token after it.

The paper trained a Transformer on LM1B with a vocabulary of 30,000; its sizes were not to be
read. Ours is a decoder without encoder: token and learned position embeddings, pre-norm blocks
as in the vision transformer but causal, a norm and a linear head. The defaults are the hidden
width 512, 8 heads and 6 blocks of Vaswani et al. (2017).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from explorer.weights.families.blocks import (
    BLOCKS,
    HEAD_WIDTH,
    block_unit,
    make_blocks,
)
from explorer.weights.families.family import Family, Size, Sizes, is_block, scaled
from explorer.weights.families.initialisers import TORCH, from_table, normal


class NextToken(nn.Linear):
    """Hidden values → logits of the token that follows."""


class Transformer(nn.Module):
    """Embeddings, causal blocks, norm, logits of the next token."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        heads, vocabulary = sizes["heads"], sizes["vocabulary"]
        hidden = heads * scaled(HEAD_WIDTH, sizes["width"])
        self.tokens = nn.Embedding(vocabulary, hidden)
        self.positions = nn.Embedding(sizes["positions"], hidden)
        self.layers = make_blocks(sizes["depth"], heads, hidden, causal=True)
        self.norm = nn.LayerNorm(hidden, eps=1e-6)
        self.head = None if sizes["tied"] else NextToken(hidden, vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        """(example, position) int64 → (example, position, vocabulary) logits of the next token."""
        places = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.tokens(tokens) + self.positions(places)  # (example, position, hidden)
        x = self.norm(self.layers(x))
        logits: Tensor = (
            functional.linear(x, self.tokens.weight) if self.head is None else self.head(x)
        )
        return logits


def _unit(_sizes: Sizes, name: str) -> str:
    part = name.partition(".")[0]
    if part == "layers":
        return block_unit(name)
    return "embedding" if part in ("tokens", "positions") else "head"


TRANSFORMER = Family(
    name="transformer",
    takes={
        "depth": Size(6, "blocks of attention and MLP"),
        "heads": Size(8, "attention heads"),
        "width": Size(1.0, "multiplier of all widths", "factor"),
        "vocabulary": Size(30_000, "tokens that there are"),
        "positions": Size(256, "tokens of the longest text"),
        "tied": Size(0, "the embedding serves as the head", "switch"),
    },
    module=Transformer,
    unit=_unit,
    initialise=from_table(
        {**BLOCKS, nn.Embedding: {"weight": normal(0.02)}, NextToken: TORCH[nn.Linear]}
    ),
    example=lambda sizes: (sizes["positions"],),
    skips=is_block,
)
