"""One thread drives the engine; others leave messages in its mailbox."""

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol, final

from mell_jax.engine.admin import Answer, Command
from mell_jax.engine.frames import (
    Abort,
    EngineInfo,
    EngineLoad,
    EngineStopped,
    StepFrame,
    Submit,
)
from mell_jax.engine.params import InvalidRequestError
from mell_jax.engine.step_times import StepPhase, StepTimes
from mell_jax.events import Event, tell
from mell_jax.scheduler.placement.operator import NotPossibleError, UnknownTargetError
from mell_jax.worker.compilation import CompilationCounter
from mell_jax.worker.settings import own_settings

Sink = Callable[[StepFrame | EngineStopped], None]


class Steps(Protocol):
    """The thread drives an engine that offers these steps: a `Fleet`."""

    @property
    def infos(self) -> tuple[EngineInfo, ...]:
        """Returns what is known of every model; the first one is the default."""

    @property
    def has_work(self) -> bool: ...

    @property
    def idle_wait_s(self) -> float | None:
        """Returns how long to wait for messages without work; None: until one comes."""

    def submit(self, submit: Submit) -> None: ...

    def abort(self, abort: Abort) -> None: ...

    def administer(self, command: Command) -> Answer | Future[Answer]:
        """Answers a command, now or in a later step, or raises one of `REFUSALS`."""

    def step(self) -> StepFrame | None: ...

    def nudge(self) -> None:
        """Tells a step that waits of a message; from any thread, without blocking."""

    @property
    def is_resting(self) -> bool:
        """Returns whether no step is due: nobody waits, or an instance is opening."""

    def probe(self) -> None:
        """Makes devices without work compute something, and waits for them.

        It is no step: nothing counts it. Raises what a step would.
        """

    def load(self, *, compilations: int = 0) -> EngineLoad: ...

    def close(self) -> None:
        """Waits a moment until nothing waits for a device; no step follows."""


LOAD_S = 0.01
"""While it works, what it counts is no older than this and a step."""
PROBE_PINGS = 10
"""Between two probes of an idle engine: five seconds, where it is watched."""
REFUSALS = (NotPossibleError, UnknownTargetError, InvalidRequestError)


@dataclass(frozen=True, slots=True, eq=False)
class _Question:
    """A question is a command whose answer somebody waits for."""

    command: Command
    answer: Future[Answer]


class _Stop:
    """Tells the thread to end after what was sent before."""


class _Ping:
    """Makes an idle thread go round."""


_Message = Submit | Abort | _Question | _Ping | _Stop


