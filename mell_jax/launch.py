"""`mell-serve`: loads a model, compiles its steps, and serves it over gRPC.

    mell-serve                              # the demo model
    mell-serve --model=/path/to/checkpoint --port=50051

Flags become one frozen configuration here; nothing below reads a flag.
"""

import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from absl import flags

from mell_jax.console import run_program
from mell_jax.events import Event, tell
from mell_jax.launch_doors import server_from_flags
from mell_jax.launch_logs import (
    begin_log,
    complain,
    log_format_from_flags,
    otlp_endpoint_from_flags,
    tell_ready,
)
from mell_jax.serving.address import Addresses, allow_many_sockets, check_addresses
from mell_jax.serving.admin.port import check_port, serving_admin
from mell_jax.serving.config import ServerConfig
from mell_jax.serving.observe.progress import LocalEngine
from mell_jax.serving.observe.tracing import check_tracing
from mell_jax.serving.openai.chats import check_chats
from mell_jax.serving.security import check_security
from mell_jax.serving.service import run_service
from mell_jax.serving.stop_signals import end_at_once_when_told
from mell_jax.serving.vllm.servicer import ServedModel
from mell_jax.text.tokenizer import load_tokenizer

if TYPE_CHECKING:  # imports jax: slow, and needless for --help
    from mell_jax.engine.build import BuiltModel
    from mell_jax.engine.config import DType, EngineConfig
    from mell_jax.engine.fleet.config import FleetConfig, Parking, Way

_MODEL = flags.DEFINE_multi_string(
    "model",
    ["demo"],
    "A model directory, or the demo model that comes along. Repeat it as "
    "--model=name=directory for several models that share the devices.",
)
_NAME = flags.DEFINE_string(
    "served_model_name", None, "What clients call the model; by default its directory."
)
_ADMIN_PORT = flags.DEFINE_integer(
    "admin_port",
    None,
    "Port of 127.0.0.1 for mell.v1.Admin: placements, migration, drains, policy; 0 for "
    "any free one. Off.",
)
_DTYPE = flags.DEFINE_enum(
    "dtype", "auto", ["auto", "float32", "bfloat16"], "Of weights and cached keys."
)
_MAX_MODEL_LEN = flags.DEFINE_integer(
    "max_model_len", None, "Most tokens of prompt and output together."
)
_MAX_ROWS = flags.DEFINE_integer("max_rows", None, "Sequences that run at once.")
_TOKEN_BUDGET = flags.DEFINE_integer("token_budget", None, "Most tokens in a step.")
_DECODE_ROWS = flags.DEFINE_multi_integer(
    "decode_rows", [], "Batch size to compile a decode step for; may be repeated."
)
_KV_PAGES = flags.DEFINE_integer(
    "kv_pages", None, "Pages of 16 tokens; by default what the memory holds."
)
_KV_MEMORY_FRACTION = flags.DEFINE_float(
    "kv_memory_fraction", 0.9, "For pages, of what is free once weights are loaded."
)
_PREFIX_CACHE = flags.DEFINE_bool("prefix_cache", True, "Reuse pages of equal prompts.")
_COMPILATION_CACHE_DIR = flags.DEFINE_string(
    "compilation_cache_dir",
    "~/.cache/mell_jax",
    "Keeps compiled steps for the next start; yours alone, never shared. Empty: off.",
)
_MESH = flags.DEFINE_string(
    "mesh", "1x1", "Instances x devices of each (tensor parallelism), such as 1x2."
)
_DEVICE_IDS = flags.DEFINE_multi_integer(
    "device_ids",
    [],
    "Number of a device to use; repeat it for each. The first by default.",
)
_DEVICES = flags.DEFINE_integer(
    "devices", None, "Instances of one device each; short for --mesh=Nx1."
)
_POLICY = flags.DEFINE_string(
    "policy", "consolidate", "Of a fleet: which placement policy decides."
)
_MOVE_PRICE_S = flags.DEFINE_float(
    "move_price_s",
    0.6,
    "Of a fleet: device seconds that moving a full device is worth; less of it means "
    "fewer devices and more bytes moved.",
)
_PLACE_WAIT_MS = flags.DEFINE_float(
    "place_wait_ms",
    100.0,
    "Of a fleet: most that an arrival waits before a device is opened for it.",
)
_EPOCH_MS = flags.DEFINE_float(
    "epoch_ms", 1000.0, "Of a fleet: time between consolidations."
)
_MIGRATION_BUDGET = flags.DEFINE_float(
    "migration_budget",
    None,
    "Of a fleet: Gb/s of a device's link that consolidation may use; no bound.",
)
_PARK = flags.DEFINE_enum(
    "park",
    "pool",
    ["pool", "weights"],
    "Of a fleet: what an idle instance gives back; with its weights also its pool.",
)
_REPLAY_LIMIT = flags.DEFINE_integer(
    "replay_limit", 3, "Of a fleet: devices that a request may lose before it fails."
)
_TRANSPORT = flags.DEFINE_enum(
    "transport",
    "device_put",
    ["device_put", "permute"],
    "Of a fleet: how pages of moved requests are copied; permute is a collective.",
)
_FAULT: flags.FlagHolder[str] = (
    flags.DEFINE(  # for tests: not in --help, but in --helpfull
        flags.ArgumentParser(),
        "fault",
        "",
        "Of a fleet: plants faults; move:STEPS, raise:DEVICE:STEP, hang:N or flip:N.",
        module_name="mell_jax.engine.fleet.faults",
    )
)
_CPU_DEVICES = flags.DEFINE_integer(
    "cpu_devices", None, "Without accelerators: show the CPU as so many devices."
)
_ATTENTION_BACKEND = flags.DEFINE_string(
    "attention_backend", "auto", "Which paged attention to use."
)
_SEED = flags.DEFINE_integer("seed", 0, "Of the seeds of requests that have none.")
_VERBOSE = flags.DEFINE_bool("verbose", False, "Log more, and whole tracebacks.")


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchConfig:
    """Everything the flags say."""

    engines: "tuple[EngineConfig, ...]"  # one for each model
    fleet: "FleetConfig"
    server: ServerConfig
    cpu_devices: int | None  # None: the devices that there are
    admin_port: int | None  # None: no administration


