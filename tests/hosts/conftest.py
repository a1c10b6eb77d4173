"""What fleets of real processes share."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one fleet has compiled, others find."""
    return tmp_path_factory.mktemp("compiled")
