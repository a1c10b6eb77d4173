"""Arrows point down only: who may import whom, read from the sources."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OWN = "mell_jax"
LEVELS = {  # a module may import its own package and packages of a lower level
    "launch": 9,
    "launch_server": 6,
    "launch_hosts": 7,
    "launch_ray": 8,
    "on_ray": 7,
    "hosts": 6,
    "client": 6,
    "bench": 6,
    "simulate": 6,
    "plan": 6,
    "planner": 5,
    "realism": 5,
    "fleet_flags": 5,
    "integrations": 7,
    "top": 6,
    "serving": 5,
    "llm": 6,
    "frontend": 4,
    "page": 4,
    "library": 5,
    "engine": 3,
    "text": 2,
    "worker": 2,
    "checkpoints": 2,
    "model_files": 1,
    "grammar": 1,
    "contained": 0,
    "models": 1,
    "pallas_kernels": 0,
    "scheduler": 0,
    "progress": 1,
    "events": 0,
    "console": 0,
    "loop_thread": 0,
    "settings": 0,
}
ALLOWED_OUTSIDE = {
    "scheduler": {"numpy"},
    "pallas_kernels": {"numpy", "jax"},
    "models": {"numpy", "jax", "flax"},
    "model_files": set(),
    "grammar": {"numpy", "llguidance", "msgspec"},
    "contained": {"msgspec"},
    "text": {"numpy", "tokenizers", "sentencepiece", "jinja2", "msgspec"},
    "frontend": {"numpy", "msgspec"},
    "settings": {"absl"},
    "page": {"msgspec", "numpy"},
}


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module)
    return found


def sources() -> list[tuple[str, Path]]:
    """(package, file) of every module, through the links as Python sees them."""
    files = []
    for package in LEVELS:
        home = ROOT / OWN / package
        paths = home.rglob("*.py") if home.is_dir() else [home.with_suffix(".py")]
        files += [(package, path) for path in paths]
    return files


def test_every_package_has_a_level() -> None:
    for entry in (ROOT / OWN).iterdir():
        is_code = (entry.is_dir() and list(entry.glob("*.py"))) or entry.suffix == ".py"
        if is_code and not entry.name.startswith("_"):
            assert entry.stem in LEVELS, f"{entry.name} needs a level"


def test_imports_point_down() -> None:
    checked = 0
    for package, path in sources():
        for name in imports(path):
            first, _, rest = name.partition(".")
            target = rest.partition(".")[0]
            if first == OWN and target and target != package:
                assert LEVELS[target] < LEVELS[package], f"{path} imports {name}"
                checked += 1
    assert checked > 50  # the walk found the sources


def test_low_layers_import_little_from_outside() -> None:
    for package, path in sources():
        allowed = ALLOWED_OUTSIDE.get(package)
        for name in imports(path) if allowed is not None else ():
            first = name.partition(".")[0]
            known = sys.stdlib_module_names | (allowed or set()) | {OWN}
            assert first in known, f"{path} imports {name}"


def test_the_scheduler_loads_no_jax() -> None:
    code = (
        "import sys, mell_jax.scheduler.batching as b;"
        "assert 'jax' not in sys.modules and 'flax' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=60)


ROOMS: dict[str, dict[str, set[str]]] = {
    # Folder: its levels from the lowest up, with the modules of each. A module imports
    # from its folder only what is on its own level or below. A sub-folder stands for
    # all of its modules but those that are named themselves.
    "engine": {
        "threads": {"fair_thread"},
        "values": {
            *("admin", "config", "fleet_view", "frames", "histogram", "params"),
            *("new_weights", "stream_view"),
        },
        "parts": {
            *("blueprint", "default_params", "intake", "prompts", "self_check"),
            *(
                "fair_thread",
                "guided_rows",
                "guides",
                "settled",
                "slots",
                "step_times",
                "validate",
            ),
            "weights",
        },
        "instance": {"instance", "thread", "ask", "weights/updater"},
        "fleet": {"fleet", "kv_events"},
        "hosts": {"hosts"},
        "build": {"build", "fleet/build"},
    },
    "planner": {
        "values": {"devices", "shape", "search"},
        "parts": {"load", "option", "roofline", "shapes", "trial"},
        "questions": {"question", "reach"},
        "solving": {"pool", "solve", "trials"},
        "telling": {"flags", "picture", "report", "serve_command"},
    },
    "frontend": {
        "values": {
            *("caller", "engine_link", "errors", "executors", "inbox", "limits"),
            "versions",
        },
        "parts": {
            *("ask", "delta", "meter", "models", "peers", "share", "tracing"),
            *("grammar_gate", "turns"),
        },
        "wholes": {"admission", "deadlines", "front_end"},
        "build": {"generation"},
    },
    "serving": {
        "values": {
            *(
                "asker",
                "client_values",
                "constraint",
                "grpc_log",
                "loop",
                "problem",
                "proto",
            ),
            *("aborts", "served_model", "stop_signals", "version"),
            *("observe", "security/config"),
        },
        "parts": {"config", "metrics", "security", "stall", "status"},
        "edges": {"address", "edge", "http"},
        "chat": {"chat"},
        "protocols": {
            *("admin", "anthropic", "kserve", "openai", "vllm", "observe/health"),
            "page",
        },
        "wholes": {"processes", "server"},
        "build": {"processes/child", "service"},
    },
    "scheduler": {
        "values": {
            *("ids", "plan", "fair_queue", "cache_spec"),
            *("placement/plan", "placement/events", "placement/model"),
            "placement/kind",
        },
        "parts": {
            *(
                "bounds",
                "price_bound",
                "move_queue",
                "pages",
                "page_map",
                "prefix_cache",
                "rows",
            ),
            "transfer",
            *("placement/draft", "placement/index", "placement/ledger"),
            *("placement/accounts", "placement/books", "placement/kind_books"),
            "placement/idle",
            *("cache_layout", "placement/tenants"),
        },
        "batching": {
            *("batching", "composition", "grants", "prefills", "reservations"),
            "sequences",
        },
        "migration": {"migration"},
        "placement": {"placement"},
        "policies": {"policies"},
        "hosts": {"hosts"},
        "simulator": {"simulator"},
    },
}


def level_in(room: str, module: str) -> int:
    """The level of a module, such as "fleet/build", inside its folder.

    Raises:
      AssertionError: neither it nor a folder that it is in is named there.
    """
    parts = module.split("/")
    names = ["/".join(parts[:end]) for end in range(len(parts), 0, -1)]
    for name in names:
        for number, modules in enumerate(ROOMS[room].values()):
            if name in modules:
                return number
    raise AssertionError(f"{room}/{module} needs a level in ROOMS")


def modules_of(room: str) -> dict[str, Path]:
    home = ROOT / OWN / room
    return {
        path.relative_to(home).with_suffix("").as_posix(): path
        for path in home.rglob("*.py")
        if path.name != "__init__.py" and not path.stem.endswith(("_pb2", "_pb2_grpc"))
    }


def own_imports(path: Path) -> set[str]:
    """Modules of ours that a file imports, as in "engine/fleet/build"."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            first, _, rest = node.module.partition(".")
            if first == OWN:
                home = rest.replace(".", "/")
                names = [f"{home}/{alias.name}" for alias in node.names]
                files = [n for n in names if (ROOT / OWN / f"{n}.py").is_file()]
                found |= set(files) if len(files) == len(names) else {home, *files}
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_imports_inside_a_folder_point_down(room: str) -> None:
    checked = 0
    modules = modules_of(room)
    for module, path in modules.items():
        for name in own_imports(path):
            target = name.removeprefix(f"{room}/")
            if target != name and target in modules:
                is_down = level_in(room, target) <= level_in(room, module)
                assert is_down, f"{path} imports {name}"
                checked += 1
    assert checked > len(modules) / 2  # the walk found the imports


