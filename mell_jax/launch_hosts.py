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
from functools import partial
from pathlib import Path

from absl import logging

from mell_jax.console import leave, say
from mell_jax.engine.admin import UpdateWeights
from mell_jax.engine.build import BuiltHost, build_host, model_directory
from mell_jax.engine.config import EngineConfig
from mell_jax.engine.fleet.config import FleetConfig
from mell_jax.engine.frames import EngineStopped, StepFrame
from mell_jax.engine.hosts.wires import Heard, Leave
from mell_jax.hosts.children import (
    USELESS,
    Child,
    end_with_parent,
    host_command,
    start_piped,
)
from mell_jax.hosts.config import HostsConfig
from mell_jax.hosts.front import HostsEngine
from mell_jax.hosts.host_file import HostLine, read_hosts
from mell_jax.hosts.host_links import HostLinks
from mell_jax.hosts.link import LinkConfig, own_address
from mell_jax.hosts.operator import not_here
from mell_jax.hosts.seek import why
from mell_jax.hosts.tls import TlsPaths, contexts
from mell_jax.hosts.wire import Served
from mell_jax.launch_server import (
    administered,
    check_service,
    serve,
    served_model,
)
from mell_jax.model_files.fingerprint import fingerprint_of
from mell_jax.scheduler.ids import ModelId
from mell_jax.serving.aborts import Aborts
from mell_jax.serving.admin.controls import Controls
from mell_jax.serving.config import ServerConfig
from mell_jax.serving.observe.logs import Place
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
    place: Place | None = None,
) -> int:
    """Computes for a fleet until told to end; returns the exit status.

    Args:
      secret: the fleet's.
      has_parent: the standard input ends when this process is to end.
      place: names this process in its log, and learns its epoch.

    Raises:
      ValueError: the model or the configuration cannot be used.
      OSError: a file or the address cannot be used.
    """
    is_told, is_over, is_up = (threading.Event() for _ in range(3))

    def end() -> None:
        if not is_up.is_set():
            leave(1)  # it loads or compiles, and has nothing to put in order
        is_over.set()
        is_told.set()

    causes: list[str] = []

    def refuse(reason: str) -> None:
        causes.append(f"the fleet at {hosts.join} does not let this host in: {reason}")
        end()

    if has_parent:
        end_with_parent(end)
    links = HostLinks(
        hosts.name,
        address=hosts.fleet_address or _own_address(hosts.join),
        controller=hosts.join,
        config=links_of(hosts, server=server, secret=secret),
        on_epoch=lambda epoch: enter(place, epoch),
        on_refused=refuse,
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

    def hear(frame: StepFrame | EngineStopped) -> None:
        if isinstance(frame, EngineStopped):
            causes.append(frame.message)
            end()

    for number in (signal.SIGTERM, signal.SIGINT):  # which end it at once until now
        signal.signal(number, lambda *_: is_told.set())
    is_up.set()
    built.thread.start(hear)
    address = links.start(
        models=_served_by(built, directories=[m.directory for m in built.models]),
        post=lambda heard: _post(built, heard),
        group_of=built.host.hands.group_of,
    )
    say(f"host {hosts.name} is at {address}, of the fleet at {hosts.join}")
    is_told.wait()
    if not is_over.is_set():
        _leave(built, drain_s=server.drain_s, is_over=is_over)
    links.stop()
    built.thread.stop(most_s=10.0)
    if any(causes):
        say(f"mell-serve: {causes[0]}", to_error=True)
        return 1
    return 0


def _own_address(controller: str) -> str:
    """Returns where this host is for its controller.

    Raises:
      OSError: no way leads there.
    """
    try:
        return own_address(controller)
    except OSError as error:
        raise OSError(f"join: no way leads to {controller}: {why(error)}") from error


def enter(place: Place | None, epoch: int | None) -> None:
    """Names the epoch of this process in each line of its log from now on."""
    if place is not None:
        place.epoch = epoch


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


def _served_by(
    built: BuiltHost, *, directories: Sequence[Path | None]
) -> tuple[Served, ...]:
    return tuple(
        Served(
            info=info,
            spec=built.specs[ModelId(info.model_name)],
            fingerprint=fingerprint_of(directory) if directory is not None else "",
        )
        for info, directory in zip(built.host.infos, directories, strict=True)
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
    place: Place | None = None,
) -> int:
    """Starts a fleet and serves it until told to end; returns the exit status.

    Args:
      given: settings that hosts get as well.
      place: names this process in its log, and learns its number as a front end.

    Raises:
      ValueError: the hosts' file or the configuration cannot be used.
      OSError: a file or the address cannot be used, or no host answers.
    """
    lines = read_hosts(Path(hosts.hosts))
    check_fleet(server, names=[engine.name for engine in engines])
    secret = hosts.secret() or secrets.token_bytes(32)
    with contextlib.ExitStack() as stack:
        controller = _Controller(
            hosts, fleet=fleet, server=server, secret=secret, least_hosts=len(lines)
        )
        child = Child("the controller", controller.start)
        stack.callback(child.stop)
        engine = HostsEngine(
            controller.address,
            name="front",
            links=links_of(hosts, server=server, secret=secret),
            on_front=lambda front: enter(place, front),
        )
        children = [
            Child(
                f"host {line.name}",
                _starter(line, controller.address, secret=secret, given=given),
                is_useless=partial(_is_useless, name=line.name, engine=engine),
            )
            for line in lines
        ]
        for each in children:
            stack.callback(each.stop)
        for each in children:  # all end at once
            stack.callback(each.begin_stop)
        stack.callback(child.begin_stop)  # so that it takes nobody to be lost
        engine.connect(trouble=lambda: _trouble_of(children))
        return serve_fleet(engine, engines, server=server, started_s=started_s)


def _is_useless(status: int, *, name: str, engine: HostsEngine) -> bool:
    """Tells whether a host that was never in the fleet would only end again."""
    return status in USELESS and name not in engine.seen_hosts


def _trouble_of(children: Sequence[Child]) -> str:
    found = [child.trouble for child in children if child.trouble]
    return before_joining(found[0] if found else "")


def before_joining(trouble: str) -> str:
    """Returns why a fleet will not be whole; empty while it may.

    Args:
      trouble: of a host that is not started again; empty: there is none.
    """
    return f"{trouble} before it has joined" if trouble else ""


def check_fleet(server: ServerConfig, *, names: Sequence[str]) -> None:
    """Finds out early what would keep a fleet of hosts from being served.

    Raises:
      ValueError: the configuration cannot be used.
      OSError: a file or an address cannot be used.
    """
    if server.admin_http_port is not None:
        raise ValueError(
            "admin_http_port is for one process: weights of a fleet of several hosts "
            "change by restarting its hosts one after another; leave it out"
        )
    check_service(server, names=names)


def serve_fleet(
    engine: HostsEngine,
    engines: Sequence[EngineConfig],
    *,
    server: ServerConfig,
    started_s: float,
) -> int:
    """Serves a fleet that is met, until told to end; returns the exit status.

    Raises:
      BindError: an address cannot be listened on.
    """
    aborts = Aborts()
    controls = Controls(
        engine.ask, abort=aborts.order, no_updates=not_here(UpdateWeights)
    )
    with administered(controls, server=server):
        models = [served_model(one.name, model_directory(one)) for one in engines]
        return serve(
            engine, models=models, config=server, started_s=started_s, aborts=aborts
        )


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
            wants_errors=True,
        )

    return start


def _finite(values: dict[str, object]) -> dict[str, object]:
    """JSON has no infinity: what has no bound is left out, as is its default."""
    return {k: v for k, v in values.items() if v != float("inf")}


def _plain(paths: TlsPaths | None) -> dict[str, str] | None:
    return asdict(paths) if paths is not None else None
