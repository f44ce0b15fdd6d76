"""Pre-norm blocks of attention and MLP, shared by the vision and the language transformer."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.vision_transformer import EncoderBlock

from explorer.weights.families.initialisers import TORCH, Table, glorot_uniform, normal

HEAD_WIDTH = 64
"""Numbers per attention head at width 1; the hidden width is this times the heads."""


class Block(EncoderBlock):  # type: ignore[misc]  # torchvision has no type information
    """torchvision's encoder block with attention written out.

    `torch.nn.MultiheadAttention` computes the same by another path in evaluation mode, which is
    opaque to a recording of the forward pass, and has no cheap causal form.
    """

    def __init__(self, heads: int, hidden: int, *, causal: bool = False) -> None:
        super().__init__(heads, hidden, 4 * hidden, dropout=0.0, attention_dropout=0.0)
        self.causal = causal

    def forward(self, input: Tensor) -> Tensor:
        """(example, token, hidden) → the same shape."""
        x = input + self._attention(self.ln_1(input))
        out: Tensor = x + self.mlp(self.ln_2(x))
        return out

    def _attention(self, x: Tensor) -> Tensor:
        given = self.self_attention
        joint = functional.linear(x, given.in_proj_weight, given.in_proj_bias)
        q, k, v = (
            part.unflatten(2, (self.num_heads, -1)).transpose(1, 2)  # (example, head, token, …)
            for part in joint.chunk(3, dim=2)  # joint: (example, token, 3 hidden)
        )
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        out: Tensor = given.out_proj(mixed.transpose(1, 2).flatten(2))  # (example, token, hidden)
        return out


def make_blocks(depth: int, heads: int, hidden: int, *, causal: bool = False) -> nn.Sequential:
    """A chain of blocks under torchvision's names."""
    return nn.Sequential(
        OrderedDict(
            (f"encoder_layer_{k}", Block(heads, hidden, causal=causal)) for k in range(depth)
        )
    )


def block_unit(name: str) -> str:
    """Unit of a tensor inside a block: ``encoder_layer_0.ln_1.weight`` → ``layer1.attention``."""
    block, part, *_ = name.partition("encoder_layer_")[2].split(".")
    return f"layer{int(block) + 1}.{'attention' if part in ('ln_1', 'self_attention') else 'mlp'}"


BLOCKS: Table = {**TORCH, nn.Linear: {"weight": glorot_uniform, "bias": normal(1e-6)}}
"""torchvision's initial values: the MLP's here, attention's are those of torch."""
