"""A docstring's first sentence says what its subject is or does."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = (
    "mell_jax",
    "models",
    "pallas_kernels",
    "scheduler",
    "benchmarks",
    "examples",
)
NO_SUBJECTS = {"Of", "What", "Where", "Who", "How", "Whether", "Which", "When"}
Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def public(node: Documented) -> Iterator[tuple[str, Documented]]:
    """What has a public docstring, by name."""
    yield "module" if isinstance(node, ast.Module) else node.name, node
    for inner in node.body:
        if isinstance(
            inner, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
        ) and (not inner.name.startswith("_")):
            yield from public(inner)


def openings(path: Path) -> Iterator[tuple[str, str]]:
    """The first word of each public docstring, and whose it is."""
    for name, node in public(ast.parse(path.read_text())):
        text = ast.get_docstring(node)
        if text:
            yield f"{path.relative_to(ROOT)}: {name}", text.split()[0].strip("`,.:")


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_docstring_begins_without_a_subject(folder: str) -> None:
    found = [
        (where, word)
        for path in (ROOT / folder).rglob("*.py")
        if not path.stem.endswith(("_pb2", "_pb2_grpc"))
        for where, word in openings(path)
    ]
    assert found
    assert [where for where, word in found if word in NO_SUBJECTS] == []
