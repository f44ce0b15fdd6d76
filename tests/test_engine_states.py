"""Any sequence of interventions, cancels and errors leaves the model as it was, and cells right."""

from __future__ import annotations

import copy
import hashlib
import itertools
from functools import cache

import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

import explorer as lx
from explorer.engine.evaluator import Evaluator
from explorer.engine.program import Operation
from explorer.errors import OutOfMemoryError
from tests import naive, toy

LAYERS = ("conv", "norm", "head")
EPOCHS = (0, 1, 2)
BATCH = 8
OUT_OF_MEMORY = "DefaultCPUAllocator: can't allocate memory: 1 bytes"

chosen_layers = st.lists(st.sampled_from(LAYERS), min_size=1, max_size=3, unique=True)
interventions = st.one_of(
    st.builds(lx.reinitialise, chosen_layers, st.sampled_from(EPOCHS)),
    st.builds(lx.rerandomise, st.sampled_from(LAYERS), st.integers(0, 1)),
)


@cache
def states():
    return toy.conv_states()


@cache
def network():
    with torch.random.fork_rng(devices=[]):
        return toy.ConvNet()


@cache
def truth():
    return toy.conv_examples()


def tensors_hash(state):
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()


def twin_labels(run, intervention):
    """What public code's pattern predicts with the same tensors put in."""
    replacement = run.network.replacement(intervention)
    return naive.labels(network(), states()[-1], replacement, truth()[0], batch_size=BATCH)


class Engine(RuleBasedStateMachine):
    """One evaluator, used and misused in any order."""

    @initialize(policy=st.sampled_from(["with_layer", "weights_only"]))
    def opened(self, policy):
        self.model = copy.deepcopy(network())
        self.model.load_state_dict(states()[0])  # the reader's own, not even the final one
        self.model.train()
        self.before = tensors_hash(self.model.state_dict())
        stack = lx.open_stack(states(), model=self.model)
        self.run = Evaluator(
            stack,
            model=self.model,
            data=truth(),
            device="cpu",
            batch_size=BATCH,
            batchnorm=policy,
        )
        self.final = tensors_hash(self.run.network._state)
        self.random = torch.get_rng_state()

    def check(self, intervention, found):
        labels = twin_labels(self.run, intervention)
        assert found.exact
        assert found.errors == int((labels != truth()[1]).sum())

    @rule(intervention=interventions)
    def measured(self, intervention):
        self.check(intervention, self.run.result(intervention))

    @rule(intervention=interventions)
    def asked_for_answers(self, intervention):
        labels = twin_labels(self.run, intervention)
        assert self.run.predictions(intervention).patched.tolist() == labels.tolist()

    @rule(intervention=interventions, slices=st.integers(0, 4))
    def stopped(self, intervention, slices):
        stream = self.run.estimates(intervention)
        list(itertools.islice(stream, slices))
        if hasattr(stream, "close"):
            stream.close()

    @rule(several=st.lists(interventions, min_size=2, max_size=4), slices=st.integers(1, 5))
    def several_at_once(self, several, slices):
        stream = self.run.count([self.run.network.replacement(one) for one in several])
        *_, last = itertools.islice(stream, slices)
        stream.close()
        if last[0].exact:
            for intervention, found in zip(several, last, strict=True):
                self.check(intervention, found)

    @rule(intervention=interventions, after=st.integers(0, 30), memory=st.booleans())
    def something_breaks(self, intervention, after, memory):
        """An operation fails once; where it was for a lack of memory, smaller slices go on."""
        calls = itertools.count()
        original = Operation.run

        def broken(operation, values):
            if next(calls) == after:
                raise RuntimeError(OUT_OF_MEMORY if memory else "made to fail")
            return original(operation, values)

        self.run._remembered.clear()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Operation, "run", broken)
            found = self.outcome(intervention)
        if isinstance(found, str):
            assert (OUT_OF_MEMORY if memory else "made to fail") in found
            assert not memory or self.run.batch_size == 1
        else:
            self.check(intervention, found)

    def outcome(self, intervention):
        try:
            return self.run.result(intervention)
        except (RuntimeError, OutOfMemoryError) as error:
            return str(error)

    @rule()
    def forgotten(self):
        self.run._remembered.clear()

    @invariant()
    def nothing_has_changed(self):
        if not hasattr(self, "run"):
            return
        assert tensors_hash(self.model.state_dict()) == self.before
        assert self.model.training
        assert all(parameter.requires_grad for parameter in self.model.parameters())
        assert tensors_hash(self.run.network._state) == self.final
        assert torch.equal(torch.get_rng_state(), self.random)
        assert not torch.is_inference_mode_enabled()


TestEngine = Engine.TestCase
TestEngine.settings = settings(
    max_examples=20,
    stateful_step_count=12,
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.slow
@pytest.mark.timeout(1200)
class TestEngineAtLength(Engine.TestCase):
    settings = settings(TestEngine.settings, max_examples=1000, stateful_step_count=30)
