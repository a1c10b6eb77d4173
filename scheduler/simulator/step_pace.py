"""Requests compute in the steps of their instances, so each feels what is beside it.

A request is a `Prompt` of its instance until its first token, a `Row` from then on. A
preempted one is a prompt again, with the tokens that it had made. A request that is
being moved goes on at its source until `hold`; what a target computes again for it is
one more prompt there. All that is asked between two tokens holds from the next step.
"""

from collections.abc import Callable, Mapping
from typing import final

from mell_jax.scheduler.ids import DeviceGroupId, RequestId
from mell_jax.scheduler.simulator.agenda import Agenda
from mell_jax.scheduler.simulator.pace import Reached
from mell_jax.scheduler.simulator.prefixes import Prefixes
from mell_jax.scheduler.simulator.request import Request
from mell_jax.scheduler.simulator.settings import Settings
from mell_jax.scheduler.simulator.stepper import Prompt, Row, Stepper

Replayed = Callable[[Request], None]
"""The tokens of a request that is being moved have been computed at its target."""


class _Work:
    """What computes a request: a prompt first, then a row."""

    __slots__ = ("is_held", "prompt", "replay", "request", "row", "stepper")

    def __init__(self, request: Request, *, stepper: Stepper) -> None:
        self.request = request
        self.stepper = stepper
        self.prompt: Prompt | None = None  # until its tokens are computed
        self.row = Row(self)
        self.replay: _Replay | None = None
        self.is_held = False  # stands still at the source of a move


class _Replay:
    """Tokens that the target of a move computes again."""

    __slots__ = ("done", "prompt", "stepper", "work")

    def __init__(
        self, work: _Work, *, stepper: Stepper, tokens: range, done: Replayed
    ) -> None:
        self.work = work
        self.stepper = stepper
        self.prompt = Prompt(self, computed=tokens.start, total=tokens.stop)
        self.done = done


