"""Arrows point down inside serving/ and frontend/, too: values, parts, wholes, build.

A module may import its own room (its folder, or itself) and rooms of a lower floor. So
protocols stand beside each other, and none can lean on another.
"""

import ast
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "mell_jax"
Floors = Sequence[tuple[str, ...]]

FRONTEND: Floors = (
    ("caller", "engine_link", "errors", "executors", "inbox", "limits"),
    ("delta", "models"),
    ("meter",),
    ("share", "tracing"),
    ("admission", "ask", "peers"),
    ("front_end",),
    ("deadlines",),
    ("generation",),
)
SERVING: Floors = (  # values
    (
        *("asker", "client_values", "grpc_log", "loop", "problem", "proto"),
        *("served_model", "stop_signals", "version"),
        *("observe", "security.config"),
    ),
    ("config", "metrics", "security", "stall", "status"),  # parts
    ("address", "edge", "http"),
    ("admin", "kserve", "openai", "vllm", "observe.health"),  # protocols
    ("processes", "server"),  # wholes
    ("processes.child", "service"),  # build
)
TABLES = pytest.mark.parametrize(
    ("folder", "floors"), [("frontend", FRONTEND), ("serving", SERVING)]
)


def modules(folder: str) -> dict[str, set[str]]:
    """What each module imports of its folder, both by their names inside it."""
    home = PACKAGE / folder
    files = {
        ".".join(path.relative_to(home).with_suffix("").parts): path
        for path in home.rglob("*.py")
        if not path.stem.endswith(("_pb2", "_pb2_grpc"))
    }
    prefix = f"mell_jax.{folder}."
    found: dict[str, set[str]] = {}
    for name, path in files.items():
        names = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module is not None:
                names |= {f"{node.module}.{alias.name}" for alias in node.names}
        inside = {each.removeprefix(prefix) for each in names if prefix in each}
        # from mell_jax.serving.edge import Edge: the module is "edge"
        found[name.removesuffix(".__init__")] = {
            each if each in files else each.rpartition(".")[0] or each
            for each in inside
        }
    found.pop("__init__")  # the folder's own face, which shows what is inside
    return found


def place_of(module: str, *, floors: Floors) -> tuple[int, str]:
    """The floor and the room of a module; the longest name that fits is its."""
    fitting = [
        (len(room), number, room)
        for number, rooms in enumerate(floors)
        for room in rooms
        if module == room or module.startswith(f"{room}.")
    ]
    assert fitting, f"{module} needs a place"
    return max(fitting)[1:]


def against(floors: Floors, *, graph: Mapping[str, set[str]]) -> list[str]:
    """The imports that a table forbids."""
    found = []
    for module, targets in graph.items():
        floor, room = place_of(module, floors=floors)
        for target in targets:
            below, other = place_of(target, floors=floors)
            is_own = other.partition(".")[0] == room.partition(".")[0]
            if not (below < floor or is_own):
                found.append(f"{module} imports {target}")
    return found


def circle_in(graph: Mapping[str, set[str]]) -> list[str]:
    """Modules that import each other in a circle; none if there is no circle."""
    left = dict(graph)
    while free := [name for name in left if not left[name] & left.keys() - {name}]:
        for name in free:
            del left[name]
    return sorted(left)


@TABLES
def test_imports_point_down(folder: str, floors: Floors) -> None:
    graph = modules(folder)
    assert sum(map(len, graph.values())) > 25  # the walk has found them
    assert against(floors, graph=graph) == []


@TABLES
def test_there_is_no_circle(folder: str, floors: Floors) -> None:
    assert circle_in(modules(folder)) == []


@TABLES
def test_every_room_exists(folder: str, floors: Floors) -> None:
    for room in (room for rooms in floors for room in rooms):
        path = PACKAGE / folder / Path(*room.split("."))
        assert path.is_dir() or path.with_suffix(".py").is_file(), room


def test_protocols_know_nothing_of_each_other() -> None:
    protocols = {"admin", "kserve", "openai", "vllm"}
    for module, targets in modules("serving").items():
        room = module.partition(".")[0]
        if room in protocols:
            others = {target.partition(".")[0] for target in targets} & protocols
            assert others <= {room}, module


def test_a_table_can_be_broken() -> None:
    graph = {
        "edge": {"kserve.asking"},
        "kserve.asking": {"vllm.convert"},
        "asker": set(),
    }
    graph["vllm.convert"] = {"edge"}
    assert against(SERVING, graph=graph) == [
        "edge imports kserve.asking",
        "kserve.asking imports vllm.convert",
    ]
    assert circle_in(graph) == ["edge", "kserve.asking", "vllm.convert"]
