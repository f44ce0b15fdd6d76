"""Options that every measurement has reach the engine, which is who refuses what it cannot do."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import pytest

import explorer as lx
from explorer.engine.evaluator import Evaluator
from explorer.errors import UsageError

MEASURING = {
    "criticality": {},
    "effective_parameters": {},
    "evaluate": {"intervention": lx.reinitialise("layer1", 0)},
    "outputs": {},
    "paths": {},
    "predictions": {"intervention": lx.reinitialise("layer1", 0)},
    "reset_order": {},
    "sweep": {},
}
"""Public function → what else it needs."""


def measured(stack, name, option):
    found = getattr(lx, name)(stack, **MEASURING[name], **option)
    return next(found) if isinstance(found, Iterator) else found


@pytest.mark.parametrize("name", MEASURING)
@pytest.mark.parametrize(
    ("option", "match"),
    [
        ({"device": "abacus"}, "The device 'abacus' cannot be used"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"batchnorm": "as usual"}, "The BatchNorm policy is 'as usual'"),
    ],
)
def test_what_the_engine_cannot_do_is_refused_by_every_measurement(bundled, name, option, match):
    with pytest.raises(UsageError, match=match):
        measured(bundled, name, option)


class SeenError(Exception):
    """Carries what the evaluator was given."""


@pytest.mark.parametrize("name", MEASURING)
def test_every_option_that_a_measurement_has_in_common_with_the_evaluator_reaches_it(
    bundled, name, monkeypatch
):
    known = set(inspect.signature(Evaluator).parameters) - {"stack"}
    given = {
        o: object() for o in known.intersection(inspect.signature(getattr(lx, name)).parameters)
    }
    assert {"model", "data", "device", "batch_size", "batchnorm"} <= set(given)

    def opened(_self, _stack, **options):
        raise SeenError(options)

    monkeypatch.setattr(Evaluator, "__init__", opened)
    with pytest.raises(SeenError) as seen:
        measured(bundled, name, given)
    assert {option: seen.value.args[0].get(option) for option in given} == given
