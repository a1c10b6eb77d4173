"""A pace says how fast requests compute: when they are at the end of a page or of all.

The fleet says what becomes of a request, as the machine decides; the pace calls
`reached` when it needs a decision again. `FixedPace` gives every request a speed of its
own, `StepPace` lets instances make steps.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, final

from mell_jax.scheduler.ids import DeviceGroupId, RequestId
from mell_jax.scheduler.simulator.agenda import Agenda
from mell_jax.scheduler.simulator.prefixes import Prefixes
from mell_jax.scheduler.simulator.request import Request
from mell_jax.scheduler.simulator.settings import Settings

Reached = Callable[[Request], None]
"""A request has filled its pages or made its output: `done` says which."""


class Pace(Protocol):
    """A pace computes what is placed; times are those of its agenda."""

    def opened(self, device: DeviceGroupId) -> None:
        """An instance loads; what is placed there begins when it is ready."""

    def closed(self, device: DeviceGroupId) -> None:
        """An instance is parked; nothing is there any more."""

    def start(self, request: Request) -> None:
        """Computes the tokens of a request on its device, then decodes."""

    def go_on(self, request: Request) -> None:
        """A request that reached the end of its pages has one more."""

    def halt(self, request: Request) -> None:
        """A request waits for the page that it asked for, or for a place."""

    def stop(self, request: Request) -> None:
        """A request loses its device; `done` says what it had made."""

    def end(self, request: Request) -> None:
        """A request has ended, or is refused."""

    def arrive(self, request: Request) -> None:
        """A move has committed: its device is another from now on."""

    def call_off(self, request: Request) -> None:
        """The target of its move is lost: a request goes on at its source."""

    def moved_tokens(self, request: Request) -> int:
        """Returns the tokens that a move of a request takes along, now."""

    def computed(self, request: Request) -> int:
        """Returns the tokens that its device has computed, now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Filling:
    """A prefill is under way, of which some tokens were found."""

    number: int  # of its end on the agenda
    found: int
    total: int


