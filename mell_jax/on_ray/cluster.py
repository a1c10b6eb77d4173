"""A Ray cluster is entered or begun here, and gets the controller of a fleet."""

import json
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import ray
import ray.exceptions
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mell_jax.on_ray.actors import ControllerActor

CONTROLLER = "mell-controller"
"""The name of its actor, in a namespace that is the fleet's."""
LOCAL = "local"
_LOOPBACK = "127.0.0.1"
_AGAIN = -1  # as often as it takes


@contextmanager
def entered(address: str) -> Iterator[None]:
    """Is in a Ray cluster; actors end with it.

    Args:
      address: as `ray.init` takes it. With "local" there is one of a single node, which
        nobody on another machine can reach.

    Raises:
      ConnectionError: there is no such cluster.
      RuntimeError: it has another version of Ray or Python.
    """
    own = {"_node_ip_address": _LOOPBACK, "include_dashboard": False}
    ray.init(
        address=address,
        log_to_driver=True,
        configure_logging=False,
        **(own if address == LOCAL else {}),
    )
    try:
        yield
    finally:
        ray.shutdown()


def start_controller(orders: Mapping[str, object], *, address: str) -> tuple[Any, str]:
    """Starts a controller beside this process; returns its actor and its address.

    It begins with the first host; one that Ray has to start again adopts what there is.

    Args:
      orders: as `launch_hosts.controller_orders` has them.
      address: where it listens; an empty text takes a free port of this node's address
        in the cluster, and keeps it.

    Raises:
      OSError: it cannot listen there.
    """
    listens = address or _free_address()
    told = json.dumps({**orders, "address": listens, "least_hosts": 1})
    here = ray.get_runtime_context().get_node_id()
    actor = (
        ray.remote(ControllerActor)
        .options(
            name=CONTROLLER,
            num_cpus=0,
            max_restarts=_AGAIN,
            max_task_retries=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(here, soft=False),
        )
        .remote(told)
    )
    try:
        return actor, ray.get(actor.address.remote())
    except ray.exceptions.RayError as error:
        raise OSError(f"the controller cannot begin at {listens}: {error}") from error


def _free_address() -> str:
    here = ray.util.get_node_ip_address()
    with socket.socket() as finds:
        finds.bind((here, 0))
        return f"{here}:{finds.getsockname()[1]}"
