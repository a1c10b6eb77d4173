"""Starts front ends, watches them and the engine, and ends all of it in order.

    before ready    front ends are killed, and the signal does what it did before
    first signal    NOT_SERVING, front ends drain and end, then the engine
    second signal   the same, at once
    front end gone  its sequences are aborted (`link`); another one starts
    engine gone     streams end with UNAVAILABLE, front ends end, exit status 1

Runs on the main thread and does one thing: take the next event and act on it. Time is
counted in looks, one every `LOOK_S`, so that a machine that slept raises no alarm.
"""

import queue
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import final

from absl import logging

from mell_jax.engine.frames import EngineStopped, StepFrame
from mell_jax.serving.aborts import Aborts
from mell_jax.serving.address import (
    Addresses,
    join_address,
    remove_file,
    reserve,
)
from mell_jax.serving.config import ServerConfig
from mell_jax.serving.observe.health import HealthPort
from mell_jax.serving.observe.progress import (
    LOOK_S,
    LocalEngine,
    ProgressWatch,
    stop_engine,
)
from mell_jax.serving.processes.front_end_pool import (
    FrontEndFailed,
    FrontEndLimits,
    FrontEndPool,
)
from mell_jax.serving.processes.link import Gone, Heard
from mell_jax.serving.processes.wire import (
    AbortRequests,
    DrainFrontEnd,
    FrontEndReady,
    Hurry,
    Pulse,
)
from mell_jax.serving.served_model import ServedModel

_LAST_WORDS_LOOKS = 10  # for front ends to end once they were told to


@dataclass(frozen=True, slots=True, kw_only=True)
class Signalled:
    """A signal asks the server to end."""

    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineEnded:
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AbortOrdered:
    """An operator ends requests, whichever front end has them."""

    request_ids: tuple[str, ...]


SupervisorEvent = AbortOrdered | Heard | Gone | Signalled | EngineEnded


class ServicePhase(Enum):
    STARTING = auto()
    SERVING = auto()
    DRAINING = auto()
    HURRYING = auto()  # the last stage: those that are left are killed soon


def run_fronts(
    engine: LocalEngine,
    *,
    models: Sequence[ServedModel],
    config: ServerConfig,
    on_ready: Callable[[Addresses], None],
    limits: FrontEndLimits | None = None,
    aborts: Aborts | None = None,
) -> str:
    """Serves from `config.frontends` processes until a signal or the engine's end.

    Call it on the main thread. A signal that comes before anything is served is passed
    on to its earlier handler once no process is left.

    Args:
      engine: not yet started; it is stopped on return.
      models: what clients are told about each model; their tokenizers are loaded by
        the front ends.
      config: where and how to serve.
      on_ready: called with the addresses once requests are taken.
      limits: for what front ends may do.
      aborts: brings what operators order; None for nobody.

    Returns:
      Why service ended, when nobody asked for it; the log has the cause.

    Raises:
      BindError: an address cannot be listened on.
    """
    with ExitStack() as stack:
        stack.callback(stop_engine, engine)
        supervisor = Supervisor(
            engine, models=models, config=_reserve(config, stack), limits=limits
        )
        stack.callback(supervisor.close)
        if aborts is not None:
            aborts.listen(supervisor.on_abort)
            stack.callback(aborts.leave)
        for number in (signal.SIGTERM, signal.SIGINT):
            before = signal.signal(number, supervisor.on_signal)
            stack.callback(signal.signal, number, before)
        cause = supervisor.run(on_ready)
    if supervisor.early_signal is not None:
        signal.raise_signal(supervisor.early_signal)
    return cause


def _reserve(config: ServerConfig, stack: ExitStack) -> ServerConfig:
    """Returns the configuration with ports that are kept while `stack` is open.

    Raises:
      BindError: an address cannot be listened on.
    """

    def keep(port: int, *, flag: str) -> int:
        sock = stack.enter_context(reserve(config.host, port=port, flag=flag))
        return int(sock.getsockname()[1])

    http_port, port = config.http_port, config.port
    for path in (config.unix_socket, config.http_unix_socket):
        if path is not None:  # a front end that is killed leaves its file
            stack.callback(remove_file, path)
    return replace(
        config,
        port=port if config.unix_socket is not None else keep(port, flag="--port"),
        http_port=None if http_port is None else keep(http_port, flag="--http_port"),
    )


def _addresses_of(config: ServerConfig) -> Addresses:
    grpc = join_address(config.host, port=config.port)
    http = None
    if config.http_port is not None:
        http = join_address(config.host, port=config.http_port)
    elif config.http_unix_socket is not None:
        http = f"unix:{config.http_unix_socket}"
    if config.unix_socket is not None:
        grpc = f"unix:{config.unix_socket}"
    return Addresses(grpc=grpc, http=http)


