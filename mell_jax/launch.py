"""`mell-serve`: loads a model, compiles its steps, and serves it over gRPC.

    mell-serve                              # the demo model
    mell-serve --model=/path/to/checkpoint --port=50051
    mell-serve --config=mell.toml           # settings that are no flags, too

Settings become frozen configurations here and are checked before anything heavy is
imported; nothing below reads a flag or a file of settings.
"""

import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from absl import flags, logging

from mell_jax.console import run_and_leave, say
from mell_jax.engine.config import EngineConfig, ModelsConfig
from mell_jax.engine.fleet.config import FleetConfig
from mell_jax.engine.fleet.faults import parse_fault
from mell_jax.events import Event, tell
from mell_jax.hosts.config import HostsConfig
from mell_jax.serving.address import allow_many_sockets, check_addresses
from mell_jax.serving.config import SERVER_LIMITS, ServerConfig
from mell_jax.serving.grpc_log import quiet_grpc
from mell_jax.serving.observe.logs import LogFormat, Place, complain, set_up_logging
from mell_jax.serving.security.config import SecurityConfig
from mell_jax.serving.stop_signals import end_at_once_when_told
from mell_jax.settings.flags import define_flags, explain_unknown, given_flags
from mell_jax.settings.setting import Value, build, settings_of, values_of
from mell_jax.settings.toml import read_file, render

_TITLES = {  # of the tables, in the order of the file
    "engine": "[engine] the models and their devices",
    "fleet": "[fleet] placement, migration and recovery",
    "server": "[server] doors, processes and the log",
    "limits": "[limits] bounds of what waits",
    "security": "[security] TLS and tokens",
    "hosts": "[hosts] one fleet over several hosts",
}
_MODELS, _FLEET = ModelsConfig(), FleetConfig()
_ENGINE = EngineConfig(compilation_cache_dir="~/.cache/mell_jax")
_SERVER, _LIMITS, _SECURITY = ServerConfig(frontends=1), SERVER_LIMITS, SecurityConfig()
_HOSTS = HostsConfig()
SETTINGS = (
    *settings_of(_MODELS, table="engine"),
    *settings_of(_ENGINE, table="engine"),
    *settings_of(_FLEET, table="fleet"),
    *settings_of(_SERVER, table="server"),
    *settings_of(_LIMITS, table="limits"),
    *settings_of(_SECURITY, table="security"),
    *settings_of(_HOSTS, table="hosts"),
)
RENAMED = {  # former flags, short names; an example where the value changes, too
    "epoch_ms": "epoch_s=1",
    "look_s": "move_price_s",
    "metrics_compat": "shows_vllm_names=true",
    "migration_budget": "migration_gbps",
    "park": "parking",
    "step": "checkpoint_step",
    "tenant_max_open": "max_tenant_open",
    "tenant_max_queued_tokens": "max_tenant_queued_tokens",
}


