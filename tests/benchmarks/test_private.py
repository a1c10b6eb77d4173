"""Benchmarks look at public state only, so that the engine's inside may change."""

import ast
from pathlib import Path

BENCHMARKS = Path(__file__).parent.parent.parent / "benchmarks"


def private_reaches(source: str) -> list[str]:
    """Attributes with a leading underscore of anything but `self` and `cls`."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_"):
            is_own = isinstance(node.value, ast.Name) and node.value.id in {
                "self",
                "cls",
            }
            if not is_own and not node.attr.startswith("__"):
                found.append(f"{node.lineno}: {ast.unparse(node)}")
        elif isinstance(node, ast.ImportFrom):
            names = (node.module or "").split(".") + [name.name for name in node.names]
            found += [
                f"{node.lineno}: from {node.module} import {name}"
                for name in names
                if name.startswith("_") and not name.startswith("__")
            ]
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in {"getattr", "setattr"}
            and isinstance(node.args[1], ast.Constant)
            and str(node.args[1].value).startswith("_")
        ):
            found.append(f"{node.lineno}: {ast.unparse(node)}")
    return found


def test_a_reach_is_found_and_what_is_ones_own_is_not():
    source = """
from mell_jax.engine import _inner
class Own:
    def look(self, other):
        return self._mine, other._its, getattr(other, "_too"), other.__class__
"""
    assert private_reaches(source) == [
        "2: from mell_jax.engine import _inner",
        "5: other._its",
        "5: getattr(other, '_too')",
    ]


def test_no_benchmark_touches_private_state():
    paths = sorted(BENCHMARKS.rglob("*.py"))
    assert len(paths) > 30  # the walk found the sources
    found = [
        f"benchmarks/{path.relative_to(BENCHMARKS)}:{reach}"
        for path in paths
        for reach in private_reaches(path.read_text())
    ]
    assert not found, "give its owner a public read-only property:\n" + "\n".join(found)
