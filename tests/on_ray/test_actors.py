"""What runs in Ray's actors, run without Ray."""

import json
import socket

import pytest

from mell_jax.launch_hosts import host_orders
from mell_jax.on_ray.actors import ControllerActor, HostActor
from mell_jax.scheduler.hosts.need import Need

ORDERS = {
    "secret": "00" * 16,
    "beat_s": 0.5,
    "patience": 10,
    "policy": "consolidate",
    "policies": {},
    "least_hosts": 1,
    "tls": None,
    "log_format": "text",
    "verbosity": -1,
}


def test_a_controller_listens_where_it_is_told_and_needs_nothing_yet() -> None:
    with socket.socket() as finds:
        finds.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{finds.getsockname()[1]}"
    tested = ControllerActor(json.dumps({**ORDERS, "address": address}))
    assert tested.address() == address
    assert tested.need() == Need()
    with pytest.raises(OSError, match="in use"):
        ControllerActor(json.dumps({**ORDERS, "address": address}))


def test_a_host_that_cannot_start_is_not_started_again() -> None:
    orders = host_orders(
        "ray-1",
        controller="127.0.0.1:1",
        secret=bytes(16),
        given={"model": ["demo"], "mesh": "64x1", "cpu_devices": 1},
    )
    actor = HostActor("ray-1", orders=orders)
    try:
        trouble = actor.hold()
    finally:
        actor.end()
    assert trouble.startswith("host ray-1 has ended (")
    assert "64" in trouble
    assert actor.hold() == ""  # it is over