_FOR_HOSTS = {
    one.name
    for one in SETTINGS
    if one.table in ("engine", "fleet") or one.name in ("log_format", "verbose")
} | {"beat_s", "patience_beats", "fleet_tls_ca", "tls_cert", "tls_key"}
"""What the head of a fleet was told and its hosts are told, too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Orders:
    """The head of a fleet tells a host this, in one line of JSON."""

    given: Mapping[str, Value]  # settings
    secret: bytes


def read_orders() -> Orders:
    """Returns what the head says on the standard input.

    Raises:
      ValueError: it is no such line.
    """
    told = json.loads(sys.stdin.readline())
    known = {one.name: one for one in SETTINGS}
    given = {name: known[name].check(value) for name, value in told["given"].items()}
    return Orders(given=given, secret=bytes.fromhex(told["secret"]))


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchConfig:
    """An operator has set all this, and it is checked."""

    models: ModelsConfig
    engines: tuple[EngineConfig, ...]  # one for each model
    fleet: FleetConfig
    server: ServerConfig
    hosts: HostsConfig

    def in_force(self) -> dict[str, Value]:
        """Returns all values by the names of settings; None is left open."""
        found: dict[str, Value] = {}
        security, limits = self.server.security, self.server.limits
        first = self.engines[0]  # they differ by their models alone
        parts = (self.models, first, self.fleet, self.server, limits, security)
        for config in (*parts, self.hosts):
            found |= values_of(config, settings=settings_of(config, table=""))
        mesh = f"{first.instances}x{first.tensor_parallel}"
        return found | {"mesh": mesh, "devices": None}


def make_config(given: Mapping[str, Value], *, fault: str = "") -> LaunchConfig:
    """Returns the configurations of a server.

    Args:
      given: values by the names of settings; defaults hold for the others.
      fault: see `parse_fault`.

    Raises:
      ValueError: a value is out of range, or some contradict each other.
    """
    models = build(_MODELS, given=given)
    instances, tensor_parallel = models.shape()
    server = build(
        _SERVER,
        given=given,
        limits=build(_LIMITS, given=given),
        security=build(_SECURITY, given=given),
    )
    return LaunchConfig(
        models=models,
        engines=tuple(
            build(
                _ENGINE,
                given=given,
                model=directory,
                served_model_name=name,
                instances=instances,
                tensor_parallel=tensor_parallel,
                is_cache_optional="compilation_cache_dir" not in given,
            )
            for name, directory in models.models()
        ),
        fleet=build(
            _FLEET, given=given, fault=parse_fault(fault), stall_s=server.stall_s
        ),
        server=server,
        hosts=build(_HOSTS, given=given),
    )


def make_flags(*, has_hidden: bool) -> flags.FlagValues:
    """Returns the flags of `mell-serve`, in a registry of their own.

    Args:
      has_hidden: True adds the one for tests, which `--help` does not show.
    """
    values = flags.FlagValues()
    basic = [one for one in SETTINGS if one.is_flag]
    define_flags(basic, values=values, titles=_TITLES)
    group: dict[str, Any] = {"flag_values": values, "module_name": "this program"}
    flags.DEFINE_string(
        "config",
        None,
        "This file (TOML) holds settings, also those that are no flags; flags win.",
        **group,
    )
    flags.DEFINE_bool(
        "print_config",
        False,
        "All settings in force are printed as such a file, and nothing is served.",
        **group,
    )
    if has_hidden:
        flags.DEFINE_string(
            "fault",
            "",
            "Faults are planted: move:STEPS, raise:DEVICE:STEP, stall:DEVICE:STEP, "
            "hang:N or flip:N.",
            **group,
        )
        flags.DEFINE_string(
            "orders", "", "The head of a fleet gives settings on this input.", **group
        )
    return values


def given_by(values: flags.FlagValues) -> dict[str, Value]:
    """Returns what the command line and its file set; the command line wins.

    Raises:
      ValueError: the file cannot be used.
      OSError: the file cannot be read.
    """
    typed = given_flags(values, settings=SETTINGS)
    if values.config is None:
        return typed
    written = read_file(Path(values.config), settings=SETTINGS)
    if {"mesh", "devices"} & typed.keys():  # two ways to say the same
        written = {k: v for k, v in written.items() if k not in ("mesh", "devices")}
    return written | typed


def place_of(given: Mapping[str, Value]) -> Place | None:
    """Returns what this process is in a fleet of hosts; None where there is none."""
    try:
        hosts = build(_HOSTS, given=given)
    except ValueError:
        return None  # as is told once there is a log
    if hosts.join:
        return Place(f"host {hosts.name}")
    return Place("front") if hosts.hosts or hosts.ray else None


def begin_log(
    log_format: LogFormat, *, is_verbose: bool, place: Place | None = None
) -> None:
    """Sets up the log, as the first thing of all."""
    flags.FLAGS.mark_as_parsed()  # absl's log has flags there; they keep their defaults
    logging.use_absl_handler()
    verbosity = logging.INFO if is_verbose else logging.WARNING
    set_up_logging(log_format, verbosity=verbosity, process="engine", place=place)
    tell(Event.STARTING, text="mell-serve is starting")


def main(argv: Sequence[str]) -> int:
    """Serves until told to end; returns the exit status."""
    started_s = time.monotonic()
    quiet_grpc()  # before anything imports it
    end_at_once_when_told()  # until requests are served
    wants_help = bool({"--help", "-h"} & set(argv[1:]))
    values = make_flags(has_hidden=not wants_help)
    if wants_help or "--helpfull" in argv[1:]:
        print(__doc__, values.get_help(include_special_flags=False), sep="")
        return 0
    try:
        extra = values(list(argv))[1:]
        if extra:
            return _refuse(f"takes flags only, got {extra[0]!r}")
        orders = read_orders() if values["orders"].value else None
        given = {**(orders.given if orders is not None else {}), **given_by(values)}
    except flags.UnrecognizedFlagError as error:
        return _refuse(
            explain_unknown(error, values=values, settings=SETTINGS, renamed=RENAMED)
        )
    except (flags.Error, ValueError, OSError) as error:
        return _refuse(str(error))
    return _start(values, given=given, orders=orders, started_s=started_s)


def _refuse(text: str) -> int:
    say(f"mell-serve: {text}", to_error=True)
    return 1


def _start(
    values: flags.FlagValues,
    *,
    given: Mapping[str, Value],
    orders: "Orders | None",
    started_s: float,
) -> int:
    """Prints the settings in force, or serves; returns the exit status."""
    told = {name: given[name] for name in ("log_format", "verbose") if name in given}
    log = build(_SERVER, given=told)
    place = place_of(given)
    begin_log(log.log_format, is_verbose=log.verbose, place=place)
    try:
        config = make_config(given, fault=values.fault)
        if not values.print_config:
            if not config.hosts.join:
                check_addresses(config.server)
            allow_many_sockets()
        # It imports jax and gRPC: seconds, spent once the settings are checked.
        from mell_jax import launch_server  # noqa: PLC0415

        launch_server.choose_devices(config.models.cpu_devices)
        if not values.print_config:
            return _launch(
                config, given=given, orders=orders, place=place, started_s=started_s
            )
        settled = launch_server.settled_values(config.engines)
        print(render({**config.in_force(), **settled}, settings=SETTINGS))
    except (ValueError, OSError, RuntimeError) as error:
        if log.verbose:
            raise
        complain(str(error), log_format=log.log_format)
        return 1
    return 0


def _launch(
    config: LaunchConfig,
    *,
    given: Mapping[str, Value],
    orders: "Orders | None",
    place: Place | None,
    started_s: float,
) -> int:
    """Serves by an engine of its own, or as part of a fleet of several hosts."""
    from mell_jax import launch_hosts, launch_ray, launch_server  # noqa: PLC0415

    fleet, server, hosts = config.fleet, config.server, config.hosts
    if hosts.join:
        return launch_hosts.run_host(
            config.engines,
            fleet=fleet,
            hosts=hosts,
            server=server,
            secret=orders.secret if orders is not None else hosts.secret(),
            has_parent=orders is not None,
            place=place,
        )
    if hosts.hosts or hosts.ray:
        run_head = launch_hosts.run_head if hosts.hosts else launch_ray.run_ray_head
        return run_head(
            config.engines,
            fleet=fleet,
            hosts=hosts,
            server=server,
            given={name: given[name] for name in given if name in _FOR_HOSTS},
            place=place,
            started_s=started_s,
        )
    return launch_server.launch(
        config.engines, fleet=fleet, server=server, started_s=started_s
    )


def run() -> NoReturn:
    """Runs the program as the console script does."""
    run_and_leave(main)


if __name__ == "__main__":
    run()