def config_from_flags() -> LaunchConfig:
    """The flags as one value.

    Raises:
      ValueError: a flag is out of range.
    """
    return LaunchConfig(
        engines=_engines_from_flags(),
        fleet=_fleet_from_flags(),
        server=server_from_flags(
            log_format=log_format_from_flags(), otlp_endpoint=otlp_endpoint_from_flags()
        ),
        cpu_devices=_CPU_DEVICES.value,
        admin_port=_ADMIN_PORT.value,
    )


def _engines_from_flags() -> "tuple[EngineConfig, ...]":
    from mell_jax.engine.config import EngineConfig, parse_mesh  # noqa: PLC0415 it imports jax

    if _DEVICES.value is not None and _MESH.present:
        raise ValueError("give devices or mesh, not both: --devices=N is --mesh=Nx1")
    mesh = f"{_DEVICES.value}x1" if _DEVICES.value is not None else _MESH.value
    instances, tensor_parallel = parse_mesh(mesh)
    cache_dir = _COMPILATION_CACHE_DIR.value
    return tuple(
        EngineConfig(
            model=model,
            served_model_name=name,
            dtype=cast("DType", _DTYPE.value),
            max_model_len=_MAX_MODEL_LEN.value,
            max_rows=_MAX_ROWS.value,
            token_budget=_TOKEN_BUDGET.value,
            decode_rows=tuple(_DECODE_ROWS.value),
            kv_pages=_KV_PAGES.value,
            kv_memory_fraction=_KV_MEMORY_FRACTION.value,
            prefix_cache=_PREFIX_CACHE.value,
            instances=instances,
            tensor_parallel=tensor_parallel,
            devices=tuple(_DEVICE_IDS.value) or None,
            attention_backend=_ATTENTION_BACKEND.value,
            compilation_cache_dir=Path(cache_dir).expanduser() if cache_dir else None,
            seed=_SEED.value,
        )
        for name, model in _models_from_flags()
    )


def _models_from_flags() -> list[tuple[str | None, str]]:
    """Names, where given, and directories."""
    models = [split_model_flag(text) for text in _MODEL.value]
    if _NAME.value is None:
        return models
    if len(models) > 1:
        raise ValueError(
            "served_model_name is for one model; name several by --model=name=directory"
        )
    return [(_NAME.value, models[0][1])]


def _fleet_from_flags() -> "FleetConfig":
    from mell_jax.engine.fleet.config import FleetConfig  # noqa: PLC0415 it imports jax
    from mell_jax.engine.fleet.faults import parse_fault  # noqa: PLC0415 likewise

    return FleetConfig(
        policy=_POLICY.value,
        move_price_s=_MOVE_PRICE_S.value,
        place_wait_ms=_PLACE_WAIT_MS.value,
        epoch_s=_EPOCH_MS.value * 1e-3,
        migration_gbps=_MIGRATION_BUDGET.value,
        parking=cast("Parking", _PARK.value),
        replay_limit=_REPLAY_LIMIT.value,
        transport=cast("Way", _TRANSPORT.value),
        fault=parse_fault(_FAULT.value),
    )


