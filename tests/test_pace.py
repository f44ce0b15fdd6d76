"""How long the rest of some work is said to take."""

from __future__ import annotations

import math

import pytest

from explorer.ui import pace
from explorer.ui.pace import Pace


@pytest.fixture
def clock(monkeypatch):
    """Seconds, put forward by hand."""
    now = [100.0]
    monkeypatch.setattr(pace.time, "monotonic", lambda: now[0])
    return now


def test_nothing_is_said_before_the_first_cell_is_done(clock):
    assert math.isnan(Pace(3).seconds_left("abc"))


def test_the_time_left_never_climbs_while_a_block_is_under_way(clock):
    said, work = [], Pace(30)
    for passed, left in ((10, 20), (12, 20), (15, 20), (19, 20), (20, 10), (27, 10), (30, 0)):
        clock[0] = 100.0 + passed
        said.append(work.seconds_left(range(left)))
    assert said == [20, 18, 15, 11, 10, 3, 0]


def test_a_block_that_takes_longer_leaves_the_time_of_those_after_it(clock):
    work = Pace(30)
    for passed, left, seconds in ((10, 20, 20), (60, 20, 10), (70, 10, 35)):
        clock[0] = 100.0 + passed
        assert work.seconds_left(range(left)) == seconds
