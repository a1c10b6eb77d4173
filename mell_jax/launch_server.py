"""`mell-serve` builds an engine and serves it, once its settings are checked.

Apart from `launch.py` only because it imports jax and gRPC, which takes seconds.
"""

import contextlib
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from mell_jax.console import say
from mell_jax.engine.build import BuiltEngine, build_engine, settle_engine
from mell_jax.engine.config import EngineConfig
from mell_jax.engine.fleet.config import FleetConfig
from mell_jax.engine.weights.updater import WeightsUpdater
from mell_jax.events import Event, tell
from mell_jax.model_files.fingerprint import fingerprint_of
from mell_jax.serving.aborts import Aborts
from mell_jax.serving.address import Addresses
from mell_jax.serving.admin.controls import Controls
from mell_jax.serving.admin.path_loader import PathLoader
from mell_jax.serving.admin.port import check_port, serving_admin
from mell_jax.serving.admin.trainer.port import check_trainer_port, serving_trainers
from mell_jax.serving.config import ServerConfig
from mell_jax.serving.observe.logs import complain
from mell_jax.serving.observe.progress import LocalEngine
from mell_jax.serving.observe.tracing import check_tracing
from mell_jax.serving.openai.chats import check_chats
from mell_jax.serving.security.check import check_security
from mell_jax.serving.served_model import ServedModel
from mell_jax.serving.service import run_service
from mell_jax.serving.version import own_version
from mell_jax.settings.setting import Value
from mell_jax.text.tokenizer import load_tokenizer
from mell_jax.worker.cpu_devices import use_cpu_devices

_SETTLED = ("dtype", "max_rows", "token_budget", "decode_rows", "attention_backend")


def choose_devices(cpu_devices: int | None) -> None:
    """Shows the CPU as so many devices, before jax is used; None changes nothing.

    Raises:
      ValueError: the machine has an accelerator.
    """
    if cpu_devices is not None:
        use_cpu_devices(cpu_devices)


def settled_values(engines: Sequence[EngineConfig]) -> dict[str, Value]:
    """Returns settings that are left open as this machine and the models settle them.

    A setting on which the models do not agree stays open, and so does the context: it
    depends on the memory that the weights will leave.

    Raises:
      ValueError: a model or the configuration cannot be used.
    """
    settled = [settle_engine(engine) for engine in engines]
    found: dict[str, Value] = {}
    for name in _SETTLED:
        values = {getattr(one, name) for one in settled}
        if len(values) == 1:
            (value,) = values
            found[name] = str(value) if name == "dtype" else value
    return found


def launch(
    engines: Sequence[EngineConfig],
    *,
    fleet: FleetConfig,
    server: ServerConfig,
    started_s: float,
) -> int:
    """Builds the engine and serves it; returns the exit status.

    Raises:
      ValueError: the model or the configuration cannot be used.
      OSError: a file or the address cannot be used.
    """
    check_service(server, names=[engine.name for engine in engines])
    built = build_engine(*engines, fleet=fleet, progress=sys.stderr.isatty())
    aborts = Aborts()
    with _administered(built, engines[0], server=server, aborts=aborts):
        models = [served_model(model.name, model.directory) for model in built.models]
        built.learn({model.name: model.tokenizer for model in models})
        if server.frontends:  # each loads its own
            models = [replace(model, tokenizer=None) for model in models]
        return serve(
            built.thread,
            models=models,
            config=server,
            started_s=started_s,
            aborts=aborts,
        )


def check_service(server: ServerConfig, *, names: Sequence[str]) -> None:
    """Finds out early what would keep models of these names from being served.

    Raises:
      ValueError: the configuration cannot be used.
      OSError: a file or an address cannot be used.
    """
    check_security(server.security)
    if server.admin_port is not None:
        check_port(server.admin_port)
    if server.admin_http_port is not None:
        check_trainer_port(server.admin_http_host, port=server.admin_http_port)
    check_tracing(server.otlp_endpoint)
    check_chats(server.chat_templates, names=names, tool_formats=server.tool_formats)