@pytest.mark.parametrize("room", ROOMS)
def test_every_name_in_a_table_is_a_module(room: str) -> None:
    home = ROOT / OWN / room
    for name in set().union(*ROOMS[room].values()):
        assert (home / name).is_dir() or (home / f"{name}.py").is_file(), name


def test_no_module_imports_itself_by_a_detour() -> None:
    graph = {}
    for package, path in sources():
        home = ROOT / OWN / package
        inner = path.relative_to(home) if home.is_dir() else None
        name = package if inner is None else f"{package}/{inner.with_suffix('')}"
        graph[name.removesuffix("/__init__")] = own_imports(path)
    order = list(graphlib.TopologicalSorter(graph).static_order())
    assert len(order) > 200  # the walk found the sources


PROTOCOLS = {"admin", "anthropic", "kserve", "openai", "vllm"}


def test_protocols_know_nothing_of_each_other() -> None:
    for module, path in modules_of("serving").items():
        if (room := module.partition("/")[0]) in PROTOCOLS:
            names = {name.removeprefix("serving/") for name in own_imports(path)}
            others = {name.partition("/")[0] for name in names} & PROTOCOLS
            assert others <= {room}, module


def test_a_table_can_be_broken() -> None:
    """The control: what points up has a higher level."""
    assert level_in("serving", "edge") < level_in("serving", "kserve/asking")
    assert level_in("engine", "frames") < level_in("engine", "fleet/fleet")
    assert level_in("engine", "fleet/fleet") < level_in("engine", "fleet/build")
    with pytest.raises(AssertionError, match="engine/new needs a level"):
        level_in("engine", "new")
