"""The mutants of a file: one small change each, in code that decides something.

mutmut's operators make most of them. Left out is what no test should pin: texts, type hints, what
is raised or warned with, decorators, imports. Three operators are our own, see the end.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import libcst as cst
import libcst.matchers as m
from libcst.metadata import MetadataWrapper, ParentNodeProvider, PositionProvider
from mutmut.mutation import mutators


@dataclass(frozen=True)
class Mutant:
    """One change of one file."""

    file: str
    """Path in the checkout, with forward slashes."""

    line: int
    """Where the changed part begins, from 1."""

    lines: tuple[int, ...]
    """Lines of the statement that the changed part belongs to."""

    kind: str
    """Name of the operator."""

    before: str
    """The lines that change, without their indentation."""

    after: str
    """The lines that take their place."""

    code: str
    """The whole changed file."""

    @property
    def name(self) -> str:
        """What a judgement is kept under: it survives that lines move."""
        return f"{self.file} | {self.before} | {self.after}"


def sites_of(source: str) -> tuple[cst.Module, list[Site]]:
    """Parse a file and list its possible changes in the order of the text."""
    wrapper = MetadataWrapper(cst.parse_module(source), unsafe_skip_copy=True)
    finder = _Finder()
    module = wrapper.visit(finder)
    return module, sorted(finder.sites, key=lambda site: (site.line, site.column, site.kind))


@dataclass(frozen=True)
class Site:
    """A node and what it could be changed into."""

    line: int
    column: int
    lines: tuple[int, ...]
    kind: str
    old: cst.CSTNode
    new: cst.CSTNode


def make_mutant(file: str, source: str, module: cst.Module, site: Site) -> Mutant:
    """Write the changed file."""
    code = cst.ensure_type(module.deep_replace(site.old, site.new), cst.Module).code
    changed = [
        line
        for line in difflib.unified_diff(source.splitlines(), code.splitlines(), lineterm="", n=0)
        if not line.startswith(("---", "+++", "@@"))
    ]
    before, after = (
        " ".join(line[1:].strip() for line in changed if line[0] == sign) for sign in "-+"
    )
    return Mutant(file, site.line, site.lines, site.kind, before, after, code)


class _Finder(cst.CSTVisitor):
    METADATA_DEPENDENCIES = (PositionProvider, ParentNodeProvider)
    UNTOUCHED = (
        *(cst.Annotation, cst.Decorator, cst.Import, cst.ImportFrom, cst.FormattedString),
        *(cst.Raise, cst.Assert, cst.TypeAlias),
    )

    def __init__(self) -> None:
        super().__init__()
        self.sites: list[Site] = []

    def on_visit(self, node: cst.CSTNode) -> bool:
        if isinstance(node, self.UNTOUCHED) or _is_untouched(node):
            return False
        for kind, operator in OPERATORS.items():
            for new in operator(node):
                self._add(kind, node, new)
        return True

    def _add(self, kind: str, node: cst.CSTNode, new: cst.CSTNode) -> None:
        start = self.get_metadata(PositionProvider, node).start
        statement: Any = node
        while not isinstance(statement, cst.BaseSmallStatement | cst.BaseCompoundStatement):
            if isinstance(statement, cst.Module):
                return
            statement = self.get_metadata(ParentNodeProvider, statement)
        at = self.get_metadata(PositionProvider, statement)
        last = at.end.line
        if isinstance(statement, cst.BaseCompoundStatement):
            last = self.get_metadata(PositionProvider, statement.body).start.line - 1
        lines = tuple(range(at.start.line, max(last, at.start.line) + 1))
        self.sites.append(Site(start.line, start.column, lines, kind, node, new))


def _is_untouched(node: cst.CSTNode) -> bool:
    """Say whether it is for type checkers, or a warning or a line of a log."""
    return m.matches(node, m.If(test=m.Name("TYPE_CHECKING"))) or m.matches(
        node,
        m.Call(
            func=m.Attribute(value=m.Name("warnings") | m.Name("LOGGER") | m.Name("logger"))
            | m.Name("cast")
            | m.Name("TypeVar")
        ),
    )


# --- operators ------------------------------------------------------------------------------------


def _of(kind: Any, operator: Callable[[Any], Iterable[cst.CSTNode]]) -> Callable[[Any], Any]:
    return lambda node: operator(node) if isinstance(node, kind) else ()


def _number(node: cst.CSTNode) -> Iterable[cst.CSTNode]:
    return mutators.operator_number(node) if isinstance(node, cst.Integer | cst.Float) else ()


def _swap(node: cst.CSTNode) -> Iterable[cst.CSTNode]:
    """As mutmut does it, but | of types stays: what it gives cannot even be imported."""
    if m.matches(node, m.BinaryOperation(operator=m.BitOr())):
        return ()
    return mutators.operator_swap_op(node)


def _nothing_returned(node: cst.CSTNode) -> Iterable[cst.CSTNode]:
    if isinstance(node, cst.Return) and node.value and not m.matches(node.value, m.Name("None")):
        yield node.with_changes(value=cst.Name("None"))


def _condition_removed(node: cst.CSTNode) -> Iterable[cst.CSTNode]:
    """What stands under an `if` never happens; a filter of a comprehension lets everything pass."""
    if isinstance(node, cst.If):
        yield node.with_changes(test=cst.Name("False"))
    elif isinstance(node, cst.CompFor) and node.ifs:
        yield node.with_changes(ifs=())


def _keyword_removed(node: cst.CSTNode) -> Iterable[cst.CSTNode]:
    if isinstance(node, cst.Call):
        for number, argument in enumerate(node.args):
            if argument.keyword is not None:
                rest = [*node.args[:number], *node.args[number + 1 :]]
                if rest:
                    rest[-1] = rest[-1].with_changes(comma=cst.MaybeSentinel.DEFAULT)
                yield node.with_changes(args=rest)


OPERATORS: dict[str, Callable[[Any], Iterable[cst.CSTNode]]] = {
    "number": _number,
    "operator": _swap,
    "truth": _of(cst.Name, mutators.operator_name),
    "keyword": mutators.operator_keywords,
    "assignment": _of(cst.AugAssign, mutators.operator_augmented_assignment),
    "unary": _of(cst.UnaryOperation, mutators.operator_remove_unary_ops),
    "choice": _of(cst.IfExp, mutators.operator_if_exp),
    "return": _nothing_returned,
    "condition": _condition_removed,
    "argument": _keyword_removed,
}
"""Name → what a node could be changed into. The last three are our own.

number: n → n + 1. operator: < → <=, == → !=, + → -, * → /, and → or, … truth: True → False.
keyword: is → is not, in → not in, break → return, continue → break. assignment: += → =.
unary: `not` away. choice: always or never the first of `a if c else b`. return: None instead.
condition: the `if` never holds. argument: one keyword argument away.
"""