@contextlib.contextmanager
def _administered(
    built: BuiltEngine, engine: EngineConfig, *, server: ServerConfig, aborts: Aborts
) -> Iterator[None]:
    """Opens the doors of operators and trainers meanwhile."""
    controls = Controls(
        built.thread.ask,
        loader=PathLoader(
            {
                name: WeightsUpdater(built.thread, model=name, plan=plan)
                for name, plan in built.plans.items()
            }
        ),
        weights_dirs=server.weights_dirs,
        abort=aborts.order,
        devices=engine.instances * engine.tensor_parallel,
        instances=engine.instances,
    )
    with (
        administered(controls, server=server),
        serving_trainers(controls, config=server) as trainers,
    ):
        if trainers is not None:
            say(f"trainers' routes are at {trainers}")
        yield


@contextlib.contextmanager
def administered(controls: Controls, *, server: ServerConfig) -> Iterator[None]:
    """Opens the door of operators meanwhile, and tells where.

    Raises:
      ValueError: there is no such port.
      BindError: the address is taken.
    """
    with (
        contextlib.closing(controls),
        serving_admin(
            controls,
            port=server.admin_port,
            tokens_file=server.security.tokens_file,
            is_reflection_on=server.is_reflection_on,
        ) as address,
    ):
        if address is not None:
            say(f"mell.v1.Admin is at {address}, for this machine alone")
        yield


def served_model(name: str, directory: Path | None) -> ServedModel:
    """Returns what clients are told of a model, its tokenizer loaded."""
    assert directory is not None, "a loaded model has a directory"
    return ServedModel(
        name=name,
        path=str(directory),
        tokenizer_dir=directory,
        tokenizer=load_tokenizer(directory),
        fingerprint=f"mell-{own_version()}-{fingerprint_of(directory)}",
    )


def serve(
    engine: LocalEngine,
    *,
    models: Sequence[ServedModel],
    config: ServerConfig,
    started_s: float,
    aborts: Aborts | None = None,
) -> int:
    """Serves a loaded engine until told to stop; returns the exit status.

    Args:
      engine: it is ready, but not started.
      models: what clients are told about each of the engine's models.
      config: how to serve.
      started_s: the start of the program on the monotonic clock.
      aborts: brings what operators order; None for nobody.

    Raises:
      BindError: the address cannot be listened on.
    """

    def on_ready(addresses: Addresses) -> None:
        took_s = time.monotonic() - started_s
        _tell_ready(addresses, models=[model.name for model in models], took_s=took_s)
        names = " and ".join(model.name for model in models)
        names += " is" if len(models) == 1 else " are"
        python = shlex.quote(sys.executable)
        say(
            f"{names} served at {addresses.grpc}, {took_s:.1f} s after the "
            f"start. Ctrl-C stops it. Try:\n\n"
            f"  {python} -m mell_jax.client --address={addresses.grpc} "
            f'"Once upon a time"\n',
        )
        if addresses.http is not None and addresses.http.startswith("unix:"):
            path = shlex.quote(addresses.http.removeprefix("unix:"))
            say(
                f"{path} has /v1 (OpenAI's API), /health and /metrics over HTTP. Try:"
                f"\n\n  curl --unix-socket {path} http://localhost/health\n",
            )
        elif addresses.http is not None:
            scheme = "https" if config.security.tls_cert else "http"
            look = f"https://{addresses.http}" if scheme == "https" else addresses.http
            say(
                f"{scheme}://{addresses.http} has /v1 (OpenAI's API), /health and "
                "/metrics. Look inside:\n\n"
                f"  {python} -m mell_jax.top --address={look}\n\n"
                f"or with a browser, at {scheme}://{addresses.http}/fleet\n",
            )
        if addresses.health is not None:
            say(f"health is told at {addresses.health}")

    cause = run_service(
        engine, models=models, config=config, on_ready=on_ready, aborts=aborts
    )
    if cause:
        complain(cause, log_format=config.log_format)
        return 1
    tell(Event.STOPPED, text="mell-serve has stopped")
    return 0


def _tell_ready(addresses: Addresses, *, models: Sequence[str], took_s: float) -> None:
    """Writes down that requests are taken."""
    names = ", ".join(models)
    tell(
        Event.READY,
        text=f"{names} served at {addresses.grpc}",
        models=names,
        grpc=addresses.grpc,
        http=addresses.http,
        health=addresses.health,
        took_s=round(took_s, 3),
    )
