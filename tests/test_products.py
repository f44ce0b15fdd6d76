"""Convolutions of very small images as matrix products."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from explorer.engine.passes import INTACT
from explorer.engine.products import convolve, with_products
from explorer.engine.recording import record
from explorer.engine.replay import Replay

CONVOLUTION = torch.ops.aten.convolution


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation", "size"),
    [
        ((3, 3), 1, (1, 1), 1, (4, 4)),
        ((3, 3), 2, (1, 1), 1, (5, 4)),
        ((5, 5), 1, (2, 2), 2, (7, 6)),
        ((3, 1), 1, (1, 0), 1, (4, 2)),
        ((2, 2), (2, 1), (0, 0), 1, (6, 7)),
    ],
)
def test_the_product_is_the_convolution(kernel, stride, padding, dilation, size, bias):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(3, 7, *size, generator=generator)
    weights = torch.randn(9, 7, *kernel, generator=generator)
    stride = [stride] * 2 if isinstance(stride, int) else list(stride)
    arguments = (
        images,
        weights,
        torch.randn(9, generator=generator) if bias else None,
        stride,
        list(padding),
        [dilation] * 2,
        False,
        [0, 0],
        1,
    )
    torch.testing.assert_close(convolve(*arguments), CONVOLUTION(*arguments))


def test_in_lower_precision_it_stays_a_convolution():
    images, weights = torch.randn(2, 3, 4, 4).bfloat16(), torch.randn(5, 3, 3, 3).bfloat16()
    arguments = (images, weights, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1)
    assert torch.equal(convolve(*arguments), CONVOLUTION(*arguments))


def test_only_small_images_with_many_channels_are_products():
    module = nn.Sequential(
        nn.Conv2d(3, 256, 3, padding=1),  # few channels come in
        nn.Conv2d(256, 256, 3, padding=1),  # images too large
        nn.AvgPool2d(2),
        nn.Conv2d(256, 256, 3, padding=1),
        nn.Conv2d(256, 512, 1),  # a product already
        nn.Conv2d(512, 512, 3, padding=1, groups=2),
        nn.Conv2d(512, 256, 1),
        nn.ConvTranspose2d(256, 256, 3, padding=1),
        nn.Flatten(),
        nn.Linear(256 * 36, 3),
    ).eval()
    state = {name: tensor.detach() for name, tensor in module.named_parameters()}
    inputs = torch.randn(2, 3, 12, 12)
    program = with_products(record(module, state, inputs))
    convolutions = [o for o in program.operations if o.name == "aten.convolution"]
    assert [o.call is convolve for o in convolutions] == [False, False, True, *[False] * 4]
    ((number, logits),) = Replay(program, state).run(inputs, [], intact=True)
    assert number == INTACT
    with torch.no_grad():
        torch.testing.assert_close(logits, module(inputs))
