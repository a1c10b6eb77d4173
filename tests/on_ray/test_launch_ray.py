"""A head on Ray, without Ray; `make conformance-ray` has it with Ray."""

import sys

import pytest

from mell_jax.engine.fleet.config import FleetConfig
from mell_jax.hosts.config import HostsConfig
from mell_jax.launch_ray import run_ray_head
from mell_jax.serving.config import ServerConfig


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # as if it were not installed
    with pytest.raises(
        ValueError, match=r"--ray needs Ray: pip install 'mell_jax\[ray"
    ):
        run_ray_head(
            (),
            fleet=FleetConfig(),
            hosts=HostsConfig(ray="auto"),
            server=ServerConfig(),
            given={},
            started_s=0.0,
        )
