"""A pool holds the front ends of a server: one process and one link each."""

import functools
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import final

from absl import logging

from mell_jax.engine.frames import EngineStopped, StepFrame
from mell_jax.events import Event, tell
from mell_jax.frontend import EngineLink
from mell_jax.serving.config import ServerConfig
from mell_jax.serving.grpc_log import quiet_environment
from mell_jax.serving.processes.link import FrontLink, Gone, Heard
from mell_jax.serving.processes.shared_counts import SharedCounts
from mell_jax.serving.processes.wire import (
    AbortRequests,
    DrainFrontEnd,
    Grown,
    Hurry,
    ModelPlace,
    Pulse,
    Welcome,
    to_front,
)
from mell_jax.serving.served_model import ServedModel

_CHILD = "mell_jax.serving.processes.child"
_EXIT_S = 2.0  # from the last word to the end of a process


class FrontEndFailed(RuntimeError):
    """Front ends cannot be kept alive."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontEndLimits:
    """Front ends may do this much; a look is half a second.

    Attributes:
      max_unread_bytes: of messages that one has not read.
      max_unanswered: pulses in a row that one has not answered.
      max_start_looks: until one listens.
      max_deaths: in a row; the next one ends the server.
      calm_looks: without a death, after which they are counted anew.
    """

    max_unread_bytes: int = 2**26
    max_unanswered: int = 60
    max_start_looks: int = 240
    max_deaths: int = 5
    calm_looks: int = 240


@dataclass(slots=True, kw_only=True)
class _FrontEnd:
    process: subprocess.Popen[bytes]
    link: FrontLink
    is_ready: bool = False
    looks: int = 0  # since its start


@final
class FrontEndPool:
    """Keeps the number of front ends; one thread calls it, but for `send_step`."""

    def __init__(
        self,
        engine: EngineLink,
        *,
        models: Sequence[ServedModel],
        config: ServerConfig,
        notify: Callable[[Heard | Gone], None],
        limits: FrontEndLimits,
    ) -> None:
        """Runs nothing yet.

        Args:
          engine: where requests go.
          models: what clients are told about each model.
          config: of every front end; they share its ports.
          notify: hears what happens, on any thread.
          limits: for what they may do.
        """
        self._engine = engine
        self._codec = to_front()
        self._counts = SharedCounts()
        self._notify = notify
        self._limits = limits
        self._config = config
        self._models = tuple(
            ModelPlace(
                name=model.name,
                path=model.path,
                tokenizer_dir=model.tokenizer_dir,
                fingerprint=model.fingerprint,
            )
            for model in models
        )
        self._fronts: dict[int, _FrontEnd] = {}
        self._links: tuple[FrontLink, ...] = ()  # replaced, for the engine's thread
        self._next_number = 1
        self._deaths = 0  # in a row
        self._calm = 0  # looks since the latest
        self._vacancies: list[int] = []  # looks until each is filled

    @property
    def num_alive(self) -> int:
        return len(self._fronts)

    @property
    def are_all_ready(self) -> bool:
        return all(front.is_ready for front in self._fronts.values())

    @property
    def is_any_ready(self) -> bool:
        return any(front.is_ready for front in self._fronts.values())

    def start(self) -> None:
        """Starts all of them; each tells when it is ready."""
        for _ in range(self._config.frontends):
            self._start_one()

    def send_step(self, frame: StepFrame) -> None:
        """Sends each front end its rows; called on the engine's thread."""
        load = self._engine.load()
        if load.fleet is not None or load.phases is not None:
            load = replace(load, fleet=None, phases=None)  # large: sent with pulses
        for link in self._links:
            link.send_step(frame, load=load)

    def tell_all(
        self,
        message: DrainFrontEnd | Hurry | EngineStopped | AbortRequests,
        *,
        but: int | None = None,
    ) -> None:
        for number, front in self._fronts.items():
            if number != but:
                front.link.send(message)

    def welcome(self, number: int) -> None:
        """Records that a front end listens."""
        if front := self._fronts.get(number):
            front.is_ready = True
            tell(
                Event.FRONT_END_READY, text=f"front end {number} listens", number=number
            )

    def reap(self, gone: Gone, *, is_missed: bool) -> None:
        """Ends what is left of a front end, and plans for another if it is missed.

        Raises:
          FrontFailed: too many have died.
        """
        front = self._fronts.pop(gone.number)
        self._update_links()
        _reap(front.process, patience_s=_EXIT_S if gone.is_by_itself else 0.0)
        if not is_missed:
            return
        self._deaths, self._calm = self._deaths + 1, 0
        tell(
            Event.FRONT_END_DIED,
            text=f"front end {gone.number} is gone: {gone.reason}",
            number=gone.number,
            reason=gone.reason,
        )
        if not (self._deaths <= self._limits.max_deaths):
            raise FrontEndFailed(
                f"front ends ended {self._deaths} times in a row, the last one since "
                f"{gone.reason}"
            )
        self._vacancies.append(0 if self._deaths == 1 else 2 ** (self._deaths - 2))

    def look(self, pulse: Pulse, *, is_hiring: bool) -> None:
        """Gives up front ends that are silent and replaces those that are gone."""
        for front in self._fronts.values():
            front.looks += 1
            if not (front.link.unanswered < self._limits.max_unanswered):
                front.link.fail("it does not answer")
            elif not (front.is_ready or front.looks < self._limits.max_start_looks):
                front.link.fail("it does not get ready")
            elif front.is_ready:
                front.link.unanswered += 1
                others = self._counts.held_by_others(front.link.number)
                front.link.send(replace(pulse, others=others))
        self._calm += 1
        if self._calm >= self._limits.calm_looks:
            self._deaths = 0
        if is_hiring:
            self._vacancies = [looks - 1 for looks in self._vacancies]
            for _ in [looks for looks in self._vacancies if looks < 0]:
                self._start_one()
            self._vacancies = [looks for looks in self._vacancies if looks >= 0]

    def kill(self) -> None:
        """Ends all of them now; `Gone` follows for each."""
        for front in self._fronts.values():
            front.process.kill()
            front.link.fail("it was killed")
            front.process.wait()

    def _start_one(self) -> None:
        number, self._next_number = self._next_number, self._next_number + 1
        ours, theirs = socket.socketpair()
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-m", _CHILD, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=quiet_environment(),
                pass_fds=(theirs.fileno(),),
                process_group=0,  # Ctrl-C is for the engine's process
            )
        link = FrontLink(
            ours,
            number=number,
            codec=self._codec,
            counts=self._counts,
            load=self._engine.load,
            submit=self._engine.send,
            tell=self._notify,
            pass_on=functools.partial(self._pass_on, number),
            max_unread_bytes=self._limits.max_unread_bytes,
        )
        link.send(
            Welcome(
                number=number,
                is_alone=self._config.frontends == 1,
                verbosity=logging.get_verbosity(),
                config=self._config,
                infos=self._engine.infos,
                models=self._models,
                load=self._engine.load(),
            )
        )
        self._fronts[number] = _FrontEnd(process=process, link=link)
        self._update_links()
        link.start()

    def _pass_on(self, number: int, grown: Grown) -> None:
        """Tells the others what has grown at one of them; on any thread."""
        for link in self._links:
            if link.number != number:
                part = self._counts.grown_at_others(link.number, grown.part)
                link.send(Grown(part=part))

    def _update_links(self) -> None:
        self._links = tuple(front.link for front in self._fronts.values())


def _reap(process: subprocess.Popen[bytes], *, patience_s: float) -> None:
    try:
        process.wait(patience_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
