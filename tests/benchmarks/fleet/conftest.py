import dataclasses

import pytest

from benchmarks.fleet.harness import FleetHarness, build_harness
from mell_jax.engine.config import EngineConfig


@pytest.fixture(scope="session")
def harness(tiny_engine: EngineConfig) -> FleetHarness:
    """Three instances on one device, so that steps compile once."""
    engine = dataclasses.replace(
        tiny_engine, instances=3, device_ids=(0, 0, 0), kv_pages=33
    )
    return build_harness(engine, progress=False)
