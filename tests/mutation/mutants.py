"""Mutants: the same module with one place of it changed, by cosmic-ray's operators.

What no test can see is left alone: asserts (they never fail), messages of errors,
annotations and decorators. One operator is our own: a statement is dropped.
"""

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import parso
from cosmic_ray import plugins
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.operator import Operator

PASSED_OVER = ("ExceptionReplacer", "NoOp", "RemoveDecorator", "Variable")
INTO = (
    *("_Add", "_Sub", "_Mul", "_FloorDiv"),
    *("_Eq", "_NotEq", "_Lt", "_LtE", "_Gt", "_GtE", "Is_IsNot", "IsNot_Is"),
)
"""What people mistake for one another; the rest of the pairs nobody writes."""
UNSEEN = {"assert_stmt", "raise_stmt", "decorator", "decorators", "tfpdef", "fstring"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    module: str  # scheduler/pages.py
    line: int
    operator: str
    before: str  # the line, without its indentation
    after: str
    source: str  # of the whole module


class DropStatement(Operator):
    """Puts `pass` where a call, a deletion or an assignment to a part stood."""

    def mutation_positions(self, node):
        if node.type == "simple_stmt" and _has_effect(node.children[0]):
            yield node.children[0].start_pos, node.children[0].end_pos

    def mutate(self, node, index):
        first = node.children[0]
        node.children[0] = parso.parse(first.get_first_leaf().prefix + "pass")
        return node

    @classmethod
    def examples(cls):
        return ()


def _has_effect(node) -> bool:
    function = node.search_ancestor("funcdef")
    if function is None or function.name.value == "__init__":
        return False  # without it nothing works: no need to ask
    if node.type in {"atom_expr", "power"}:
        return node.get_last_leaf().value == ")"
    if node.type == "expr_stmt":
        target, sign = node.children[:2]
        return target.type != "name" or (sign.type == "operator" and sign.value != "=")
    return node.type == "del_stmt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One thing that can be changed in one way."""

    module: str
    line: int
    operator: str
    occurrence: int


def find_places(root: Path, module: str) -> Iterator[Place]:
    tree = get_ast((root / module).read_text())
    nodes = list(ast_nodes(tree))
    for name, operator in _operators():
        occurrence = 0
        for node in nodes:
            for start, _ in operator.mutation_positions(node):
                if not _is_unseen(node):
                    yield Place(
                        module=module,
                        line=start[0],
                        operator=name,
                        occurrence=occurrence,
                    )
                occurrence += 1


def sample(
    root: Path, places: Iterable[Place], *, count: int, seed: int
) -> list[Mutant]:
    """At most `count`, one of each line before a second of any."""
    rng = random.Random(seed)
    lines: dict[tuple[str, int], list[Place]] = {}
    for place in places:
        lines.setdefault((place.module, place.line), []).append(place)
    order: list[tuple[int, float, Place]] = []
    for group in lines.values():
        rng.shuffle(group)
        order += [(turn, rng.random(), place) for turn, place in enumerate(group)]
    order.sort(key=lambda each: each[:2])
    made = (mutate(root, place) for _, _, place in order)
    return list(islice((mutant for mutant in made if mutant is not None), count))


def mutate(root: Path, place: Place) -> Mutant | None:
    """None: the change is no Python, or none at all."""
    source = (root / place.module).read_text()
    operator = dict(_operators())[place.operator]
    mutated = mutate_code(source, operator, place.occurrence)
    if mutated is None or mutated == source or not _is_python(mutated):
        return None
    return Mutant(
        module=place.module,
        line=place.line,
        operator=place.operator,
        before=source.splitlines()[place.line - 1].strip(),
        after=mutated.splitlines()[place.line - 1].strip(),
        source=mutated,
    )


def _is_python(source: str) -> bool:
    try:
        compile(source, "mutant", "exec")
    except SyntaxError:
        return False
    return True


def _operators() -> Iterator[tuple[str, Operator]]:
    yield "DropStatement", DropStatement()
    for path in sorted(plugins.operator_names()):
        name = path.split("/")[-1]
        is_binary = name.startswith(("ReplaceBinary", "ReplaceComparison"))
        if name.startswith(PASSED_OVER) or (is_binary and not name.endswith(INTO)):
            continue
        yield name, plugins.get_operator(path)()


def _is_unseen(node) -> bool:
    while node.parent is not None:
        parent = node.parent
        is_annotation = (parent.type == "annassign" and node is parent.children[1]) or (
            parent.type == "funcdef" and node is parent.annotation
        )
        if node.type in UNSEEN or is_annotation:
            return True
        node = parent
    return False
