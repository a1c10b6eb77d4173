"""A front end sees the others through the engine's process."""

import asyncio
import itertools
from collections.abc import Callable, Sequence
from typing import Any, final

from mell_jax.frontend import FrontEnd
from mell_jax.frontend.share import Counted, Held
from mell_jax.serving.problem import NotAnsweredError
from mell_jax.serving.processes.wire import (
    AbortRequests,
    Beat,
    Claim,
    Claimed,
    CountAsked,
    CountTold,
    Grown,
    Pulse,
    ReleaseClaim,
    ToEngine,
)

_PATIENCE_S = 5.0  # an answer takes a millisecond


@final
class PeerClient:
    """Implements `Peers` for a front end in its own process, in the event loop."""

    def __init__(
        self,
        tell: Callable[[ToEngine], None],
        *,
        is_alone: bool,
        patience_s: float = _PATIENCE_S,
    ) -> None:
        """Starts with nothing known.

        Args:
          tell: takes messages to the engine's process, without blocking.
          is_alone: there is never another front end, only those before this one.
          patience_s: for an answer.
        """
        self._tell = tell
        self._is_alone = is_alone
        self._patience_s = patience_s
        self._numbers = itertools.count(1)
        self._asked: dict[int, asyncio.Future[Any]] = {}  # questions without an answer

    # -- Peers ---------------------------------------------------------------------

    def abort(self, request_ids: Sequence[str]) -> None:
        if not self._is_alone:
            self._tell(AbortRequests(request_ids=tuple(request_ids)))

    def claim(self, request_id: str) -> asyncio.Future[bool] | None:
        if self._is_alone:
            return None
        number, answer = self._ask()
        self._tell(Claim(number=number, request_id=request_id))
        return answer

    def release(self, request_id: str) -> None:
        self._tell(ReleaseClaim(request_id=request_id))

    def grow(self, part: Held) -> None:
        if not self._is_alone:
            self._tell(Grown(part=part))

    async def count(self, own: Counted) -> Counted:
        """Returns what the others have counted; see `Peers`.

        Raises:
          NotAnsweredError: the engine's process says nothing.
        """
        number, answer = self._ask()
        self._tell(CountAsked(number=number, counted=own))
        try:
            counted: Counted = await asyncio.wait_for(answer, self._patience_s)
        except TimeoutError as error:
            raise NotAnsweredError(
                f"the engine's process has not told in {self._patience_s:g} s what "
                "other front ends have counted; try again"
            ) from error
        finally:
            self._asked.pop(number, None)
        return counted

    # -- beyond --------------------------------------------------------------------

    def hear(
        self, message: Pulse | Grown | CountTold | Claimed, *, front_end: FrontEnd
    ) -> None:
        """Takes a message from the engine's process to this front end."""
        admission = front_end.admission
        match message:
            case Pulse(others=others):
                admission.others = others
                self._tell(Beat(counted=front_end.own_counted(), held=front_end.held()))
            case Grown(part=part):
                admission.others = admission.others.updated(part)
            case CountTold():
                self._settle(message.number, message.counted)
            case Claimed():
                self._settle(message.number, message.is_free)

    def _ask(self) -> tuple[int, asyncio.Future[Any]]:
        number = next(self._numbers)
        answer = self._asked[number] = asyncio.get_running_loop().create_future()
        return number, answer

    def _settle(self, number: int, value: object) -> None:
        answer = self._asked.pop(number, None)
        if answer is not None and not answer.done():  # or nobody waits any more
            answer.set_result(value)
