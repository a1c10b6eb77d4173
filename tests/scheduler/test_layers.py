"""Inside scheduler/, too, arrows point down only, and no module imports itself."""

import ast
import graphlib
from pathlib import Path

HOME = Path(__file__).parent.parent.parent / "scheduler"
OWN = "mell_jax.scheduler"
LEVELS: dict[str, set[str]] = {
    # From the lowest up. A module imports what is on its own level or below. A folder
    # stands for all of its modules but those that are named themselves.
    "values": {"ids", "plan", "placement/plan", "placement/events", "placement/model"},
    "parts": {
        "bounds",
        "move_queue",
        "pages",
        "placement/draft",
        "placement/index",
        "placement/ledger",
        "prefix_cache",
        "rows",
        "transfer",
    },
    "batching": {"batching", "movable"},
    "migration": {"migration"},
    "placement": {"placement"},
    "policies": {"policies"},
    "simulator": {"simulator"},
}


def modules() -> dict[str, Path]:
    """Every module by its name, such as "placement/ledger"; a folder by its own."""
    return {
        path.relative_to(HOME).with_suffix("").as_posix().removesuffix("/__init__"): (
            path
        )
        for path in HOME.rglob("*.py")
        if path != HOME / "__init__.py"
    }


def level_of(module: str) -> int:
    """The level of a module, or of the nearest folder that has one.

    Raises:
      AssertionError: there is none.
    """
    parts = module.split("/")
    for end in range(len(parts), 0, -1):
        for number, names in enumerate(LEVELS.values()):
            if "/".join(parts[:end]) in names:
                return number
    raise AssertionError(f"scheduler/{module} needs a level in LEVELS")


def imported(path: Path) -> set[str]:
    """The modules of scheduler/ that a file imports."""
    known, found = modules(), set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(OWN):
            home = (node.module or "").removeprefix(OWN).lstrip(".").replace(".", "/")
            for alias in node.names:
                inner = f"{home}/{alias.name}".lstrip("/")
                found.add(inner if inner in known else home)
    return found


def test_imports_point_down() -> None:
    checked = 0
    for module, path in modules().items():
        for target in imported(path):
            assert level_of(target) <= level_of(module), f"{module} imports {target}"
            checked += 1
    assert checked > 100  # the walk found the imports


def test_no_module_imports_itself_by_a_detour() -> None:
    graph = {module: imported(path) for module, path in modules().items()}
    assert len(list(graphlib.TopologicalSorter(graph).static_order())) == len(graph)


def test_every_name_in_the_table_is_a_module() -> None:
    known = modules()
    for name in set().union(*LEVELS.values()):
        assert name in known, name
