"""Tests run stricter than production: no silent promotion, no ignored warning."""

from pathlib import Path

import hypothesis
import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

hypothesis.settings.register_profile("mell", deadline=None)  # machines are shared
hypothesis.settings.load_profile("mell")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--data", metavar="DIR", help="folder with traces and goldens")
    parser.addoption(
        "--platform", default="cpu", choices=["cpu", "gpu"], help="where tests run"
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--platform") == "cpu":
        jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 8)


@pytest.fixture(scope="session")
def data_dir(request: pytest.FixtureRequest) -> Path:
    """The folder given with `--data=DIR`; tests that need it skip without it."""
    folder = request.config.getoption("--data")
    if folder is None:
        pytest.skip("needs real data: give its folder with --data=DIR")
    path = Path(folder)
    assert path.is_dir(), f"--data={folder} is not a folder"
    return path
