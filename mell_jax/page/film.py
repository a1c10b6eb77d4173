"""A film is a recorded run of the simulator, as moments that the page plays.

    event log --> its machine, told every event again --> books, looked at now and then
             '--> a shadow by another policy

However long the run, a film is a few megabytes: moments, dots and ticks are left out
evenly.
"""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, final

import msgspec
import numpy as np

from mell_jax.page.film_streams import FilmStreams
from mell_jax.page.moment import Dots, Moment, Rival, Tile, Totals
from mell_jax.scheduler.bounds import instances_bound
from mell_jax.scheduler.ids import DeviceGroupId, ModelId, MoveId, RequestId
from mell_jax.scheduler.placement import events, plan
from mell_jax.scheduler.placement.device_seconds import DeviceSeconds
from mell_jax.scheduler.placement.machine import Machine
from mell_jax.scheduler.placement.policy import PolicyConfig
from mell_jax.scheduler.placement.shadow import Shadow
from mell_jax.scheduler.policies import POLICIES
from mell_jax.scheduler.simulator import record
from mell_jax.scheduler.transfer import Mode

RIVAL = "best_fit"
MOST_MOMENTS = 500
MOST_DOTS = 160
MOST_TILES = 48
SPEEDS = (1, 5, 20, 60, 240)
LASTS_S = 75.0  # a film at its own speed, roughly
TOKEN_BYTES = 4  # of a move that sends tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Film:
    """A film has its moments in order."""

    title: str
    speed: int  # seconds of the run in a second
    tick_tokens: int
    moments: tuple[Moment, ...]

    def json(self) -> bytes:
        """Returns it as the page reads it."""
        return msgspec.json.encode(self)


def film_of(lines: Iterator[str], *, title: str) -> Film:
    """Films a recorded run.

    Args:
      lines: of its log, as `EventLog` writes it.
      title: what the page says of it.

    Raises:
      ValueError: it is no such log, it is damaged, or nothing happens in it.
    """
    head = next(lines, "")
    machine = record.read_machine(iter([head]))
    header = json.loads(head)["header"]
    camera = _Camera(machine, page_tokens=int(header["settings"]["page_tokens"]))
    for number, line in enumerate(lines, start=2):
        try:
            camera.see(json.loads(line))
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"line {number} of the log is damaged: {error}") from error
    return camera.develop(title=f"{title}, {header['policy']}")


