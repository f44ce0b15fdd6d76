"""Networks that answer at every position: language models, whose labels are the next tokens."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import explorer as lx
from explorer.engine.evaluator import Evaluator
from explorer.engine.interventions import Intervention
from explorer.errors import DataError

VOCABULARY, LENGTH, COUNT = 7, 5, 30


class Bigrams(nn.Module):
    """Logits of the next token from the last one alone."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 6)
        self.head = nn.Linear(6, VOCABULARY)

    def forward(self, tokens):
        return self.head(torch.relu(self.embedding(tokens)))  # (example, position, class)


def states():
    found = []
    for seed in range(3):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            found.append(Bigrams().state_dict())
    return found


@pytest.fixture(scope="module")
def data():
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, VOCABULARY, (COUNT, LENGTH + 1), generator=generator)
    return tokens[:, :-1], tokens[:, 1:]


@pytest.fixture(scope="module")
def stack():
    return lx.open_stack(states(), model=Bigrams())


@pytest.mark.parametrize("batch_size", [None, 7])
def test_every_position_is_counted_as_the_plain_pass_predicts_it(stack, data, batch_size):
    run = Evaluator(stack, model=Bigrams(), data=data, device="cpu", batch_size=batch_size)
    inputs, labels = data
    for epoch in (0, 1, 2):
        net = Bigrams()
        net.load_state_dict({**states()[2], "head.weight": states()[epoch]["head.weight"]})
        net.head.bias.data.copy_(states()[epoch]["head.bias"])
        with torch.no_grad():
            logits = net(inputs)
        found = run.result(lx.reinitialise("head", epoch))
        assert found.total == found.examples == COUNT * LENGTH
        assert found.errors == int((logits.argmax(2) != labels).sum())
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        assert found.loss == pytest.approx(float(loss), rel=1e-5)


def test_estimates_grow_by_whole_sequences(stack, data):
    run = Evaluator(stack, model=Bigrams(), data=data, device="cpu", batch_size=7)
    seen = [e.examples for e in run.estimates(lx.reinitialise("embedding", 0))]
    assert seen == [35, 70, 105, 140, 150]


def test_a_sweep_of_a_language_model_has_its_learning_curve(stack, data):
    result = lx.sweep(stack, model=Bigrams(), data=data, draws=1, device="cpu", progress=False)
    assert result.attrs["examples"] == COUNT * LENGTH
    assert (result.error.sel(epoch=2) == result.attrs["final_error"]).all()


def test_labels_for_other_positions_than_the_network_answers_at_are_refused(stack, data):
    class LastFour(Bigrams):
        def forward(self, tokens):
            return super().forward(tokens)[:, 1:]

    run = Evaluator(stack, model=LastFour(), data=data, device="cpu")
    with pytest.raises(DataError, match=r"gives 120 rows of logits for 150 labels"):
        run.result(Intervention(()))


def test_a_screen_is_declined_where_a_network_answers_at_several_positions(stack, data, caplog):
    run = Evaluator(stack, model=Bigrams(), data=data, device="cpu", screen=True)
    assert run.screen == "none"
    assert run.result(Intervention(())).exact
