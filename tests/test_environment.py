"""Importing the package leaves the environment of the process as it was."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROGRAMS = ("client", "launch", "simulate", "bench.main")  # their flags collide
OPTIONAL = {"on_ray": "ray"}  # packages of ours, and what they need

# Whoever calls os.putenv is looked at, since jax sets variables of its own.
WATCH = """
import importlib, pkgutil, sys

touched = set()

def see(event, args):
    if event not in ("os.putenv", "os.unsetenv"):
        return
    frame = sys._getframe(1)
    while frame.f_globals["__name__"] in ("os", "_collections_abc", "collections.abc"):
        frame = frame.f_back
    name = frame.f_globals["__name__"]
    if name == "__main__" or name.startswith("mell_jax"):
        touched.add((name, args[0]))

sys.addaudithook(see)
"""


def touched_by(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", f"{WATCH}\n{code}\nprint(len(sys.modules), touched)"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout.partition(" ")[2].strip()


def test_no_module_sets_a_variable_when_it_is_imported() -> None:
    left_out = {f"mell_jax.{name}" for name in PROGRAMS} | {
        f"mell_jax.{name}"
        for name, needed in OPTIONAL.items()
        if importlib.util.find_spec(needed) is None
    }
    code = f"""
import mell_jax
seen = 0
for module in pkgutil.walk_packages(mell_jax.__path__, "mell_jax."):
    if not any((module.name + ".").startswith(one + ".") for one in {left_out}):
        importlib.import_module(module.name)
        seen += 1
assert seen > 200, seen
"""
    assert touched_by(code) == "set()"


@pytest.mark.parametrize("program", PROGRAMS)
def test_nor_does_a_program_before_it_runs(program: str) -> None:
    assert touched_by(f"import mell_jax.{program}") == "set()"


def test_a_variable_that_is_set_would_be_seen() -> None:
    code = "from mell_jax.serving.grpc_log import quiet_grpc; quiet_grpc()"
    planted = touched_by(f"import os; os.environ.pop('GRPC_VERBOSITY', None); {code}")
    assert planted == "{('mell_jax.serving.grpc_log', b'GRPC_VERBOSITY')}"


def test_the_library_and_its_doors_leave_the_whole_environment_alone() -> None:
    code = (
        "import os; before = dict(os.environ); import mell_jax, mell_jax.serving;"
        "assert dict(os.environ) == before"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=60)


def test_mell_serve_can_still_quiet_grpc_when_it_starts() -> None:
    code = "import sys, mell_jax.launch; assert 'grpc' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=60)