@final
class _Camera:
    """The camera looks at the books of one run."""

    def __init__(self, machine: Machine, *, page_tokens: int) -> None:
        self._machine = machine
        self._ledger = machine.ledger
        models = {name: self._ledger.spec(name) for name in self._ledger.models}
        self._shadow = Shadow(models=models, policy=POLICIES[RIVAL](PolicyConfig()))
        self._streams = FilmStreams(page_tokens=page_tokens)
        self._page_tokens = page_tokens
        self._moments: list[Moment] = []
        self._times_s: list[float] = []  # of these, as they are
        self._period_s = 1.0
        self._now_s = 0.0
        self._every = 1  # of so many requests one is a dot
        self._seen: set[DeviceGroupId] = set()  # that were in use
        self._modes: dict[MoveId, tuple[Mode, int]] = {}  # and tokens
        self._in_use, self._rival_s = DeviceSeconds(), DeviceSeconds()
        self._tokens = self._moves = self._called_off = self._bytes = 0
        self._pages: Counter[RequestId] = Counter()  # filled

    def see(self, line: dict[str, Any]) -> None:
        """Takes in a line of the log."""
        if "figures" in line:
            return
        if "begun" in line:
            for move in line["begun"]:
                mode = Mode[move["mode"]]
                self._modes[MoveId(move["move"])] = (mode, int(move["tokens"]))
            return
        event, now_s = record.decode_event(line["event"]), float(line["t"])
        while self._moments and now_s >= self._times_s[-1] + self._period_s:
            self._look(self._times_s[-1] + self._period_s)
        self._now_s = now_s
        self._prepare(event)
        answer = self._machine.step(event, now_s=now_s)
        self._shadow.tell(event, now_s=now_s)
        for decision in answer.decisions:
            self._follow(decision)
        self._in_use.count(len(self._ledger.instances), now_s=now_s)
        self._rival_s.count(self._shadow.devices, now_s=now_s)
        if not self._moments and self._ledger.requests:
            self._look(now_s)

    def develop(self, *, title: str) -> Film:
        """Returns the film of all that was seen.

        Raises:
          ValueError: no request has come.
        """
        if not self._moments:
            raise ValueError("no request comes in this log: there is nothing to show")
        if self._now_s > self._times_s[-1]:
            self._look(self._now_s)
        shown = sorted(self._seen)[:MOST_TILES]
        lanes = self._streams.lanes(self._times_s)
        moments = tuple(
            replace(
                moment,
                number=number,
                tiles=_tiles(moment.tiles, shown=shown),
                dots=_thinned(moment.dots, every=self._every),
                lanes=each,
            )
            for number, (moment, each) in enumerate(
                zip(self._moments, lanes, strict=True)
            )
        )
        length_s = moments[-1].at - moments[0].at
        return Film(
            title=title,
            speed=min(SPEEDS, key=lambda speed: abs(length_s / speed - LASTS_S)),
            tick_tokens=self._streams.tick_tokens,
            moments=moments,
        )

    # -- what happens ------------------------------------------------------------

    def _prepare(self, event: events.Event) -> None:
        """Notes what an event says, before the books change."""
        match event:
            case events.Grow():
                self._pages[event.request] += 1
                self._tokens += self._page_tokens
                index = self._pages[event.request]
                self._streams.tick(event.request, at_s=self._now_s, index=index)
            case events.Finish():
                self._streams.end(event.request, at_s=self._now_s)
                del self._pages[event.request]
            case events.MoveCommitted():
                self._commit(event.move)
            case events.MoveAborted():
                self._called_off += event.move in self._ledger.moves

    def _commit(self, move_id: MoveId) -> None:
        move = self._ledger.moves.get(move_id)
        mode, tokens = self._modes.pop(move_id, (Mode.KV, 0))
        if move is None:
            return
        request = move.request
        self._moves += 1
        page_bytes = self._ledger.spec(request.model).page_bytes
        is_copied = mode is Mode.KV
        sent = request.pages * page_bytes if is_copied else tokens * TOKEN_BYTES
        self._bytes += int(sent)
        self._streams.move(
            request.id, at_s=self._now_s, source=move.source, target=move.target
        )

    def _follow(self, decision: plan.Decision) -> None:
        match decision:
            case plan.Place():
                self._streams.place(decision.request, decision.device)
            case plan.Reject():
                self._streams.end(decision.request, at_s=self._now_s)
            case plan.Activate():
                self._seen.add(decision.device)

    # -- pictures ----------------------------------------------------------------

    def _look(self, at_s: float) -> None:
        ledger = self._ledger
        instances = ledger.instances
        self._times_s.append(at_s)
        self._moments.append(
            Moment(
                number=0,
                at=round(at_s, 2),
                in_use=len(instances),
                bound=self._bound(),
                waiting=sum(r.device is None for r in ledger.requests.values()),
                tiles=tuple(self._tile(device) for device in instances),
                dots=self._dots(),
                lanes=(),
                gaps=self._streams.gaps(),
                rivals=(
                    Rival(
                        policy=RIVAL,
                        devices=self._shadow.devices,
                        device_s=round(self._rival_s.total_s(at_s), 1),
                    ),
                ),
                totals=Totals(
                    tokens=self._tokens,
                    moves=self._moves,
                    called_off=self._called_off,
                    bytes=self._bytes,
                    broken=0,
                    device_s=round(self._in_use.total_s(at_s), 1),
                ),
            )
        )
        if len(self._moments) > MOST_MOMENTS:
            del self._moments[1::2], self._times_s[1::2]
            self._period_s *= 2

    def _tile(self, device: DeviceGroupId) -> Tile:
        books = self._ledger.instances[device]
        reserved = sum(request.pages for request in books.arriving.values())
        return Tile(
            device=device,
            state="draining" if books.is_closing else "serving",
            model=books.model,
            capacity=self._ledger.spec(books.model).capacity_pages,
            used=books.pages - reserved,
            reserved=reserved,
            rows=len(books.requests),
            paused=len(books.stalled),
        )

    def _dots(self) -> Dots:
        """Returns some requests, always the same ones while they are there."""
        ledger = self._ledger
        shown = [r for r in ledger.requests.values() if r.id % self._every == 0]
        while len(shown) > MOST_DOTS:
            self._every *= 2
            shown = [request for request in shown if request.id % self._every == 0]
        return Dots(
            numbers=tuple(int(request.id) for request in shown),
            devices=tuple(-1 if r.device is None else int(r.device) for r in shown),
            targets=tuple(
                -1 if r.move is None else int(ledger.moves[r.move].target)
                for r in shown
            ),
            pages=tuple(request.pages for request in shown),
            tokens=tuple(request.pages * self._page_tokens for request in shown),
            left_out=len(ledger.requests) - len(shown),
        )

    def _bound(self) -> int:
        sizes: dict[ModelId, list[int]] = {}
        for request in self._ledger.requests.values():
            sizes.setdefault(request.model, []).append(request.pages)
        return sum(
            instances_bound(np.array(each, np.int64), spec=self._ledger.spec(model))
            for model, each in sizes.items()
        )


def _tiles(tiles: tuple[Tile, ...], *, shown: list[DeviceGroupId]) -> tuple[Tile, ...]:
    """Returns a tile for each of the devices, in their order; others are parked."""
    known = {tile.device: tile for tile in tiles}
    return tuple(
        known.get(device, Tile(device=device, state="parked")) for device in shown
    )


def _thinned(dots: Dots, *, every: int) -> Dots:
    """Leaves out what later moments had no room for."""
    kept = [i for i, number in enumerate(dots.numbers) if number % every == 0]
    return Dots(
        numbers=tuple(dots.numbers[i] for i in kept),
        devices=tuple(dots.devices[i] for i in kept),
        targets=tuple(dots.targets[i] for i in kept),
        pages=tuple(dots.pages[i] for i in kept),
        tokens=tuple(dots.tokens[i] for i in kept),
        left_out=dots.left_out + len(dots.numbers) - len(kept),
    )
