"""What nobody reads is not computed, and nothing else changes."""

from __future__ import annotations

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from explorer.engine.inside import Watch
from explorer.engine.kept import Kept
from explorer.engine.passes import INTACT
from explorer.engine.positions import without_unread
from explorer.engine.recording import record
from explorer.engine.replay import Replay
from tests.test_joint_views import run
from tests.test_replay import assert_close, assert_replays_equal_plain_passes, state_of

HIDDEN, TOKENS, EXAMPLES = 8, 5, 3


class Block(nn.Module):
    """Attention and MLP, (example, token, hidden) → the same shape."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.norms = nn.ModuleList([nn.LayerNorm(HIDDEN) for _ in range(2)])
        self.attention = nn.MultiheadAttention(HIDDEN, 2, batch_first=kind != "tokens first")
        self.joint = nn.Linear(HIDDEN, 3 * HIDDEN)
        self.query, self.key, self.value = (nn.Linear(HIDDEN, HIDDEN) for _ in range(3))
        self.mlp = nn.Sequential(nn.Linear(HIDDEN, 12), nn.GELU(), nn.Linear(12, HIDDEN))
        self.scale = nn.Parameter(torch.rand(HIDDEN))

    def forward(self, x):
        if self.kind == "norm last":
            x = self.norms[0](x + self.mixed(x))
            return self.norms[1](x + self.mlp(x))
        x = x + self.scale * self.mixed(self.norms[0](x))
        return x + self.scale * self.mlp(self.norms[1](x))

    def mixed(self, x):
        if self.kind == "tokens first":
            x = x.transpose(0, 1)
            return self.attention(x, x, x, need_weights=False)[0].transpose(0, 1)
        if self.kind == "weights":
            return self.attention(x, x, x)[0]  # by products and a softmax
        if self.kind == "convolved":  # each token is made of its neighbours
            return functional.conv1d(x.transpose(1, 2), self.mlp[0].weight[:8, :, None]).mT
        if self.kind == "joint":
            q, k, v = self.joint(x).chunk(3, 2)
        else:
            q, k, v = self.query(x), self.key(x), self.value(x)
        q, k, v = (part.unflatten(2, (2, -1)).transpose(1, 2) for part in (q, k, v))
        causal = self.kind == "causal"
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=causal)
        return mixed.transpose(1, 2).flatten(2)


KINDS = ("norm last", "tokens first", "weights", "convolved", "joint", "causal", "separate")

READS = {
    "first": lambda x: x[:, 0],
    "last": lambda x: x[:, -1],
    "a slice": lambda x: x[:, 2:3].flatten(1),
    "one twice": lambda x: x[:, 1] + x[:, 1].tanh(),
    "two": lambda x: x[:, 0] + x[:, 1],
    "mean": lambda x: x.mean(1),
    "first and mean": lambda x: x[:, 0] + x.mean(1),
}

ONE = ("first", "last", "a slice", "one twice")


class Tokens(nn.Module):
    """A chain of blocks, and an answer from some of the tokens."""

    def __init__(self, kinds, read, deep_head=False):
        super().__init__()
        self.blocks = nn.Sequential(*map(Block, kinds))
        self.norm = nn.LayerNorm(HIDDEN)
        self.place = nn.Parameter(torch.rand(1, TOKENS, HIDDEN))
        self.read = read
        middle = [nn.Linear(HIDDEN, HIDDEN), nn.Tanh()] if deep_head else []
        self.head = nn.Sequential(*middle, nn.Linear(HIDDEN, 4))

    def forward(self, x):
        x = self.norm(self.blocks(x + self.place))
        return self.head(READS[self.read](x + self.place))


def tokens(kinds, read, deep_head=False):
    torch.manual_seed(0)
    return Tokens(kinds, read, deep_head).eval().requires_grad_(False)


def inputs():
    return torch.randn(EXAMPLES, TOKENS, HIDDEN, generator=torch.Generator().manual_seed(1))


def arithmetic(module, example):
    """FLOPs as recorded, and without what nobody reads."""
    program = record(module.eval(), state_of(module), example)
    return program.flops, without_unread(program).flops


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.sampled_from(KINDS), min_size=1, max_size=3),
    st.sampled_from(sorted(READS)),
    st.booleans(),
)
def test_logits_are_those_of_the_plain_pass_whatever_is_read(kinds, read, deep_head):
    assert_replays_equal_plain_passes(tokens(kinds, read, deep_head), inputs())


@pytest.mark.parametrize("read", ONE)
@pytest.mark.parametrize("kind", KINDS)
def test_the_mlp_of_the_last_block_runs_for_the_token_that_is_read(kind, read):
    recorded, left = arithmetic(tokens(["separate", kind], read), inputs())
    mlp = 2 * 2 * EXAMPLES * TOKENS * HIDDEN * 12
    assert left <= recorded - mlp * (TOKENS - 1) // TOKENS


@pytest.mark.parametrize("read", sorted(READS.keys() - {*ONE}))
def test_what_is_read_of_several_tokens_is_left_as_it_is(read):
    module = tokens(["separate", "separate"], read)
    program = record(module, state_of(module), inputs())
    assert without_unread(program) is program


def test_what_is_left_of_a_last_block_is_keys_values_and_one_token_of_the_rest():
    recorded, left = arithmetic(tokens(["separate", "separate"], "first"), inputs())
    product = 2 * EXAMPLES * TOKENS * HIDDEN
    attention = 2 * product * TOKENS
    block = product * (3 * HIDDEN + 2 * 12) + attention
    head = 2 * EXAMPLES * HIDDEN * 4
    assert recorded == 2 * block + head
    keys_and_values = product * 2 * HIDDEN
    assert left == block + keys_and_values + (block - keys_and_values) // TOKENS + head


def test_a_causal_block_attends_as_recorded():
    """With one query left, a causal mask would hide every key but the first."""
    module = tokens(["causal"], "last")
    replay, _ = assert_replays_equal_plain_passes(module, inputs())
    assert replay.program.flops < replay.recorded.flops


def test_torchvisions_vision_transformer_computes_less():
    module = torchvision.models.VisionTransformer(8, 4, 3, 2, 12, 24, num_classes=5).eval()
    torch.nn.init.normal_(module.heads.head.weight)
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    replay, _ = assert_replays_equal_plain_passes(module.requires_grad_(False), images)
    assert replay.program.flops < 0.85 * replay.recorded.flops


def test_bert_computes_less():
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=9,
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
    )

    class Logits(nn.Module):
        def __init__(self):
            super().__init__()
            self.bert = transformers.BertForSequenceClassification(config)

        def forward(self, words):
            return self.bert(words).logits

    words = torch.arange(10).reshape(2, 5) % 9
    torch.manual_seed(0)
    replay, _ = assert_replays_equal_plain_passes(Logits().requires_grad_(False), words)
    assert replay.program.flops < 0.75 * replay.recorded.flops


def test_what_two_operations_read_of_a_whole_value_is_taken_once():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(HIDDEN, 4), nn.Linear(HIDDEN, 4)

        def forward(self, x):
            x = x.exp()
            return (self.one(x) + self.two(x))[:, 0] + x.mean((1, 2)).unsqueeze(1)

    module = Twice().eval().requires_grad_(False)
    replay, _ = assert_replays_equal_plain_passes(module, inputs())
    assert [one.name for one in replay.program.operations].count("position") == 1


def test_a_convolutional_network_is_left_as_it_is():
    module = torchvision.models.resnet18(num_classes=4).eval()
    program = record(module, state_of(module), torch.rand(1, 3, 32, 32))
    assert without_unread(program) is program


def test_shapes_and_sizes_are_those_of_what_is_left():
    module = tokens(["separate", "joint"], "first")
    program = without_unread(record(module, state_of(module), inputs()))
    values = run(program, state_of(module), inputs())
    for one in program.operations:
        value = values[one.value]
        if isinstance(value, torch.Tensor):
            assert tuple(value.shape) == program.shapes[one.value]
            assert program.sizes.get(one.value, value.nbytes) == value.nbytes
    assert_close(values[program.output], module(inputs()))


def test_units_are_watched_at_every_token():
    module = tokens(["separate"], "first")
    state = state_of(module)
    replay = Replay(record(module, state, inputs()), state)
    assert replay.program.flops < replay.recorded.flops
    watch = Watch(replay, Kept(0))
    ((position, packed),) = watch.run(inputs(), [], intact=True)
    hidden = module.blocks[0].mlp[0]
    seen = []
    hidden.register_forward_hook(lambda *arguments: seen.append(arguments[2]))
    module(inputs())
    assert position == INTACT
    assert torch.equal(
        watch.inside(packed, EXAMPLES).active, functional.gelu(seen[0]).amax((0, 1)) > 0
    )
    assert not torch.equal(
        watch.inside(packed, EXAMPLES).active, functional.gelu(seen[0][:, 0]).amax(0) > 0
    )


def product_of_both(h):
    return torch.bmm(h.flatten(0, 1), h.flatten(0, 1).mT)


HALVES = torch.full((4, 1), 0.5)


def with_its_means(h):
    normalised, mean, _ = torch.native_layer_norm(h, (6,), None, None, 0.1)
    return normalised + torch.cat([mean] * 6, 3)


STEPS = {
    "split": lambda h: h.reshape(2, 3, 2, 2, 6),
    "merged": lambda h: h.reshape(6, 4, 6),
    "merged and split": lambda h: h.reshape(6, 4, 6).reshape(2, 3, 24),
    "spread": lambda h: h.reshape(2, 2, 6, 6),
    "spread in between": lambda h: h.reshape(4, 36).softmax(0).reshape(2, 3, 4, 6),
    "permuted": lambda h: h.permute(2, 0, -1, 1),
    "transposed": lambda h: h.transpose(-1, 1),
    "turned": lambda h: h.reshape(6, 24).t(),
    "unsqueezed": lambda h: h.unsqueeze(1).squeeze(1).unsqueeze(-1),
    "squeezed of several": lambda h: h[:, :1, :, :1].squeeze((1, 3)),
    "selected": lambda h: h.select(1, -1),
    "selected at the end": lambda h: h.select(-1, 2),
    "some of it": lambda h: h[:, 1:3, ::2],
    "elementwise": lambda h: torch.sigmoid(h * h.tanh() - 2.0) / 3,
    "with numbers first": lambda h: 2.0 - h.exp(),
    "with alpha": lambda h: torch.add(h, h, alpha=2),
    "repeated along some": lambda h: h * h[:, :1, :, :1] + h[:1, 0],
    "repeated along others": lambda h: (
        h * torch.ones(4, 1) + torch.ones(3, 1, 6) - torch.ones(1, 4, 1) * h
    ),
    "times a constant": lambda h: h * HALVES,
    "with nothing beside it": lambda h: torch.cat([h, h[:, :0].relu()], 1),
    "with a part of nothing": lambda h: torch.cat([h, h[:, :0][:, :, :1].expand(2, 0, 4, 6)], 1),
    "plus one for all": lambda h: h + h[0, 0, 0, 0],
    "normalised": lambda h: functional.layer_norm(h, (6,)),
    "normalised in two": lambda h: functional.layer_norm(h, (4, 6)),
    "softmax": lambda h: h.softmax(-1),
    "softmax of another": lambda h: h.softmax(1),
    "product": lambda h: h @ torch.ones(6, 5),
    "square product": lambda h: h @ torch.arange(36.0).reshape(6, 6),
    "sum and product": lambda h: torch.addmm(torch.ones(5), h.reshape(24, 6), torch.ones(6, 5)),
    "rows and product": lambda h: torch.addmm(h.reshape(24, 6), h.reshape(24, 6), torch.eye(6)),
    "scaled product": lambda h: torch.addmm(
        torch.ones(5), h.reshape(24, 6), torch.ones(6, 5), beta=2, alpha=3
    ),
    "its own product": product_of_both,
    "weighted": lambda h: torch.bmm(h.flatten(0, 1), h.flatten(0, 1).transpose(1, 2).cumsum(0)),
    "attention": lambda h: functional.scaled_dot_product_attention(h, h * 2, h * 3),
    "attention with a scale": lambda h: functional.scaled_dot_product_attention(
        h, h * 2, h * 3, scale=0.3
    ),
    "attention with a mask": lambda h: functional.scaled_dot_product_attention(
        h, h, h, attn_mask=h[0, 0] @ h[0, 0].t()
    ),
    "normalised with its means": with_its_means,
    "mean of a normalisation": lambda h: torch.native_layer_norm(h, (6,), None, None, 0.1)[1],
    "beside a part of it": lambda h: torch.cat([h, h], 1) + h[:, :1],
    "largest": lambda h: h.max(1)[0],
    "first of the largest": lambda h: h.topk(2, 1)[0] + h.topk(2, 1)[1],
    "parts": lambda h: h.chunk(2, 2)[0] * h.chunk(2, 2)[1],
    "put together": lambda h: torch.cat([h, h * 2], 1),
    "expanded": lambda h: h[:, :1].expand(2, 5, 4, 6),
    "running sum": lambda h: h.cumsum(2),
    "mean": lambda h: h.mean(2, keepdim=True),
    "turned round": lambda h: h.flip(1),
    "converted": lambda h: h.double().contiguous(),
}
"""What may follow a linear layer, (2, 3, 4, 6) → any shape."""

FOLLOWED = {
    **dict.fromkeys(("selected at the end", "some of it", "sum and product"), 0),
    **dict.fromkeys(("split", "merged", "merged and split", "permuted", "unsqueezed"), 1),
    **dict.fromkeys(("selected", "elementwise", "with numbers first", "with alpha"), 1),
    **dict.fromkeys(("repeated along others", "normalised", "normalised in two"), 1),
    **dict.fromkeys(("softmax", "product", "converted"), 1),
    **dict.fromkeys(("attention", "attention with a scale"), 2),
    "transposed": 3,
}
"""Steps of which one position along this dim takes less arithmetic."""


IN_PART = ("attention", "attention with a scale", "sum and product")
"""Steps of those that need all of the layer before, and take less arithmetic themselves."""


class Step(nn.Module):
    def __init__(self, step, dim, index, sliced):
        super().__init__()
        self.linear = nn.Linear(5, 6)
        self.step, self.dim, self.index, self.sliced = STEPS[step], dim, index, sliced

    def forward(self, x):
        found = self.step(self.linear(x))
        if self.sliced:
            return found.narrow(self.dim, self.index, 1)
        return found.select(self.dim, self.index)


@pytest.mark.parametrize("step", STEPS)
def test_one_position_along_any_dim_is_the_same_whatever_was_computed(step):
    x = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    found = STEPS[step](torch.zeros(2, 3, 4, 6))
    for dim in range(found.ndim):
        for index, sliced in ((0, False), (-1, False), (0, True)):
            module = Step(step, dim, index, sliced).eval().requires_grad_(False)
            program = record(module, state_of(module), x)
            left = without_unread(program)
            values = run(left, state_of(module), x)
            torch.testing.assert_close(values[left.output], module(x))
            if FOLLOWED.get(step) == dim and step in IN_PART:
                assert left.flops < program.flops
            elif FOLLOWED.get(step) == dim:
                assert left.flops == program.flops // found.shape[dim]
