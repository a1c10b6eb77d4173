"""`mell-serve` as part of a fleet of several hosts: as one of them, or as their head.

    head    starts controller and hosts, and serves clients     --hosts=FILE
    host    computes what the fleet gives it                    --join=ADDRESS

Apart from `launch.py` only because it imports jax, which takes seconds.
"""

import contextlib
import json
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from absl import logging

from mell_jax.engine.build import BuiltHost, build_host, model_directory
from mell_jax.engine.config import EngineConfig
from mell_jax.engine.fleet.config import FleetConfig
from mell_jax.engine.frames import EngineStopped, StepFrame
from mell_jax.engine.hosts.wires import Heard, Leave
from mell_jax.hosts.children import Child, end_with_parent, host_command, start_piped
from mell_jax.hosts.config import HostsConfig
from mell_jax.hosts.front import HostsEngine
from mell_jax.hosts.host_file import HostLine, read_hosts
from mell_jax.hosts.host_links import HostLinks
from mell_jax.hosts.link import LinkConfig, own_address
from mell_jax.hosts.tls import TlsPaths, contexts
from mell_jax.hosts.wire import Served
from mell_jax.launch_server import serve, served_model
from mell_jax.scheduler.ids import ModelId
from mell_jax.serving.config import ServerConfig
from mell_jax.settings.setting import Value

_ANY = "127.0.0.1:0"
_CONTROLLER = "mell_jax.hosts.controller_main"


def tls_of(hosts: HostsConfig, *, server: ServerConfig) -> TlsPaths | None:
    """Returns what the fleet's own links are encrypted with; None for nothing.

    Raises:
      ValueError: there is an authority, and no certificate.
    """
    if not hosts.fleet_tls_ca:
        return None
    if not server.security.tls_cert:
        raise ValueError("fleet_tls_ca needs tls_cert and tls_key, too: give all three")
    return TlsPaths(
        cert=server.security.tls_cert,
        key=server.security.tls_key,
        ca=hosts.fleet_tls_ca,
    )


def links_of(hosts: HostsConfig, *, server: ServerConfig, secret: bytes) -> LinkConfig:
    """Returns how the fleet's processes talk to each other."""
    listens, connects = contexts(tls_of(hosts, server=server))
    return LinkConfig(
        secret=secret,
        patience=hosts.patience_beats,
        beat_s=hosts.beat_s,
        server=listens,
        client=connects,
    )


# As a host.


def run_host(
    engines: Sequence[EngineConfig],
    *,
    fleet: FleetConfig,
    hosts: HostsConfig,
    server: ServerConfig,
    secret: bytes,
    has_parent: bool,
) -> int:
    """Computes for a fleet until told to end; returns the exit status.

    Args:
      secret: the fleet's.
      has_parent: the standard input ends when this process is to end.

    Raises:
      ValueError: the model or the configuration cannot be used.
      OSError: a file or the address cannot be used.
    """
    is_told, is_over = threading.Event(), threading.Event()

    def end() -> None:
        is_over.set()
        is_told.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: is_told.set())
    if has_parent:
        end_with_parent(end)
    links = HostLinks(
        hosts.name,
        address=hosts.fleet_address or own_address(hosts.join),
        controller=hosts.join,
        config=links_of(hosts, server=server, secret=secret),
        pages_by=hosts.pages_by,
    )
    built = build_host(
        engines,
        name=hosts.name,
        fleet=fleet,
        wires=links,
        progress=sys.stderr.isatty(),
    )
    found = [served_model(model.name, model.directory) for model in built.models]
    built.learn({model.name: model.tokenizer for model in found})
    causes: list[str] = []

    def hear(frame: StepFrame | EngineStopped) -> None:
        if isinstance(frame, EngineStopped):
            causes.append(frame.message)
            end()

    built.thread.start(hear)
    address = links.start(
        models=_served_by(built),
        post=lambda heard: _post(built, heard),
        group_of=built.host.hands.group_of,
    )
    print(
        f"host {hosts.name} is at {address}, of the fleet at {hosts.join}", flush=True
    )
    is_told.wait()
    if not is_over.is_set():
        _leave(built, drain_s=server.drain_s, is_over=is_over)
    links.stop()
    built.thread.stop(most_s=10.0)
    if any(causes):
        print(f"mell-serve: {causes[0]}", file=sys.stderr)
        return 1
    return 0


def _leave(built: BuiltHost, *, drain_s: float, is_over: threading.Event) -> None:
    """Has requests moved away, for at most so long; others start again elsewhere."""
    _post(built, Leave())
    end_s = time.monotonic() + drain_s
    while time.monotonic() < end_s and not is_over.is_set():
        if built.host.has_left.wait(0.1):
            return