@final
class StepPace:
    """A pace of instances that make steps; see `Pace` for what it is told.

    Args:
      held: pages of the pool that a request has, by the fleet's count.
      ready_s: when each device has loaded its model.
      reached: hears of requests that need a decision.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        agenda: Agenda,
        held: Callable[[Request], int],
        prefixes: Prefixes,
        ready_s: Mapping[DeviceGroupId, float],
        reached: Reached,
    ) -> None:
        assert settings.steps is not None
        self._speed = settings.steps
        self._step_time = settings.step_time
        self._kinds = settings.fleet()
        self._page_tokens = settings.page_tokens
        self._agenda = agenda
        self._held = held
        self._prefixes = prefixes
        self._ready_s = ready_s
        self._ask = reached
        self._steppers: dict[DeviceGroupId, Stepper] = {}
        self._works: dict[RequestId, _Work] = {}

    # Instances.

    def opened(self, device: DeviceGroupId) -> None:
        """Steps begin when it is ready."""
        own = self._kinds[device]
        self._steppers[device] = Stepper(
            step_time=own.step_time(self._step_time),
            speed=own.steps(self._speed),
            ready_s=self._ready_s[device],
            agenda=self._agenda,
            prompts=self,
            reached=self._reached,
        )

    def closed(self, device: DeviceGroupId) -> None:
        """No more steps are made."""
        self._steppers.pop(device).close()

    # Requests.

    def start(self, request: Request) -> None:
        """Prefills all its tokens, after the prompts that are there."""
        assert request.device is not None
        work = _Work(request, stepper=self._steppers[request.device])
        self._works[request.id] = work
        tokens = request.input_tokens + int(request.done)
        work.prompt = Prompt(work, computed=0, total=tokens)
        work.stepper.add(work.prompt)

    def go_on(self, request: Request) -> None:
        """Decodes to the end of its page or output."""
        self._join(self._works[request.id])

    def halt(self, request: Request) -> None:
        """Stands still."""
        work = self._works.get(request.id)
        if work is not None and work.row.goal is not None:
            self._leave(work)

    def stop(self, request: Request) -> None:
        """Is computed no more; the token of the step under way is lost."""
        self.end(request)

    def end(self, request: Request) -> None:
        """Forgets it, and what is computed for its move."""
        work = self._works.pop(request.id, None)
        if work is None:
            return  # it never had a place
        if work.row.goal is not None:
            self._leave(work)
        if work.prompt is not None:
            work.stepper.drop(work.prompt)
        if work.replay is not None:
            work.replay.stepper.drop(work.replay.prompt)

    def arrive(self, request: Request) -> None:
        """Goes on at the target, from what it had computed."""
        assert request.device is not None
        work = self._works[request.id]
        if work.row.goal is not None:
            self._leave(work)
        if work.prompt is not None:
            work.stepper.drop(work.prompt)
        work.stepper = self._steppers[request.device]
        work.is_held, work.replay = False, None
        if work.prompt is not None:
            work.stepper.add(work.prompt)
        elif request.paused_s is None:
            self._join(work)

    def call_off(self, request: Request) -> None:
        """Decodes again if it stood still for its move."""
        work = self._works[request.id]
        if work.replay is not None:
            work.replay.stepper.drop(work.replay.prompt)
            work.replay = None
        if work.is_held:
            work.is_held = False
            if work.prompt is not None:
                work.stepper.add(work.prompt)
            elif request.paused_s is None:
                self._join(work)

    def moved_tokens(self, request: Request) -> int:
        """All that is computed goes along."""
        return self.computed(request)

    def computed(self, request: Request) -> int:
        """Returns the tokens of a prompt that are computed, or all of a row."""
        work = self._works[request.id]
        if work.prompt is not None:
            return work.prompt.computed
        made = work.stepper.made(work.row)
        return request.input_tokens + int(request.done) + made

    # Moves.

    def hold(self, request: Request, then: Callable[[Request], None]) -> None:
        """Lets a request stand still at its source once the step under way is over.

        Args:
          then: hears of it, unless the request ends or its move is off by then.
        """
        work, move = self._works[request.id], request.move

        def stand(work: _Work, number: int) -> None:
            if self._works.get(request.id) is not work or request.move != move:
                return
            work.is_held = True
            if work.row.goal is not None:
                self._leave(work)
            if work.prompt is not None:
                work.stepper.drop(work.prompt)
            then(request)

        self._agenda.note(work.stepper.end_step(), stand, work)

    def replay(
        self,
        request: Request,
        *,
        target: DeviceGroupId,
        tokens: range,
        done: Replayed,
    ) -> None:
        """Has a target compute `tokens` of a request, those from one to another."""
        work = self._works[request.id]
        stepper = self._steppers[target]
        work.replay = _Replay(work, stepper=stepper, tokens=tokens, done=done)
        stepper.add(work.replay.prompt)

    # What steps tell.

    def cached(self, prompt: Prompt) -> int:
        """Finds the beginning of a request's prompt, not of a replay's."""
        if isinstance(prompt.owner, _Replay):
            return 0
        return self._prefixes.begin(prompt.owner.request, total=prompt.total)

    def began(self, prompt: Prompt, *, first: int, at_s: float) -> None:
        """Notes the end of waiting, and how much was found."""
        if isinstance(prompt.owner, _Work):
            self._prefixes.count(hit=first, total=prompt.total)
            request = prompt.owner.request
            if request.started_s is None:
                request.started_s = at_s

    def finished(self, prompt: Prompt) -> None:
        """A prompt gives its request a token; a replay has only been computed."""
        owner = prompt.owner
        if isinstance(owner, _Replay):
            owner.work.replay = None
            owner.done(owner.work.request)
            return
        assert isinstance(owner, _Work)
        owner.prompt = None
        request = owner.request
        self._prefixes.computed(request)
        if self._left(request):  # else it was preempted at the end of its pages
            request.done += 1
        if request.first_s is None:
            request.first_s = self._agenda.now_s
        if self._left(request):
            self._join(owner)
        else:
            self._ask(request)

    def _reached(self, rows: list[Row]) -> None:
        """Tells of rows at the end of output or page: what has ended makes room."""
        works: list[_Work] = [row.owner for row in rows]
        for work in works:
            request = work.request
            room = request.pages * self._page_tokens - request.input_tokens
            request.done = min(request.output_tokens, room)
        works.sort(key=lambda work: work.request.done < work.request.output_tokens)
        for work in works:
            if self._works.get(work.request.id) is work:
                self._ask(work.request)

    def _left(self, request: Request) -> int:
        """Returns the tokens to the end of the page or of the output.

        A preempted request whose pages are full has one more token after its prefill
        than they hold: none is left, and it asks for a page.
        """
        room = request.pages * self._page_tokens - request.input_tokens
        return max(0, int(min(room, request.output_tokens) - request.done))

    def _join(self, work: _Work) -> None:
        """Decodes from the next step on, unless it may not or is told of just now."""
        left = self._left(work.request)
        if left and not work.is_held:
            pages = self._held(work.request)
            work.stepper.join(work.row, pages=pages, steps=left)

    def _leave(self, work: _Work) -> None:
        work.request.done += work.stepper.leave(work.row)