@final
class EngineThread:
    """The thread runs an engine until it is stopped or fails.

    Messages are taken between steps; while there is work the thread never waits for
    them. A step that raises ends the engine: the sink gets an `EngineStopped` that
    says why, and every later message is dropped.
    """

    def __init__(
        self,
        engine: Steps,
        *,
        compilations: CompilationCounter,
        times: StepTimes | None = None,
    ) -> None:
        """Makes a thread that does not run yet.

        Args:
          engine: what it drives.
          compilations: what counts programs compiled.
          times: the engine's own, told how long the sink takes; None for nobody.
        """
        self._times = times or StepTimes()
        self.infos: tuple[EngineInfo, ...] = engine.infos
        self._engine = engine
        self._compilations = compilations
        self._inbox = queue.SimpleQueue[_Message]()
        self._load = engine.load(compilations=compilations.count)
        self._look_s = time.monotonic()
        self._thread: threading.Thread | None = None
        self._has_ended = threading.Event()
        self._rounds = 0
        self._idle_pings = 0  # since the latest step or probe
        self._violations = 0  # found, of invariants
        self._later: list[Future[Answer]] = []  # answers that the engine owes

    @property
    def rounds(self) -> int:
        """Grows while the engine gets somewhere, and with a ping while it rests.

        A round counts when the one before launched a step, said something, or left
        nothing to do. So neither a step that hangs nor an engine that goes round with
        work and does none of it makes this grow.
        """
        return self._rounds

    @property
    def is_alive(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def start(self, sink: Sink) -> None:
        """Begins to run; `sink` is called on the engine's thread, once per step.

        Raises:
          RuntimeError: when it was started before.
        """
        if self._thread is not None:
            raise RuntimeError("an EngineThread is started once; make a new one")
        self._thread = threading.Thread(
            target=self._run, args=(sink,), name="mell-engine", daemon=True
        )
        self._thread.start()

    def send(self, message: Submit | Abort) -> None:
        """Leaves a message for the engine; from any thread, without blocking."""
        self._post(message)

    def ping(self) -> None:
        """Makes the thread go round once more; from any thread, without blocking."""
        self._post(_Ping())

    def ask(self, command: Command) -> Future[Answer]:
        """Leaves a command of an operator; from any thread, without blocking.

        The future has the answer after the step in flight, or later if the command has
        to wait for something, or the reason why there is none: one of `REFUSALS`, or
        what else went wrong. A command whose future was cancelled in time is not
        carried out.
        """
        answer: Future[Answer] = Future()
        self._post(_Question(command, answer))
        if self._has_ended.is_set():
            self._refuse_questions()
        return answer

    def load(self) -> EngineLoad:
        """Returns how busy the engine is, or was `LOAD_S` ago; from any thread."""
        return self._load

    def stop(self, *, most_s: float | None = None) -> None:
        """Ends the engine after the step in flight and waits for it.

        Args:
          most_s: goes on after so long, whatever the engine does; None waits on.
        """
        self._post(_Stop())
        if self._thread is not None:
            self._thread.join(most_s)

    def _post(self, message: _Message) -> None:
        self._inbox.put(message)
        self._engine.nudge()

    def _run(self, sink: Sink) -> None:
        message = ""
        try:
            with own_settings():
                self._loop(sink)
        except Exception as error:  # the edge: what a step raises ends the engine
            tell(Event.ENGINE_FAILED, text="the engine failed", error=error)
            message = f"the engine failed: {type(error).__name__}: {error}"
        self._has_ended.set()
        for answer in self._later:
            if not answer.done():
                answer.set_exception(NotPossibleError("the engine has stopped"))
        self._refuse_questions()
        sink(EngineStopped(message=message))
        self._engine.close()

    def _loop(self, sink: Sink) -> None:
        engine, has_moved = self._engine, True
        while self._take_messages(wait=not engine.has_work):
            self._rounds += has_moved
            self._probe_if_due()
            steps = self._load.steps
            frame = engine.step()
            self._look(anew=frame is None)
            has_moved = (
                frame is not None or self._load.steps != steps or engine.is_resting
            )
            if frame is not None:
                self._times.begin()
                sink(frame)
                self._times.end(StepPhase.EMIT)

    def _probe_if_due(self) -> None:
        """Finds out now and then whether devices still work that have no work."""
        if self._engine.has_work:
            self._idle_pings = 0  # steps tell
        elif self._idle_pings >= PROBE_PINGS:
            self._idle_pings = 0
            self._engine.probe()
            self._audit()

    def _audit(self) -> None:
        """Counts pages in use while nobody has a request: a bug."""
        used = self._load.used_pages
        if used and not self._load.running:
            self._violations += 1
            tell(
                Event.INVARIANT_BROKEN,
                text=f"{used} pages are in use by no request",
                used_pages=used,
            )

    def _look(self, *, anew: bool) -> None:
        """Counts anew, or now and then while there is work."""
        now_s = time.monotonic()
        is_fresh = now_s - self._look_s < LOAD_S
        if is_fresh and not anew and self._engine.has_work:
            return
        self._look_s = now_s
        load = self._engine.load(compilations=self._compilations.count)
        self._load = replace(load, invariant_violations=self._violations)

    def _take_messages(self, *, wait: bool) -> bool:
        """Hands all messages to the engine; returns False when one was to stop."""
        while wait or not self._inbox.empty():
            try:
                message = self._inbox.get(timeout=self._engine.idle_wait_s)
            except queue.Empty:
                return True  # a fleet has something to do now and then
            match message:
                case Submit() as submit:
                    self._engine.submit(submit)
                case Abort() as abort:
                    self._engine.abort(abort)
                case _Ping():
                    self._idle_pings += 1
                case _Question():
                    self._answer(message)
                case _Stop():
                    return False
            wait = False
        return True

    def _answer(self, question: _Question) -> None:
        if not question.answer.set_running_or_notify_cancel():
            return
        try:
            answer = self._engine.administer(question.command)
        except REFUSALS as error:
            question.answer.set_exception(error)
        except Exception as error:  # the engine is not what it should be, and ends
            question.answer.set_exception(error)
            raise
        else:
            if not isinstance(answer, Future):
                question.answer.set_result(answer)
                return
            self._later = [each for each in self._later if not each.done()]
            self._later.append(answer)
            answer.add_done_callback(partial(_pass_on, to=question.answer))

    def _refuse_questions(self) -> None:
        """Refuses questions that nobody answers any more; any thread may call it."""
        while True:
            try:
                message = self._inbox.get_nowait()
            except queue.Empty:
                return
            if isinstance(message, _Question):
                is_waiting = message.answer.set_running_or_notify_cancel()
                if is_waiting:
                    error = NotPossibleError("the engine has stopped")
                    message.answer.set_exception(error)


def _pass_on(done: Future[Answer], *, to: Future[Answer]) -> None:
    error = done.exception()
    if error is None:
        to.set_result(done.result())
    else:
        to.set_exception(error)
