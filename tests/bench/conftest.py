import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from mell_jax.bench.rig import Rig
from mell_jax.bench.shapes import model_directory
from mell_jax.bench.yard import Yard, build_yard
from mell_jax.engine.build import BuiltEngine, build_engine
from mell_jax.engine.config import EngineConfig


@pytest.fixture(scope="session")
def tiny_directory() -> Iterator[Path]:
    """A two-layer model with random weights and 256 token ids."""
    with model_directory("random:tiny") as directory:
        yield directory


@pytest.fixture(scope="session")
def tiny_engine(tiny_directory: Path) -> EngineConfig:
    """Few and small shapes, quick to compile."""
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
    return build_engine(tiny_engine)


@pytest.fixture
def rig(built: BuiltEngine) -> Rig:
    return Rig(built)


@pytest.fixture(scope="session")
def yard(tiny_engine: EngineConfig) -> Yard:
    """Three instances on one device, so that steps compile once."""
    engine = dataclasses.replace(
        tiny_engine, instances=3, devices=(0, 0, 0), kv_pages=33
    )
    return build_yard(engine, progress=False)
