"""Arrows point down only: who may import whom, read from the sources."""

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
OWN = "mell_jax"
LEVELS = {  # a module may import its own package and packages of a lower level
    "launch": 7,
    "launch_doors": 6,
    "launch_logs": 6,
    "client": 6,
    "bench": 6,
    "simulate": 6,
    "top": 6,
    "serving": 5,
    "llm": 5,
    "frontend": 4,
    "engine": 3,
    "text": 2,
    "worker": 2,
    "checkpoints": 2,
    "models": 1,
    "pallas_kernels": 0,
    "scheduler": 0,
    "events": 0,
    "console": 0,
}
ALLOWED_OUTSIDE = {
    "scheduler": {"numpy"},
    "pallas_kernels": {"numpy", "jax"},
    "models": {"numpy", "jax", "flax"},
    "text": {"numpy", "tokenizers", "sentencepiece", "jinja2", "msgspec"},
    "frontend": {"numpy", "msgspec"},
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
