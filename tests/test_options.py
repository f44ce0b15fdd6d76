"""Options that every measurement has reach the engine, which is who refuses what it cannot do."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import explorer as lx
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
        ({"batch_size": 0}, "The batch size is 0"),
        ({"batchnorm": "as usual"}, "The BatchNorm policy is 'as usual'"),
    ],
)
def test_what_the_engine_cannot_do_is_refused_by_every_measurement(bundled, name, option, match):
    with pytest.raises(UsageError, match=match):
        measured(bundled, name, option)
