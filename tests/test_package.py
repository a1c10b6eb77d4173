"""The wheel holds the package, its data and nothing beside it."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DATA = ("config.json", "model.safetensors", "tokenizer.json", "generation_config.json")


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


def test_everything_lies_inside_the_package(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"mell_jax"}
    for folder in ("models", "pallas_kernels", "scheduler"):
        assert f"mell_jax/{folder}/__init__.py" in names
    for name in DATA:
        assert f"mell_jax/demo/{name}" in names
    assert "mell_jax/py.typed" in names


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