@final
class FixedPace:
    """Every request prefills and decodes at a speed of its device's kind alone.

    Args:
      ready_s: when each device has loaded its model.
      reached: hears of requests that need a decision.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        agenda: Agenda,
        prefixes: Prefixes,
        ready_s: Mapping[DeviceGroupId, float],
        reached: Reached,
    ) -> None:
        self._page_tokens = settings.page_tokens
        self._decode_tokens_per_s = settings.decode_tokens_per_s
        self._prefill_tokens_per_s = settings.prefill_tokens_per_s
        self._kinds = settings.fleet()
        self._agenda = agenda
        self._prefixes = prefixes
        self._filling: dict[RequestId, _Filling] = {}
        self._ready_s = ready_s
        self._reached = reached

    def opened(self, device: DeviceGroupId) -> None:
        """Nothing: no request feels another."""

    def closed(self, device: DeviceGroupId) -> None:
        """Nothing, likewise."""

    def start(self, request: Request) -> None:
        """Prefills all its tokens as soon as the device has loaded."""
        self._prefill(request)
        self._set_timer(request)

    def go_on(self, request: Request) -> None:
        """Decodes from now on, to the end of its page or output."""
        request.since_s = self._agenda.now_s
        self._set_timer(request)

    def halt(self, request: Request) -> None:
        """Stands still."""
        request.timer = -1

    def stop(self, request: Request) -> None:
        """Stands still; of the token that it was making, a part is kept."""
        made = self._tokens(request) - request.input_tokens
        self._note_first(request, made)
        request.done = made
        request.since_s = self._agenda.now_s
        self.end(request)

    def end(self, request: Request) -> None:
        """Forgets it."""
        request.timer = -1
        self._filling.pop(request.id, None)

    def arrive(self, request: Request) -> None:
        """Goes on at the target's speed; a prefill that has not begun begins there."""
        speed = self._speed_of(request)
        is_begun = self._agenda.now_s >= request.prefill_s
        if is_begun and speed == request.speed:
            return
        if is_begun:
            self._settle(request, speed=speed)
            request.speed = speed
        else:
            self._prefill(request)
        if request.timer != -1:
            self._set_timer(request)

    def call_off(self, request: Request) -> None:
        """Nothing: it has gone on all the time."""

    def _settle(self, request: Request, *, speed: float) -> None:
        """Notes what was made at the source's speed, or what is left of a prefill."""
        now_s = self._agenda.now_s
        times = request.speed / speed
        if now_s < request.since_s:
            request.since_s = now_s + (request.since_s - now_s) * times
            request.prefill_s = now_s + (request.prefill_s - now_s) * times
            if filling := self._filling.get(request.id):
                self._note_fill(request, found=filling.found, total=filling.total)
        elif request.timer != -1:
            made = self._tokens(request) - request.input_tokens
            self._note_first(request, made)
            request.done, request.since_s = made, now_s

    def moved_tokens(self, request: Request) -> int:
        """A prefill that has begun goes along as a whole, another is nothing yet."""
        is_begun = self._agenda.now_s >= request.prefill_s
        return int(self._tokens(request)) if is_begun else 0

    def computed(self, request: Request) -> int:
        """Returns all its tokens; fewer during a prefill."""
        now_s = self._agenda.now_s
        if now_s >= request.since_s:
            return int(self._tokens(request))
        if now_s <= request.prefill_s:
            return 0
        return int((now_s - request.prefill_s) * self._prefill_rate(request))

    def _speed_of(self, request: Request) -> float:
        assert request.device is not None, f"request {request.id} is nowhere"
        return self._kinds[request.device].speed

    def _decode_rate(self, request: Request) -> float:
        return self._decode_tokens_per_s * request.speed

    def _prefill_rate(self, request: Request) -> float:
        return self._prefill_tokens_per_s * request.speed

    def _prefill(self, request: Request) -> None:
        assert request.device is not None
        now_s = self._agenda.now_s
        request.speed = self._speed_of(request)
        request.prefill_s = max(now_s, self._ready_s[request.device])
        total = request.input_tokens + int(request.done)
        found = self._prefixes.begin(request, total=total)
        tokens = total - found
        request.since_s = request.prefill_s + tokens / self._prefill_rate(request)
        if self._prefixes.are_shared:
            self._note_fill(request, found=found, total=total)
        if request.started_s is None or request.started_s > now_s:
            request.started_s = request.prefill_s

    def _note_fill(self, request: Request, *, found: int, total: int) -> None:
        number = self._agenda.note(request.since_s, self._fill, request)
        self._filling[request.id] = _Filling(number=number, found=found, total=total)

    def _fill(self, request: Request, number: int) -> None:
        """A prompt has been computed, unless it was stopped meanwhile."""
        filling = self._filling.get(request.id)
        if filling is not None and filling.number == number:
            del self._filling[request.id]
            self._prefixes.count(hit=filling.found, total=filling.total)
            self._prefixes.computed(request)

    def _set_timer(self, request: Request) -> None:
        """Wakes a decoding request at the end of its page or output."""
        room = request.pages * self._page_tokens - request.input_tokens
        left = min(room, request.output_tokens) - request.done
        at_s = request.since_s + left / self._decode_rate(request)
        request.timer = self._agenda.note(at_s, self._advance, request)

    def _advance(self, request: Request, number: int) -> None:
        """A request has reached the end of its page or of its output."""
        if request.timer != number:
            return
        room = request.pages * self._page_tokens
        made = min(request.output_tokens, room - request.input_tokens)
        self._note_first(request, made)
        request.done = made
        request.since_s = self._agenda.now_s
        self._reached(request)

    def _note_first(self, request: Request, made: float) -> None:
        """Works out when it had its first token, once it has made one."""
        if request.first_s is None and made >= 1:
            left = 1 - request.done
            request.first_s = request.since_s + left / self._decode_rate(request)

    def _tokens(self, request: Request) -> float:
        """Tokens of a request whose pages are on some device, now."""
        room = request.pages * self._page_tokens
        if request.timer == -1:  # paused at the border of the page it wants
            return request.input_tokens + request.done
        made = (self._agenda.now_s - request.since_s) * self._decode_rate(request)
        made = max(0.0, made) + request.done
        return min(float(room), request.input_tokens + made)