def split_model_flag(text: str) -> tuple[str | None, str]:
    """Name and directory of "name=directory"; no name if there is only the latter."""
    name, is_named, directory = text.partition("=")
    return (name, directory) if is_named else (None, text)


def serve(
    engine: LocalEngine,
    *,
    models: Sequence[ServedModel],
    config: ServerConfig,
    started_s: float,
) -> int:
    """Serves a loaded engine until told to stop; returns the exit status.

    Args:
      engine: ready, but not started.
      models: what clients are told about each of the engine's models.
      config: where and how.
      started_s: when the program started, on the monotonic clock.

    Raises:
      BindError: the address cannot be listened on.
    """

    def on_ready(addresses: Addresses) -> None:
        took_s = time.monotonic() - started_s
        tell_ready(addresses, models=[model.name for model in models], took_s=took_s)
        names = " and ".join(model.name for model in models)
        names += " is" if len(models) == 1 else " are"
        python = shlex.quote(sys.executable)
        print(
            f"{names} served at {addresses.grpc}, {took_s:.1f} s after the "
            f"start. Ctrl-C stops it. Try:\n\n"
            f"  {python} -m mell_jax.client --address={addresses.grpc} "
            f'"Once upon a time"\n',
            flush=True,
        )
        if addresses.http is not None:
            scheme = "https" if config.security.tls_cert else "http"
            look = f"https://{addresses.http}" if scheme == "https" else addresses.http
            print(
                f"{scheme}://{addresses.http} has /v1 (OpenAI's API), /health and "
                "/metrics. Look inside:\n\n"
                f"  {python} -m mell_jax.top --address={look}\n",
                flush=True,
            )
        if addresses.health is not None:
            print(f"health is told at {addresses.health}", flush=True)

    cause = run_service(engine, models=models, config=config, on_ready=on_ready)
    if cause:
        complain(cause, log_format=config.log_format)
        return 1
    tell(Event.STOPPED, text="mell-serve has stopped")
    return 0


def launch(config: LaunchConfig, *, started_s: float) -> int:
    """Builds the engine and serves it; returns the exit status.

    Raises:
      ValueError: the model or the configuration cannot be used.
      OSError: a file or the address cannot be used.
    """
    from mell_jax.engine.build import build_engine  # noqa: PLC0415 it imports jax
    from mell_jax.worker.cpu_devices import use_cpu_devices  # noqa: PLC0415 likewise

    check_addresses(config.server)  # before minutes of loading
    allow_many_sockets()
    check_security(config.server.security)
    if config.admin_port is not None:
        check_port(config.admin_port)
    check_tracing(config.server.otlp_endpoint)
    names = [engine.name for engine in config.engines]
    check_chats(config.server.chat_templates, names=names)
    if config.cpu_devices is not None:
        use_cpu_devices(config.cpu_devices)
    built = build_engine(
        *config.engines, fleet=config.fleet, progress=sys.stderr.isatty()
    )
    with serving_admin(
        built.thread.ask,
        port=config.admin_port,
        tokens_file=config.server.security.tokens_file,
        is_reflection_on=config.server.is_reflection_on,
    ) as address:
        if address is not None:
            print(f"mell.v1.Admin is at {address}, for this machine alone", flush=True)
        return serve(
            built.thread,
            models=[
                _served(model, is_loaded=not config.server.frontends)
                for model in built.models
            ],
            config=config.server,
            started_s=started_s,
        )


def _served(model: "BuiltModel", *, is_loaded: bool) -> ServedModel:
    """`is_loaded` False leaves its tokenizer to the front ends."""
    directory = model.directory
    assert directory is not None, "a loaded model has a directory"
    return ServedModel(
        name=model.name,
        path=str(directory),
        tokenizer_dir=directory,
        tokenizer=load_tokenizer(directory) if is_loaded else None,
    )


def main(argv: Sequence[str]) -> int:
    started_s = time.monotonic()
    end_at_once_when_told()  # until requests are served
    if len(argv) > 1:
        print(f"mell-serve: takes flags only, got {argv[1]!r}", file=sys.stderr)
        return 1
    begin_log(is_verbose=_VERBOSE.value)
    try:
        return launch(config_from_flags(), started_s=started_s)
    except (ValueError, OSError, RuntimeError) as error:
        if _VERBOSE.value:
            raise
        complain(str(error), log_format=log_format_from_flags())
        return 1


def run() -> None:
    """The console script."""
    modules = ("mell_jax.launch", "mell_jax.launch_doors", "mell_jax.launch_logs")
    run_program(main, modules=modules)


if __name__ == "__main__":
    run()
