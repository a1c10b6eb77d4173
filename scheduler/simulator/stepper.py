"""One instance makes steps: all rows that decode, then chunks of prompts in turn.

    budget 64   3 rows decode + 61 tokens of a prompt       one step
                3 rows decode + 39 tokens, its last ones    one step: its first token
                4 rows decode                               9 steps at once: then one of
                                                            them is at its goal

Steps that are alike are made together, until a row is at its goal or somebody comes or
goes: then the step under way is the last of them. So a run takes time by what happens
and not by tokens. `Stepper` knows no placement: `StepPace` tells it what is there.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Any, Protocol, final

from mell_jax.scheduler.placement.model import StepTime
from mell_jax.scheduler.simulator.agenda import Agenda
from mell_jax.scheduler.simulator.profile import StepSpeed

ROUNDING = 1e-9  # of a step: a time so near to a border is at it


class Row:
    """A row decodes here, a token a step, or is about to."""

    __slots__ = ("goal", "joined", "owner", "pages")

    def __init__(self, owner: Any) -> None:
        self.owner = owner
        self.pages = 0  # that its tokens attend to
        self.joined = 0  # the steps that its instance had made before
        self.goal: Goal | None = None  # None: it does not decode


Goal = tuple[int, int, Row]
"""The step after which a row has to be asked about, a number, and the row."""


class Prompt:
    """Tokens that an instance has to prefill, those of a row or of a replay."""

    __slots__ = ("computed", "owner", "total")

    def __init__(self, owner: Any, *, computed: int, total: int) -> None:
        assert 0 <= computed < total, (computed, total)
        self.owner = owner
        self.computed = computed  # by now
        self.total = total


class Prompts(Protocol):
    """The owner of prompts hears how far they are."""

    def cached(self, prompt: Prompt) -> int:
        """Returns how many tokens of a prompt are there already, before its first."""

    def began(self, prompt: Prompt, *, first: int, at_s: float) -> None:
        """A chunk from token `first` on was the first, in a step begun at `at_s`."""

    def finished(self, prompt: Prompt) -> None:
        """The last chunk has been computed."""


@dataclass(slots=True, kw_only=True)
class _Span:
    """Steps alike, from `start_s` on."""

    start_s: float
    step_s: float
    count: int
    chunks: list[tuple[Prompt, int, int]]  # prompt, first token, tokens
    number: int = 0  # of its end on the agenda

    @property
    def end_s(self) -> float:
        return self.start_s + self.count * self.step_s


@final
class Stepper:
    """The steps of one instance.

    Args:
      ready_s: when it has loaded; no step begins before.
      reached: hears of the rows that are at their goal; they decode no more.
    """

    def __init__(
        self,
        *,
        step_time: StepTime,
        speed: StepSpeed,
        ready_s: float,
        agenda: Agenda,
        prompts: Prompts,
        reached: Callable[[list[Row]], None],
    ) -> None:
        self.rows = 0  # that decode
        self.pages = 0  # of these
        self._step_time = step_time
        self._speed = speed
        self._ready_s = ready_s
        self._agenda = agenda
        self._listener = prompts
        self._reached = reached
        self._steps = 0  # made, up to the span under way
        self._span: _Span | None = None
        self._goals: list[Goal] = []  # also of rows that have left
        self._numbers = 0
        self._prompts: dict[Prompt, None] = {}  # oldest first
        self._is_landing = False
        # With a plan ahead, what came while a step was under way: it waits until that
        # has landed, and then for the next one, which was planned without it.
        self._came: dict[Prompt, None] = {}
        self._after_next: dict[Prompt, None] = {}

    # What comes and goes.

    def join(self, row: Row, *, pages: int, steps: int) -> None:
        """A row decodes from the next step on, with its goal after so many."""
        assert steps >= 1 and row.goal is None, (steps, row.goal)
        self._interrupt()
        self._numbers += 1
        row.joined = self._steps + (self._span.count if self._span else 0)
        row.goal, row.pages = (row.joined + steps, self._numbers, row), pages
        heappush(self._goals, row.goal)
        self.rows += 1
        self.pages += pages
        self._resume()

    def leave(self, row: Row) -> int:
        """A row decodes no more; returns the steps that it has made."""
        assert row.goal is not None
        made = self.made(row)
        self._interrupt()
        self._drop(row)
        self._resume()
        return made

    def add(self, prompt: Prompt) -> None:
        """A prompt is computed after those that are there."""
        self._interrupt()
        has_plan = self._speed.plans_ahead and (self._is_landing or self._span)
        (self._came if has_plan else self._prompts)[prompt] = None
        self._resume()

    def drop(self, prompt: Prompt) -> None:
        """A prompt need not be computed any more; one that is not there is ignored."""
        self._came.pop(prompt, None)
        self._after_next.pop(prompt, None)
        if prompt in self._prompts:
            self._interrupt()
            del self._prompts[prompt]
            self._resume()

    def close(self) -> None:
        """Nothing is to be computed here any more."""
        assert not self.rows and not self._prompts, (self.rows, len(self._prompts))
        self._span = None

    # What is told.

    def made(self, row: Row) -> int:
        """Returns the steps that a row has made since it joined; 0 for none here."""
        if row.goal is None:
            return 0
        return max(0, self._landed() - row.joined)

    def end_step(self) -> float:
        """Tells when the step under way ends, now if there is none.

        It is the last of its kind, so what is noted for then finds it landed.
        """
        self._interrupt()
        self._resume()
        span, now_s = self._span, self._agenda.now_s
        return span.end_s if span and span.start_s < now_s else now_s

    def _begun(self, span: _Span) -> int:
        """Returns the steps of a span that have begun by now, and may be over."""
        passed = (self._agenda.now_s - span.start_s) / span.step_s
        return max(1, math.ceil(passed - ROUNDING))

    def _landed(self) -> int:
        """Returns the steps that are over; the last of a span is once it has landed."""
        span = self._span
        if span is None or self._agenda.now_s <= span.start_s:
            return self._steps
        passed = (self._agenda.now_s - span.start_s) / span.step_s
        return self._steps + min(span.count - 1, int(passed + ROUNDING))

    # Steps.

    def _interrupt(self) -> None:
        """Lets the step under way be the last of its kind."""
        span = self._span
        if span is None:
            return
        if self._agenda.now_s <= span.start_s:
            self._span = None  # it has not begun: another takes its place
            return
        count = self._begun(span)
        if count < span.count:
            span.count = count
            span.number = self._agenda.note(span.end_s, self._land, span)

    def _resume(self) -> None:
        if self._span is None and not self._is_landing:
            self._begin()

    def _begin(self) -> None:
        """Begins as many equal steps as there can be, if there is anything to do."""
        goals = self._goals
        while goals and goals[0][2].goal is not goals[0]:
            heappop(goals)  # of a row that has left
        if not self.rows and not self._prompts:  # then nothing was planned ahead
            self._prompts = self._after_next | self._came
            self._after_next, self._came = {}, {}
        chunks, prefill_s = self._chunks()
        if not self.rows and not chunks:
            return
        is_alone = chunks or self._after_next  # the next step is another
        count = 1 if is_alone else goals[0][0] - self._steps
        decode_s = self._step_time.predict(rows=self.rows, pages=self.pages)
        span = _Span(
            start_s=max(self._agenda.now_s, self._ready_s),
            step_s=decode_s + prefill_s,
            count=count,
            chunks=chunks,
        )
        self._span = span
        span.number = self._agenda.note(span.end_s, self._land, span)

    def _chunks(self) -> tuple[list[tuple[Prompt, int, int]], float]:
        """Returns what the next step prefills, and the seconds that it adds."""
        left = self._speed.token_budget - self.rows
        chunks, seconds = [], 0.0
        for prompt in self._prompts:
            if left <= 0:
                break
            first = prompt.computed or self._listener.cached(prompt)
            tokens = min(prompt.total - first, left)
            chunks.append((prompt, first, tokens))
            seconds += self._speed.prefill_s(start=first, tokens=tokens)
            left -= tokens
        return chunks, seconds

    def _land(self, span: _Span, number: int) -> None:
        """The steps of a span are over."""
        if self._span is not span or span.number != number:
            return
        self._span = None
        self._steps += span.count
        self._is_landing = True
        if rows := self._take_reached():
            self._reached(rows)
        for prompt, first, tokens in span.chunks:
            if prompt in self._prompts:
                self._compute(prompt, first=first, tokens=tokens, at_s=span.start_s)
        self._is_landing = False
        self._let_in()
        self._begin()

    def _let_in(self) -> None:
        """Lets prompts in that the step now beginning could be planned with."""
        self._prompts |= self._after_next
        self._after_next, self._came = self._came, {}

    def _take_reached(self) -> list[Row]:
        """Returns the rows that are at their goals, which decode no more."""
        goals, rows = self._goals, []
        while goals and goals[0][0] <= self._steps:
            goal = heappop(goals)
            row = goal[2]
            if row.goal is goal:
                self._drop(row)
                rows.append(row)
        return rows

    def _compute(self, prompt: Prompt, *, first: int, tokens: int, at_s: float) -> None:
        if not prompt.computed:
            self._listener.began(prompt, first=first, at_s=at_s)
        prompt.computed = first + tokens
        if prompt.computed == prompt.total:
            del self._prompts[prompt]
            self._listener.finished(prompt)

    def _drop(self, row: Row) -> None:
        self.rows -= 1
        self.pages -= row.pages
        row.goal, row.pages = None, 0
