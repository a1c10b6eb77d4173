"""The wheel holds the package, its data and nothing beside it."""

import ast
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SUFFIXES = {
    *(".py", ".pyi", ".proto", ".json", ".safetensors", ".typed"),
    *(".css", ".html", ".js"),
}
IMPORTED_AS = {  # distributions whose package has another name
    "absl-py": "absl",
    "grpcio": "grpc",
    "grpcio-health-checking": "grpc_health",
    "grpcio-reflection": "grpc_reflection",
    "grpcio-status": "grpc_status",
    "opentelemetry-exporter-otlp-proto-grpc": "opentelemetry",
    "opentelemetry-sdk": "opentelemetry",
    "orbax-checkpoint": "orbax",
    "protobuf": "google",
    "pyzmq": "zmq",
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tree = tmp_path_factory.mktemp("build") / "tree"
    left_out = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "local")
    shutil.copytree(ROOT, tree, symlinks=True, ignore=left_out)
    out = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", out, tree],
        check=True,
        capture_output=True,
    )
    (built,) = out.glob("*.whl")
    return built


def package_files() -> set[str]:
    """Code and data of the checkout by their names in the wheel, through the links."""
    found = set()
    for folder, _, names in os.walk(ROOT / "mell_jax", followlinks=True):
        found |= {
            Path(folder, name).relative_to(ROOT).as_posix()
            for name in names
            if Path(name).suffix in SUFFIXES
        }
    return found


def test_the_wheel_holds_all_files_of_the_package_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    inside = {name for name in names if ".dist-info/" not in name}
    assert inside == package_files() | {"mell_jax/demo/README.md"}
    for name in (  # so that an empty walk does not pass
        "mell_jax/py.typed",
        "mell_jax/demo/model.safetensors",
        "mell_jax/serving/proto/mell_admin.proto",
        "mell_jax/serving/metrics/grafana.json",
        "mell_jax/page/static/main.js",
        "mell_jax/pallas_kernels/attention/tuned.json",
        "mell_jax/models/decoder.py",
        "mell_jax/scheduler/batching.py",
    ):
        assert name in inside
    tops = {name.partition("/")[0] for name in inside}
    assert tops == {"mell_jax"}, "benchmarks and tests stay in the checkout"


def test_the_wheel_needs_what_it_imports_and_nothing_else(wheel: Path) -> None:
    imported = imported_packages() - {"mell_jax"}
    needed, optional = dependencies(wheel)
    assert needed <= imported, "what only tests or benchmarks import belongs to `dev`"
    assert imported <= needed | optional, "a dependency is missing in pyproject.toml"


def imported_packages() -> set[str]:
    """First names of everything that the package imports, but the standard library."""
    found = set()
    for name in package_files():
        if name.endswith(".py"):
            for node in ast.walk(ast.parse((ROOT / name).read_text())):
                if isinstance(node, ast.Import):
                    found |= {alias.name.partition(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module is not None:
                    found.add(node.module.partition(".")[0])
    return found - sys.stdlib_module_names


def dependencies(wheel: Path) -> tuple[set[str], set[str]]:
    """Packages that the wheel always needs, and those of its extras but `dev`."""
    with zipfile.ZipFile(wheel) as file:
        (metadata,) = (n for n in file.namelist() if n.endswith(".dist-info/METADATA"))
        lines = file.read(metadata).decode().splitlines()
    needed, optional = set(), set()
    for line in lines:
        if line.startswith("Requires-Dist: ") and 'extra == "dev"' not in line:
            (name,) = re.findall(r"^Requires-Dist: ([\w-]+)", line)
            where = optional if "extra ==" in line else needed
            where.add(IMPORTED_AS.get(name, name.replace("-", "_")))
    return needed, optional


def test_the_wheel_works_from_another_directory(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    subprocess.run([*command, "--target", site, wheel], check=True)
    installed = {path.name for path in site.iterdir() if path.suffix != ".dist-info"}
    assert installed <= {"mell_jax", "bin"}, "a name that belongs to others"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    code = (
        f"import sys; sys.path.insert(0, {str(site)!r})\n"
        "import mell_jax, mell_jax.models, mell_jax.scheduler.batching\n"
        "from mell_jax.engine.build import demo_directory\n"
        f"assert mell_jax.__file__.startswith({str(site)!r}), mell_jax.__file__\n"
        "from mell_jax.checkpoints import read_spec\n"
        "assert read_spec(demo_directory()).architecture == 'LlamaForCausalLM'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=elsewhere, timeout=120)


def test_a_folder_outside_the_package_is_refused() -> None:
    code = "import models"
    result = subprocess.run(
        [sys.executable, "-c", code],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert "import mell_jax.models, not models" in result.stderr
