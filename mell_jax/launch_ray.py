"""`mell-serve` as the head of a fleet on a Ray cluster: `--ray=ADDRESS|auto|local`.

    this process   front end, and keeper of the hosts
    actors         the controller, on this node; one host on each of some others

Apart from `launch_hosts.py` because it needs Ray, which is an extra.
"""

import contextlib
import secrets
from collections.abc import Mapping, Sequence

from mell_jax.engine.config import EngineConfig
from mell_jax.engine.fleet.config import FleetConfig
from mell_jax.hosts.config import HostsConfig
from mell_jax.hosts.front import HostsEngine
from mell_jax.launch_hosts import (
    before_joining,
    check_fleet,
    controller_orders,
    enter,
    host_orders,
    links_of,
    serve_fleet,
)
from mell_jax.serving.config import ServerConfig
from mell_jax.serving.observe.logs import Place
from mell_jax.settings.setting import Value


def run_ray_head(
    engines: Sequence[EngineConfig],
    *,
    fleet: FleetConfig,
    hosts: HostsConfig,
    server: ServerConfig,
    given: Mapping[str, Value],
    started_s: float,
    place: Place | None = None,
) -> int:
    """Starts a fleet on a Ray cluster and serves it; returns the exit status.

    Args:
      given: settings that hosts get as well.
      place: names this process in its log, and learns its number as a front end.

    Raises:
      ValueError: Ray is not installed, or the configuration cannot be used.
      OSError: there is no such cluster, or an address cannot be used.
      RuntimeError: the cluster has another version of Ray or Python.
    """
    try:
        from mell_jax.on_ray import cluster  # noqa: PLC0415 - an extra
        from mell_jax.on_ray.keeper import Keeper  # noqa: PLC0415
        from mell_jax.on_ray.nodes import Nodes  # noqa: PLC0415
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise ValueError("--ray needs Ray: pip install 'mell_jax[ray]'") from error
    from mell_jax.on_ray.scaling import Scaling  # noqa: PLC0415

    check_fleet(server, names=[engine.name for engine in engines])
    secret = hosts.secret() or secrets.token_bytes(32)
    told = controller_orders(hosts, fleet=fleet, server=server, secret=secret)
    with contextlib.ExitStack() as stack:
        stack.enter_context(cluster.entered(hosts.ray))
        controller, address = cluster.start_controller(
            told, address=hosts.fleet_address
        )
        engine = HostsEngine(
            address,
            name="front",
            links=links_of(hosts, server=server, secret=secret),
            on_front=lambda front: enter(place, front),
        )
        nodes = Nodes(
            hosts.node_resources(),
            orders_of=lambda name: host_orders(
                name, controller=address, secret=secret, given=given
            ),
            seen=lambda: engine.seen_hosts,
            drain_s=server.drain_s,
        )
        scaling = Scaling(most=hosts.ray_hosts, idle_s=hosts.ray_idle_s)
        keeper = Keeper(nodes, scaling=scaling, controller=controller)
        keeper.start()
        stack.callback(keeper.stop)
        engine.connect(trouble=lambda: before_joining(nodes.trouble))
        return serve_fleet(engine, engines, server=server, started_s=started_s)
