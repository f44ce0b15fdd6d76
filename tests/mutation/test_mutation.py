"""The mutants, the choice of tests and the table of scores; needs the extra ``mutation``."""

from __future__ import annotations

import pytest

pytest.importorskip("mutmut", reason="needs the extra mutation")

from tests.mutation.mutants import Mutant, make_mutant, sites_of
from tests.mutation.run import chosen_tests, scores

SOURCE = '''
def share(part: int | None, whole, *, strict=True):
    """Nothing in here: 1 < 2."""
    if whole == 0:
        raise ValueError(f"{whole + 1} of 0")
    return sum(part, start=0) / whole if part else None
'''


def test_every_kind_of_change_is_made_and_texts_types_and_errors_stay():
    module, sites = sites_of(SOURCE)
    made = [make_mutant("a.py", SOURCE, module, site) for site in sites]
    assert [(one.line, one.kind) for one in made] == [
        (2, "truth"),
        (4, "condition"),
        (4, "operator"),
        (4, "number"),
        (6, "return"),
        (6, "argument"),
        *[(6, "choice")] * 2,
        (6, "operator"),
        (6, "number"),
    ]
    assert made[2].name == "a.py | if whole == 0: | if whole != 0:"
    for one in made:
        compile(one.code, one.file, "exec")


def mutant(line, file="a.py"):
    return Mutant(file, line, (line,), "number", "x = 1", "x = 2", "")


def test_quick_tests_of_the_line_come_first_one_of_each_function_then_others_of_the_file():
    reached = {
        "t.py::slow": {"seconds": 3, "lines": {"a.py": [4, 5]}},
        "t.py::quick[0]": {"seconds": 1, "lines": {"a.py": [5]}},
        "t.py::quick[1]": {"seconds": 1, "lines": {"a.py": [5]}},
        "t.py::beside": {"seconds": 1, "lines": {}},
        "u.py::other": {"seconds": 1, "lines": {"b.py": [5]}},
    }
    order = ["t.py::quick[0]", "t.py::slow", "t.py::quick[1]", "t.py::beside"]
    assert chosen_tests(mutant(5), reached, 10) == order
    assert chosen_tests(mutant(5), reached, 2) == ["t.py::quick[0]", "t.py::quick[1]"]
    assert chosen_tests(mutant(1), reached, 10) == order  # runs on import
    assert chosen_tests(mutant(1, "c.py"), reached, 10) == []


def test_equivalent_survivors_are_left_out_of_the_second_score_alone():
    trials = {
        name: {"name": name, "ended": ended}
        for name, ended in (
            ("explorer/stats/a.py | a | b", "killed"),
            ("explorer/stats/a.py | b | c", "timeout"),
            ("explorer/stats/a.py | c | d", "survived"),
            ("explorer/engine/a.py | d | e", "unreached"),
        )
    }
    table = scores(trials, {"explorer/stats/a.py | c | d": "nobody sees it"}).splitlines()
    assert table[3].startswith("| stats | 3 | 2 | 1 | 1 | 66.7 % (")
    assert "| 100.0 % (34.2…100.0) |" in table[3]
    assert table[-1].startswith("| all | 4 | 2 | 1 | 1 | 50.0 % (")
