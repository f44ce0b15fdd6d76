"""Changes of shape in a row are one, with the same numbers."""

from __future__ import annotations

import math

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from explorer.engine.recording import record
from explorer.engine.replay import Replay
from explorer.engine.views import View, with_joint_views
from tests.test_replay import assert_close, assert_replays_equal_plain_passes, state_of

SIZES = (2, 3, 4, 6)
"""Of the value that is looked at in many ways."""


def reshaped(x, number):
    """One of the ways in which the same numbers have other dims."""
    ways = []
    total = x.numel()
    for a in range(1, total + 1):
        ways += [(a, b, total // a // b) for b in range(1, 13) if total % (a * b) == 0]
    return x.reshape(ways[number % len(ways)])


def permuted(x, number):
    order = list(range(x.ndim))
    for dim in range(x.ndim):
        order.append(order.pop(number * (dim + 1) % x.ndim))
    return x.permute(order)


def selected(x, number):
    dim = number % x.ndim
    return x.select(dim, number % x.shape[dim]) if x.ndim > 1 else x.unsqueeze(0)


def squeezed(x, number):
    return x.unsqueeze(number % (x.ndim + 1)).transpose(0, -1).squeeze()


CHANGES = {
    "reshape": reshaped,
    "split": lambda x, number: x.reshape(*x.shape[:-1], x.shape[-1], 1),
    "permute": permuted,
    "transpose": lambda x, number: x.transpose(0, -1),
    "t": lambda x, number: x.t() if x.ndim < 3 else x,
    "select": selected,
    "squeeze": squeezed,
    "add": lambda x, number: x + number,
}


class Changed(nn.Module):
    """A linear layer, and what is read of it in one or two ways from some point on."""

    def __init__(self, steps, parts, images):
        super().__init__()
        self.linear = nn.Linear(6, 6)
        self.convolution = nn.Conv2d(3, 3, 1)
        self.steps, self.parts, self.images = steps, parts, images

    def forward(self, x):
        x = self.convolution(x) if self.images else self.linear(x)
        shared = len(self.steps) // 2
        for name, number in self.steps[:shared]:
            x = CHANGES[name](x, number)
        found = []
        for part in range(self.parts):
            y = x
            for name, number in self.steps[shared:]:
                y = CHANGES[name](y, number + part)
            found.append((y * (1 + part)).flatten())
        return torch.cat(found)


def run(program, state, x):
    """Every value of a program."""
    values = dict(enumerate(state.values())) | dict(program.constants)
    values[program.inputs] = x
    for one in program.operations:
        values[one.value] = one.run(values)
    return values


@settings(deadline=None, max_examples=80)
@given(
    st.lists(st.tuples(st.sampled_from(sorted(CHANGES)), st.integers(0, 30)), max_size=8),
    st.integers(1, 2),
    st.booleans(),
)
def test_numbers_and_their_order_are_the_same_after_any_changes(steps, parts, images):
    torch.manual_seed(0)
    module = Changed(steps, parts, images).eval().requires_grad_(False)
    x = torch.randn(SIZES)
    if images:
        x = x.contiguous(memory_format=torch.channels_last)
    state = state_of(module)
    recorded = record(module, state, x)
    program = with_joint_views(recorded)
    values = run(program, state, x)
    assert torch.equal(values[program.output], module(x))
    assert len(program.operations) <= len(recorded.operations)
    for one in program.operations:
        if isinstance(values[one.value], torch.Tensor):
            assert tuple(values[one.value].shape) == program.shapes[one.value]


class Split(nn.Module):
    """(example, token, hidden) → queries, keys and values by head, as torchvision makes them."""

    def __init__(self, unbound):
        super().__init__()
        self.linear = nn.Linear(4, 12)
        self.unbound = unbound

    def forward(self, x):
        packed = self.linear(x.transpose(0, 1)).unflatten(-1, (3, 4))
        packed = packed.unsqueeze(0).transpose(0, -2).squeeze(-2).contiguous()
        parts = packed.unbind() if self.unbound else (packed[0], packed[1], packed[2])
        q, k, v = (part.reshape(5, -1, 2).transpose(0, 1).reshape(3, 2, 5, 2) for part in parts)
        return functional.scaled_dot_product_attention(q, k, v)


def views_of(module, x):
    state = state_of(module.eval())
    program = with_joint_views(record(module, state, x))
    return program, run(program, state, x)


def is_part_of(view, source):
    return view.untyped_storage().data_ptr() == source.untyped_storage().data_ptr()


@torch.no_grad()
@pytest.mark.parametrize("unbound", [True, False])
def test_queries_keys_and_values_of_a_packed_attention_are_not_copied(unbound):
    program, values = views_of(Split(unbound), torch.randn(3, 5, 4))
    by_value = {one.value: one for one in program.operations}
    (attention,) = [one for one in program.operations if "attention" in one.name]
    (product,) = [one for one in program.operations if one.name == "aten.addmm"]
    for value in attention.reads:
        assert isinstance(by_value[value].call, View)
        assert is_part_of(values[value], values[product.value])
        assert unbound or by_value[value].reads == (product.value,)


class Copied(nn.Module):
    """A value that has to be copied, and is read in two ways."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 6)

    def forward(self, x):
        rows = self.linear(x).transpose(1, 2).reshape(3, 30)  # copies
        return rows.reshape(3, 5, 6)[:, 0] + rows.reshape(3, 6, 5).transpose(1, 2)[:, 1]


@torch.no_grad()
def test_what_has_to_be_copied_is_copied_once_for_all_who_read_it():
    program, values = views_of(Copied(), torch.randn(3, 5, 4))
    (total,) = [one for one in program.operations if one.value == program.output]
    one, other = (values[value] for value in total.reads)
    assert is_part_of(one, other)
    (product,) = [one for one in program.operations if one.name == "aten.addmm"]
    assert not is_part_of(one, values[product.value])


def test_what_is_read_on_the_way_is_there_and_the_rest_is_read_from_it():
    class Read(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 6)

        def forward(self, x):
            y = self.linear(x).transpose(1, 2).unsqueeze(0)
            return y.relu().sum((0, 3)) + y.squeeze(0).select(2, 0)

    module, x = Read().eval().requires_grad_(False), torch.randn(3, 5, 4)
    program, values = views_of(module, x)
    assert torch.equal(values[program.output], module(x))
    (relu,) = [one for one in program.operations if one.name == "aten.relu"]
    readers = [one for one in program.operations if set(relu.reads) & {*one.reads}]
    assert len(readers) == 2


def test_one_change_of_shape_stays_what_it_was():
    """Tokens are brought to their shape between a product and GELU, which are then fused."""
    module = nn.Sequential(nn.Linear(4, 8), nn.GELU()).eval()
    recorded = record(module, state_of(module), torch.randn(2, 3, 4))
    assert with_joint_views(recorded).operations == recorded.operations


def test_several_that_keep_the_order_are_one_reshape():
    module = nn.Sequential(nn.Unflatten(1, (2, 3)), nn.Flatten(0, 1), nn.Unflatten(0, (4, 1)))
    x = torch.randn(2, 6)
    program, values = views_of(module, x)
    (one,) = program.operations
    assert one.call is torch.reshape
    assert torch.equal(values[one.value], module(x))


def test_what_has_no_numbers_is_left_alone():
    class Empty(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 6)

        def forward(self, x):
            y = self.linear(x)
            none = y[:, :0].transpose(1, 2).unsqueeze(0).reshape(3, 0, 6)
            return torch.cat([y, none], 1)

    module, x = Empty().eval().requires_grad_(False), torch.randn(3, 5, 4)
    program, values = views_of(module, x)
    assert torch.equal(values[program.output], module(x))


def small_transformer(num_classes):
    """As `vit_b_16` is, but for its size."""
    model = torchvision.models.VisionTransformer(16, 4, 2, 2, 12, 24, num_classes=num_classes)
    nn.init.normal_(model.heads.head.weight)
    return model


@pytest.mark.parametrize(
    ("build", "size"),
    [
        (torchvision.models.shufflenet_v2_x0_5, 32),
        (torchvision.models.swin_t, 32),
        (small_transformer, 16),
    ],
)
def test_networks_of_torchvision_have_fewer_operations_and_the_same_logits(build, size):
    torch.manual_seed(0)
    module = build(num_classes=3).eval().requires_grad_(False)
    images = torch.randn(1, 3, size, size)
    replay = Replay(record(module, state_of(module), images), state_of(module))
    assert len(replay.program.operations) < len(replay.recorded.operations)
    if build is small_transformer:
        assert_replays_equal_plain_passes(module, images)
    else:
        ((_, found),) = replay.run(images, [], intact=True)
        assert_close(found, module(images))


def test_what_is_split_and_merged_several_times_is_split_once():
    """24 = 2 · 3 · 4, split one after the other and put together in another order."""

    class Parts(nn.Module):
        def forward(self, x):
            x = x.reshape(2, 12).reshape(2, 3, 4).permute(2, 0, 1).reshape(8, 3)
            return x.reshape(4, 2, 3).transpose(0, 2).reshape(3, 8)

    x = torch.arange(24.0).reshape(1, 24) * 2
    module = Parts().eval()
    program = with_joint_views(record(module, {}, x))
    values = run(program, {}, x)
    assert torch.equal(values[program.output], module(x))
    assert [one for one in program.operations if isinstance(one.call, View)]
    assert math.prod(program.operations[-1].call.split) == 24
