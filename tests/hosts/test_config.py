from pathlib import Path
from typing import Any

import pytest

from mell_jax.hosts.config import HostsConfig


def test_by_default_there_is_no_fleet_of_hosts() -> None:
    config = HostsConfig()
    assert (config.hosts, config.join) == ("", "")
    assert config.secret() == b""


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"hosts": "file", "join": "127.0.0.1:1"}, "exclude each other"),
        ({"hosts": "file", "ray": "auto"}, "hosts, join and ray exclude each other"),
        ({"ray": "auto", "join": "127.0.0.1:1"}, "exclude each other"),
        ({"ray": "ray://10.0.0.1:10001"}, "ray must be HOST:PORT, auto or local, got"),
        ({"ray_hosts": 0}, "ray_hosts must be from 1 to 10000, got 0"),
        ({"ray_hosts": 10_001}, "ray_hosts must be"),
        ({"ray_idle_s": -1.0}, "ray_idle_s must be 0 or more, got -1.0"),
        ({"ray_idle_s": float("nan")}, "ray_idle_s must be"),
        ({"ray_node": ""}, "ray_node must be as in CPU=8,GPU=8, got ''"),
        ({"ray_node": "CPU"}, "ray_node must be"),
        ({"ray_node": "CPU=0"}, "ray_node must be"),
        ({"ray_node": "GPU=inf"}, "ray_node must be"),
        ({"ray_node": "=1"}, "ray_node must be"),
        ({"join": "left"}, r"join: an address is host:port, .*, got 'left'"),
        ({"join": "10.0.0.1:x"}, "join: an address is host:port"),
        ({"join": ":7000"}, "join names no machine, got ':7000'"),
        ({"join": "10.0.0.1:0"}, "join must name the port of a controller, got"),
        ({"fleet_address": "10.0.0.1"}, "fleet_address: an address is host:port"),
        ({"beat_s": 0.0}, "beat_s must be from 0.01 to 60, got 0.0"),
        ({"beat_s": float("nan")}, "beat_s must be"),
        ({"patience_beats": 0}, "patience_beats must be from 1 to 10000, got 0"),
        ({"patience_beats": 10_001}, "patience_beats must be"),
        (
            {"pages_by": "auto", "fleet_tls_ca": "ca.pem"},
            "pages_by auto contradicts fleet_tls_ca",
        ),
    ],
)
def test_values_out_of_range_are_refused(values: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        HostsConfig(**values)


@pytest.mark.parametrize(
    ("values", "is_alone"),
    [
        ({}, True),
        ({"join": "127.0.0.1:7000"}, True),
        ({"join": "[::1]:7000", "fleet_address": "localhost:0"}, True),
        ({"join": "10.0.0.7:7000"}, False),
        ({"hosts": "file", "fleet_address": "0.0.0.0:7000"}, False),
    ],
)
def test_a_fleet_over_machines_needs_a_secret(
    values: dict[str, str], is_alone: bool
) -> None:
    config = HostsConfig(**values)  # hosts get theirs from the head
    assert config.is_on_this_machine == is_alone
    if is_alone:
        assert config.secret() == b""
    else:
        with pytest.raises(ValueError, match="needs fleet_secret_file"):
            config.secret()


def test_what_a_host_takes_of_its_node_is_read() -> None:
    config = HostsConfig(ray="auto", ray_node="CPU=8, GPU=0.5,fast=1")
    assert config.node_resources() == {"CPU": 8.0, "GPU": 0.5, "fast": 1.0}


def test_a_fleet_on_ray_makes_its_own_secret() -> None:
    assert HostsConfig(ray="auto", fleet_address="10.0.0.1:7000").secret() == b""


def test_a_secret_is_its_owners_alone_and_long_enough(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    config = HostsConfig(hosts="file", fleet_secret_file=str(path))
    path.write_bytes(b"0123456789abcdef")
    path.chmod(0o600)
    assert config.secret() == b"0123456789abcdef"
    path.chmod(0o640)
    with pytest.raises(ValueError, match="can be read by others: chmod 600"):
        config.secret()
    path.chmod(0o600)
    path.write_bytes(b"0123456789abcde")
    with pytest.raises(ValueError, match="has 15 bytes, of which it needs 16"):
        config.secret()
    path.unlink()
    with pytest.raises(FileNotFoundError):
        config.secret()


def test_a_host_has_a_name() -> None:
    assert HostsConfig(host_name="left").name == "left"
    assert HostsConfig().name
