"""Pauses and sleeps: whether steps are launched, and who waits in line for them.

serving --pause--> steps land, then it is still --resume--> serving
serving or paused --sleep--> still, then all is given back --wake--> as it was

Who arrives meanwhile waits in line, before anything is placed. Commands that have to
wait until all is still are answered later; the engine goes round meanwhile.
"""

from collections.abc import Callable
from concurrent.futures import Future
from typing import final

from mell_jax.engine.admin import (
    AbortOpen,
    Answer,
    Pause,
    PauseMode,
    RequestsAborted,
    Resume,
    ServingState,
    Sleep,
    Wake,
)
from mell_jax.engine.fleet.conductor import Conductor
from mell_jax.engine.fleet.news import tell_serving
from mell_jax.engine.fleet.request_state import RequestState
from mell_jax.engine.fleet.sleeping import Sleeping
from mell_jax.engine.fleet.updates import Updates
from mell_jax.engine.frames import Finished, FinishReason, Handle
from mell_jax.scheduler.placement.operator import NotPossibleError


@final
class Pauses:
    """Pauses and sleeps of one fleet; its thread calls them.

    Args:
      conductor: of the fleet.
      updates: know which weights there are.
      sleeping: gives back and takes again.
      arrive: takes a request in that waits in line no longer.
    """

    def __init__(
        self,
        conductor: Conductor,
        *,
        updates: Updates,
        sleeping: Sleeping,
        arrive: Callable[[RequestState], None],
    ) -> None:
        self._conductor = conductor
        self._updates = updates
        self._sleeping = sleeping
        self._arrive = arrive
        self._mode: PauseMode | None = None
        self._wanted: Sleep | None = None  # as soon as all is still
        self._line: dict[Handle, RequestState] = {}
        self._asked: list[tuple[Pause | Sleep, Future[Answer]]] = []
        self._told = "serving"

    # -- questions -----------------------------------------------------------------

    @property
    def is_launching(self) -> bool:
        """Returns whether steps may be launched."""
        if self.is_asleep:
            return False
        if self._wanted is not None:
            return self._wanted.mode == "wait"
        return self._mode not in ("keep", "abort")

    @property
    def is_asleep(self) -> bool:
        """Returns whether all has been given back."""
        return self._sleeping.level > 0

    @property
    def is_due(self) -> bool:
        """Returns whether `settle` has something to do."""
        return bool(self._asked) and (
            self._may_sleep() if self._wanted is not None else self._has_answers()
        )

    @property
    def num_waiting(self) -> int:
        """Returns how many requests are in line."""
        return len(self._line)

    def holds(self, handle: Handle) -> bool:
        """Returns whether a request is in line."""
        return handle in self._line

    def state(self) -> ServingState:
        """Returns whether it serves, and with what."""
        return ServingState(
            is_paused=self._mode is not None,
            sleep_level=self._sleeping.level,
            freed_bytes=self._sleeping.freed_bytes,
            weights=self._updates.info(),
            waiting=len(self._line),
        )

    # -- requests ------------------------------------------------------------------

    def take(self, state: RequestState) -> bool:
        """Takes a new request into the line, if there is one; returns whether so."""
        if self._is_open():
            return False
        self._line[state.handle] = state
        return True

    def abort(self, handle: Handle) -> None:
        """Ends a request in line; others are not known here."""
        if self._line.pop(handle, None) is not None:
            finished = Finished(handle=handle, reason=FinishReason.ABORT)
            self._conductor.finished.append(finished)

    # -- commands ------------------------------------------------------------------

    def pause(self, command: Pause) -> Future[Answer]:
        """Pauses; answered when all is still, with "wait" when all are done.

        Raises:
          NotPossibleError: open requests are to finish, and it sleeps.
        """
        if command.mode == "wait" and self.is_asleep and self._conductor.requests:
            raise NotPossibleError(
                f"{len(self._conductor.requests)} open requests cannot be finished in "
                "a sleep: wake it before, or pause with keep or abort"
            )
        self._mode = command.mode
        if command.mode == "abort":
            self._abort_open()
        return self._ask(command)

    def abort_open(self, _: AbortOpen) -> RequestsAborted:
        """Ends all open requests, those in line too; new ones are taken as before."""
        return RequestsAborted(aborted=self._abort_open())

    def resume(self, _: Resume) -> ServingState:
        """Ends a pause, and lets in who waits in line."""
        self._mode = None
        return self._go_on()

    def sleep(self, command: Sleep) -> Future[Answer]:
        """Gives memory back when all is still, with "wait" when all are done.

        Raises:
          NotPossibleError: the weights have no place to wait; nothing has changed.
        """
        self._sleeping.check(command)
        if command.mode == "abort":
            self._abort_open()
        self._wanted = command
        return self._ask(command)

    def wake(self, _: Wake) -> ServingState:
        """Takes the devices again, and lets in who waits in line.

        Raises:
          NotPossibleError: weights were dropped and are not given anew.
        """
        self._sleeping.check_wake()  # also while it is about to sleep
        if self.is_asleep:
            self._sleeping.end()
        self._wanted = None
        return self._go_on()

    def settle(self) -> None:
        """Goes to sleep, and answers commands that waited for all to be still."""
        if not self.is_due:
            return
        if self._wanted is not None:
            self._sleeping.begin(self._wanted)
            self._wanted = None
        asked, self._asked = self._asked, []
        for command, answer in asked:
            if self._is_done(command):
                answer.set_result(self.state())
            else:
                self._asked.append((command, answer))
        self._tell()

    # -- parts ---------------------------------------------------------------------

    def _abort_open(self) -> int:
        """Ends all open requests; returns how many."""
        open_ones, line = list(self._conductor.requests.values()), list(self._line)
        for request in open_ones:
            self._conductor.end(request, reason=FinishReason.ABORT)
        for handle in line:
            self.abort(handle)
        self._conductor.settle()
        return len(open_ones) + len(line)

    def _ask(self, command: Pause | Sleep) -> Future[Answer]:
        answer: Future[Answer] = Future()
        self._asked.append((command, answer))
        self.settle()
        return answer

    def _has_answers(self) -> bool:
        return any(self._is_done(command) for command, _ in self._asked)

    def _is_done(self, command: Pause | Sleep) -> bool:
        if isinstance(command, Sleep):
            return self._wanted is None
        if self._mode is None:
            return True  # resumed meanwhile
        is_idle = self._mode != "wait" or not self._conductor.requests
        return is_idle and self._is_still()

    def _may_sleep(self) -> bool:
        """Returns whether nothing is left to do before the sleep that is wanted."""
        assert self._wanted is not None, "a sleep is wanted"
        waits = self._wanted.mode == "wait" and not self.is_asleep
        return self._is_still() and not (waits and self._conductor.requests)

    def _is_still(self) -> bool:
        """Returns whether nothing computes."""
        instances = self._conductor.instances.values()
        return not any(instance.inner.is_computing for instance in instances)

    def _is_open(self) -> bool:
        """Returns whether new requests are taken in."""
        return self._mode is None and self._wanted is None and not self.is_asleep

    def _go_on(self) -> ServingState:
        if self._is_open():
            line, self._line = self._line, {}
            for state in line.values():
                self._arrive(state)
        self.settle()
        self._tell()
        return self.state()

    def _tell(self) -> None:
        is_awake = "serving" if self._mode is None else "paused"
        now = "asleep" if self.is_asleep else is_awake
        if now != self._told:
            self._told = now
            tell_serving(now, freed_bytes=self._sleeping.freed_bytes)
