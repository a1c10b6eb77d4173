import pytest

from benchmarks.engine.harness import EngineHarness
from mell_jax.engine.build import BuiltEngine


@pytest.fixture
def harness(built: BuiltEngine) -> EngineHarness:
    return EngineHarness(built)