def _post(built: BuiltHost, heard: Heard) -> None:
    built.host.post(heard)
    built.thread.ping()


def _served_by(built: BuiltHost) -> tuple[Served, ...]:
    return tuple(
        Served(info=info, spec=built.specs[ModelId(info.model_name)])
        for info in built.host.infos
    )


# As the head.


def run_head(
    engines: Sequence[EngineConfig],
    *,
    fleet: FleetConfig,
    hosts: HostsConfig,
    server: ServerConfig,
    given: Mapping[str, Value],
    started_s: float,
) -> int:
    """Starts a fleet and serves it until told to end; returns the exit status.

    Args:
      given: settings that hosts get as well.

    Raises:
      ValueError: the hosts' file or the configuration cannot be used.
      OSError: a file or the address cannot be used, or no host answers.
    """
    lines = read_hosts(Path(hosts.hosts))
    secret = hosts.secret() or secrets.token_bytes(32)
    with contextlib.ExitStack() as stack:
        controller = _Controller(
            hosts, fleet=fleet, server=server, secret=secret, least_hosts=len(lines)
        )
        child = Child("the controller", controller.start)
        stack.callback(child.stop)
        children = [
            Child(
                f"host {line.name}",
                _starter(line, controller.address, secret=secret, given=given),
            )
            for line in lines
        ]
        for each in children:
            stack.callback(each.stop)
        for each in children:  # all end at once
            stack.callback(each.begin_stop)
        engine = HostsEngine(
            controller.address,
            name="front",
            links=links_of(hosts, server=server, secret=secret),
        )
        engine.connect()
        models = [served_model(one.name, model_directory(one)) for one in engines]
        return serve(engine, models=models, config=server, started_s=started_s)


def controller_orders(
    hosts: HostsConfig, *, fleet: FleetConfig, server: ServerConfig, secret: bytes
) -> dict[str, object]:
    """Returns what a controller is told, but for `address` and `least_hosts`."""
    return {
        "secret": secret.hex(),
        "beat_s": hosts.beat_s,
        "patience": hosts.patience_beats,
        "policy": fleet.policy,
        "policies": _finite(asdict(fleet.policy_config())),
        "tls": _plain(tls_of(hosts, server=server)),
        "log_format": server.log_format,
        "verbosity": logging.get_verbosity(),
    }


def host_orders(
    name: str, *, controller: str, secret: bytes, given: Mapping[str, Value]
) -> str:
    """Returns what a host is told, in one line.

    Args:
      name: of the host.
      controller: its address.
      given: settings.
    """
    told = {**given, "join": controller, "host_name": name}
    return json.dumps({"secret": secret.hex(), "given": told})


class _Controller:
    """Starts the controller, always at the same address."""

    def __init__(
        self,
        hosts: HostsConfig,
        *,
        fleet: FleetConfig,
        server: ServerConfig,
        secret: bytes,
        least_hosts: int,
    ) -> None:
        self.address = hosts.fleet_address or _ANY
        self._orders = controller_orders(
            hosts, fleet=fleet, server=server, secret=secret
        )
        self._least_hosts = least_hosts

    def start(self) -> "subprocess.Popen[bytes]":
        """Starts it, and waits until it listens.

        Raises:
          OSError: it cannot.
        """
        orders = {
            **self._orders,
            "address": self.address,
            "least_hosts": self._least_hosts,
        }
        process = start_piped(
            [sys.executable, "-m", _CONTROLLER],
            first_line=json.dumps(orders).encode(),
            wants_output=True,
        )
        assert process.stdout is not None
        address = process.stdout.readline().decode().strip()
        if not address:
            raise OSError("the controller's process has ended at once")
        self.address = address
        self._least_hosts = 1  # it adopts what there is, if it has to start again
        return process


def _starter(
    line: HostLine, controller: str, *, secret: bytes, given: Mapping[str, Value]
) -> "Callable[[], subprocess.Popen[bytes]]":
    orders = host_orders(line.name, controller=controller, secret=secret, given=given)

    def start() -> "subprocess.Popen[bytes]":
        return start_piped(
            host_command(line, flags=()),
            first_line=orders.encode(),
            wants_output=False,
        )

    return start


def _finite(values: dict[str, object]) -> dict[str, object]:
    """JSON has no infinity: what has no bound is left out, as is its default."""
    return {k: v for k, v in values.items() if v != float("inf")}


def _plain(paths: TlsPaths | None) -> dict[str, str] | None:
    return asdict(paths) if paths is not None else None