@final
class Supervisor:
    """Keeps a server with front-end processes running; see `run_fronts`.

    Attributes:
      early_signal: the number of one that came before requests were taken.
    """

    def __init__(
        self,
        engine: LocalEngine,
        *,
        models: Sequence[ServedModel],
        config: ServerConfig,
        limits: FrontEndLimits | None,
    ) -> None:
        self._engine = engine
        self._config = config
        self._addresses = _addresses_of(config)
        self._events: queue.SimpleQueue[SupervisorEvent] = queue.SimpleQueue()
        self._pool = FrontEndPool(
            engine,
            models=models,
            config=config,
            notify=self._events.put,
            limits=limits or FrontEndLimits(),
        )
        self._watch = ProgressWatch(engine, stall_s=config.stall_s)
        self._is_progressing = True
        self._phase = ServicePhase.STARTING
        self._looks_left: int | None = None  # of this phase; None: as many as it takes
        self._cause = ""
        self.early_signal: int | None = None
        self._on_ready: Callable[[Addresses], None] = lambda _: None
        self._health: HealthPort | None = None

    def run(self, on_ready: Callable[[Addresses], None]) -> str:
        """Serves until the end; see `run_fronts`."""
        self._on_ready = on_ready
        if self._config.health_port is not None:
            self._health = HealthPort()
            address = self._health.start(
                self._config.host, port=self._config.health_port
            )
            self._addresses = replace(self._addresses, health=address)
        self._engine.start(self._sink)
        self._pool.start()
        look_s = time.monotonic()
        while self._pool.num_alive or self._phase is ServicePhase.SERVING:
            wait_s = look_s - time.monotonic()
            try:
                self._act(self._events.get(timeout=max(0.0, wait_s)))
            except queue.Empty:
                self._look()
                look_s = time.monotonic() + LOOK_S
            except FrontEndFailed as error:
                self._end(ServicePhase.DRAINING, cause=str(error))
            self._tell_health()
        return self._cause

    def close(self) -> None:
        """Leaves no process behind."""
        self._pool.kill()
        if self._health is not None:
            self._health.stop()

    def on_signal(self, number: int, _: object) -> None:
        self._events.put(Signalled(number=number))

    def on_abort(self, request_ids: Sequence[str]) -> None:
        self._events.put(AbortOrdered(request_ids=tuple(request_ids)))

    def _sink(self, frame: StepFrame | EngineStopped) -> None:
        """Returns the function that the engine calls on its thread."""
        if isinstance(frame, EngineStopped):
            self._events.put(EngineEnded(message=frame.message))
        else:
            self._pool.send_step(frame)

    def _act(self, event: SupervisorEvent) -> None:
        match event:
            case Heard(number=number, message=message):
                self._hear(number, message)
            case AbortOrdered(request_ids=request_ids):
                self._pool.tell_all(AbortRequests(request_ids=request_ids))
            case Gone():
                self._pool.reap(event, is_missed=self._phase is ServicePhase.SERVING)
                if self._phase is ServicePhase.STARTING:
                    raise FrontEndFailed(f"a front end did not start: {event.reason}")
            case Signalled(number=number) if self._phase is ServicePhase.STARTING:
                self.early_signal = number
                self._phase = ServicePhase.HURRYING  # nobody is there to be told
                self._pool.kill()
            case Signalled():
                is_first = self._phase is ServicePhase.SERVING
                self._end(ServicePhase.DRAINING if is_first else ServicePhase.HURRYING)
            case EngineEnded(message=message):
                logging.error("%s", message or "the engine has stopped")
                self._pool.tell_all(EngineStopped(message="the engine failed"))
                self._end(ServicePhase.HURRYING, cause="the engine failed")

    def _hear(self, number: int, message: FrontEndReady | AbortRequests) -> None:
        match message:
            case FrontEndReady():
                self._pool.welcome(number)
                if self._phase is ServicePhase.STARTING and self._pool.are_all_ready:
                    self._phase = ServicePhase.SERVING
                    self._on_ready(self._addresses)
            case AbortRequests():
                self._pool.tell_all(message, but=number)

    def _look(self) -> None:
        self._is_progressing = self._watch.look()
        self._pool.look(
            Pulse(load=self._engine.load(), is_ready=self._is_progressing),
            is_hiring=self._phase is ServicePhase.SERVING,
        )
        if self._looks_left is not None:
            self._looks_left -= 1
            if self._looks_left <= 0:
                self._end(ServicePhase.HURRYING)

    def _end(self, phase: ServicePhase, *, cause: str = "") -> None:
        """Begins to end, or ends sooner; kills all when told to hurry twice."""
        self._cause = self._cause or cause
        if self._phase is ServicePhase.HURRYING:
            self._pool.kill()
            return
        self._phase = phase
        if phase is ServicePhase.DRAINING:
            self._pool.tell_all(DrainFrontEnd())
            wait_s = self._config.grace_s + self._config.drain_s
            self._looks_left = round(wait_s / LOOK_S) + _LAST_WORDS_LOOKS
        else:
            self._pool.tell_all(Hurry())
            self._looks_left = _LAST_WORDS_LOOKS

    def _tell_health(self) -> None:
        if self._health is not None:
            self._health.set_ready(
                self._phase is ServicePhase.SERVING
                and self._is_progressing
                and self._pool.is_any_ready
            )
