"""A network so small that results can be computed by hand, and stacks of it."""

from __future__ import annotations

import torch
from torch import nn

CLASSES = 3


class Switch(nn.Module):
    """Logits are x + first + second, so that the larger of the two biases decides on zeros."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(CLASSES, CLASSES)
        self.second = nn.Linear(CLASSES, CLASSES)

    def forward(self, x):
        return self.second(self.first(x))


def switch_state(first, second):
    """State in which both weights are the identity and the biases push one class each."""
    eye = torch.eye(CLASSES)
    return {
        "first.weight": eye.clone(),
        "first.bias": first * eye[0],
        "second.weight": eye.clone(),
        "second.bias": second * eye[1],
    }


def switch_states():
    """Epoch 0 pushes class 0 by 5, epoch 1 class 1 by 2, epoch 2 (final) pushes nothing."""
    return [switch_state(5.0, 0.0), switch_state(0.0, 2.0), switch_state(0.0, 0.0)]


def one_hot_examples():
    """Twelve examples, four a class, which the final network gets right."""
    truth = torch.arange(12) % CLASSES
    return torch.eye(CLASSES)[truth], truth


class ConvNet(nn.Module):
    """Convolution with batch normalisation and a linear head: parameters and buffers."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(4, CLASSES)

    def forward(self, x):
        x = torch.relu(self.norm(self.conv(x)))  # (example, 4, 4, 4)
        return self.head(self.dropout(x.mean((2, 3))))  # (example, CLASSES)


def conv_states(count=3):
    """A few unrelated states of ConvNet, with running statistics of their own."""
    states = []
    for seed in range(count):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            net = ConvNet()
            net.train()
            net(torch.randn(16, 1, 6, 6) * (seed + 1))
            states.append({name: t.clone() for name, t in net.state_dict().items()})
    return states


def conv_examples(count=40):
    """Random images with random labels."""
    generator = torch.Generator().manual_seed(5)
    inputs = torch.randn(count, 1, 6, 6, generator=generator)
    return inputs, torch.randint(0, CLASSES, (count,), generator=generator)


class DeepConvNet(nn.Module):
    """Two convolutions with batch normalisation after each other."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, CLASSES)

    def forward(self, x):
        x = torch.relu(self.norm1(self.conv1(x)))
        x = torch.relu(self.norm2(self.conv2(x)))
        return self.head(x.mean((2, 3)))
