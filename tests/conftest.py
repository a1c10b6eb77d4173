"""Tests run stricter than production: no silent promotion, no ignored warning.

The kernels' tests also run where little more than jax is installed, so that the engine
is imported only by the fixtures that build one.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import jax
import pytest

if TYPE_CHECKING:
    from mell_jax.engine.build import BuiltEngine
    from mell_jax.engine.config import EngineConfig

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

hypothesis.settings.register_profile("mell", deadline=None)  # machines are shared
hypothesis.settings.load_profile("mell")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--data", metavar="DIR", help="folder with traces and goldens")
    parser.addoption(
        "--llama_python", metavar="PYTHON", help="one that has xllamacpp and gguf"
    )
    parser.addoption(
        "--fault_minutes",
        type=float,
        default=0.5,
        help="faults come to real hosts at random for so long",
    )
    parser.addoption(
        "--fault_seed", type=int, default=19, help="which faults come, and when"
    )
    parser.addoption(
        "--platform", default="cpu", choices=["cpu", "gpu"], help="where tests run"
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--platform") == "cpu":
        jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 8)
    # Hundreds of engines of the same few models are made: what one has compiled, others
    # find, which halves the time of these tests.
    folder = tempfile.TemporaryDirectory(prefix="mell-tests-")
    config.add_cleanup(folder.cleanup)
    jax.config.update("jax_compilation_cache_dir", folder.name)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


@pytest.fixture(scope="session")
def data_dir(request: pytest.FixtureRequest) -> Path:
    """The folder given with `--data=DIR`; tests that need it skip without it."""
    folder = request.config.getoption("--data")
    if folder is None:
        pytest.skip("needs real data: give its folder with --data=DIR")
    path = Path(folder)
    assert path.is_dir(), f"--data={folder} is not a folder"
    return path


@pytest.fixture(scope="session")
def tiny_directory() -> Iterator[Path]:
    """A two-layer model with random weights and 256 token ids."""
    from mell_jax.bench.shapes import model_directory  # noqa: PLC0415

    with model_directory("random:tiny") as directory:
        yield directory


@pytest.fixture(scope="session")
def tiny_engine(tiny_directory: Path) -> EngineConfig:
    """Few and small shapes, quick to compile."""
    from mell_jax.engine.config import EngineConfig  # noqa: PLC0415

    return EngineConfig(
        model=str(tiny_directory),
        max_rows=4,
        decode_rows=(4,),
        token_budget=32,
        max_model_len=128,
        prefix_cache=False,
    )


@pytest.fixture(scope="session")
def built(tiny_engine: EngineConfig) -> BuiltEngine:
    from mell_jax.engine.build import build_engine  # noqa: PLC0415

    return build_engine(tiny_engine)
