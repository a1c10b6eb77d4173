"""Recomputes every figure of a run from its event log alone, and audits the run.

    log  ->  clocks of all requests, pages of all devices, moves  ->  figures, errors

It shares no code with the simulator or the machine: what a request does between two
lines (prefill, decode, the page border at which it must ask) is worked out here again
from the header's requests, speeds and windows of layers. An error is anything that
cannot be: a device over its capacity, tokens computed on pages that nobody granted, a
request that ends too early or too late, a figure that differs.
"""

import json
import math
import sys
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

CLOSE = 1e-7  # relative: sums are taken in another order
TICK_S = 1e-6  # clocks agree to a microsecond
TINY_S = 1e-9  # a time that is exactly as long as allowed is in time
MOST_ERRORS = 20
UNCHECKED = (  # of a clock that no log knows, and a bound that tests prove
    "decision_us_p50",
    "decision_us_p99",
    "money_bound_per_hour",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """A check has the figures of a log by name, and what is wrong with it."""

    events: int
    figures: dict[str, float]
    errors: tuple[str, ...]


@dataclass(slots=True, kw_only=True)
class _Request:
    arrival_s: float
    given: int
    made: int
    model: str
    held: int = 0  # pages of the pool, granted
    pages: int = 0  # along its sequence, that it can fill with those
    device: int | None = None
    done: float = 0.0  # output tokens, before `since_s`
    since_s: float = 0.0  # decodes from then on
    prefill_s: float = 0.0  # the latest prefill begins
    speed: float = 1.0  # of the device that computes it
    started_s: float | None = None  # the first one began
    first_s: float | None = None  # it made its first token
    paused_s: float | None = None
    lost_s: float | None = None  # its device was lost


@dataclass(slots=True, kw_only=True)
class _Kind:
    """Devices that are alike."""

    name: str
    pool: dict[str, int]  # pages of each model
    speed: float
    price_per_hour: float
    open: int = 0
    peak: int = 0
    device_s: float = 0.0


@dataclass(slots=True, kw_only=True)
class _Device:
    model: str
    kind: _Kind
    ready_s: float
    pages: int = 0
    rows: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Move:
    request: int
    source: int
    target: int


@dataclass(slots=True, kw_only=True)
class _Samples:
    """One of each per tick in the window."""

    bound: list[float] = field(default_factory=list)
    used: list[float] = field(default_factory=list)


def check(lines: Iterable[str]) -> Checked:
    """Follows a log from its header to its figures.

    Raises:
      ValueError: it is no log as --record writes it.
    """
    audit, number = None, 0
    for number, text in enumerate(lines, start=1):
        try:
            line = json.loads(text)
            if audit is None:
                audit = _Audit(line["header"])
            else:
                audit.follow(line, number=number)
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(
                f"line {number} is not of an event log as --record writes it, or the "
                f"log is cut off ({type(error).__name__}: {error})"
            ) from None
    if audit is None:
        raise ValueError("the log is empty: give a file that --record wrote")
    return audit.conclude(events=number - 1)


class _Audit:
    """All that is true after a line."""

    def __init__(self, header: dict[str, Any]) -> None:
        fleet = header["settings"]
        _refuse_unknown(header)
        self._page, groups = int(fleet["page_tokens"]), fleet["cache"]["groups"]
        self._decode = float(fleet["decode_tokens_per_s"])
        self._prefill = float(fleet["prefill_tokens_per_s"])
        links = [fleet[f"{of}_gbps"] for of in ("link", "host", "switch")]
        self._is_instant = min(links) == math.inf
        self._has_bounds = bool(fleet["do_bounds"])
        self._slo_s = float(fleet["tpot_slo_s"])
        self._step = fleet["step_time"]
        layers, of_page = fleet["num_layers"], fleet["layers_per_page"]
        self._kinds = _read_kinds(fleet)
        self._kind_of = [kind for kind, count in self._kinds for _ in range(count)]
        self._has_prices = bool(fleet["devices"])
        rates = [own["losses_per_hour"] for own in fleet["devices"]] or [None]
        base = fleet["losses_per_hour"]
        self._has_losses = any((base if own is None else own) > 0 for own in rates)
        self._models = list(fleet["weights"])
        self._token_bytes = {
            model: fleet["kv_bytes_per_token"] * weight * of_page / layers  # of a group
            for model, weight in fleet["weights"].items()
        }
        self._requests = [
            _Request(arrival_s=at, given=given, made=made, model=model)
            for at, given, made, model in header["requests"]
        ]
        arrivals = [request.arrival_s for request in self._requests] or [0.0]
        self._start_s = arrivals[0] + 0.25 * (arrivals[-1] - arrivals[0])
        self._end_s = arrivals[-1]
        self._live: dict[int, _Request] = {}
        self._devices: dict[int, _Device] = {}
        self._lost: dict[int, _Device] = {}  # in this line
        self._moves: dict[int, _Move] = {}
        self._ends_s: dict[int, float | None] = {}  # of moves that take time
        self._count: Counter[str] = Counter()
        self._samples = _Samples()
        self._waits: list[float] = []
        self._pauses: list[float] = []
        self._loss_waits: list[float] = []
        self._felt_s: dict[str, list[float]] = {"ttft": [], "tpot": [], "e2e": []}
        self._slos_s = {name: fleet[name] for name in ("slo_ttft_s", "slo_tpot_s")}
        self._device_s = self._now_s = self._bytes = 0.0
        self._is_due = False  # a tick has not been sampled yet
        self._number = 0
        self._errors: list[str] = []
        self._said: dict[str, float] = {}
        self._rings = [self._ring(group, fleet["cache"]) for group in groups]

    # Lines.

    def follow(self, line: dict[str, Any], *, number: int) -> None:
        self._number = number
        if "figures" in line:
            self._said = line["figures"]
            return
        self._pass(float(line["t"]))
        if "begun" in line:
            self._count["deferrals"] += line["late"]
            self._count["violations"] += line["over"]
            for begun in line["begun"]:
                self._begin(begun)
            return
        name, fields = line["event"]
        self._happen(name, fields, plan=line["plan"])
        for what, decided in line["plan"]:
            self._obey(what, decided)
        self._lost.clear()
        self._is_due |= name == "Tick"

    def _happen(self, name: str, fields: dict[str, Any], *, plan: list[Any]) -> None:
        is_refused = ["Wait", {"request": fields.get("request")}] in plan
        match name:
            case "Arrive":
                self._arrive(fields)
            case "Grow":
                self._grow(fields, is_refused=is_refused)
            case "Finish":
                self._finish(fields["request"])
            case "MoveCommitted":
                self._commit(fields["move"])
            case "DeviceLost":
                self._lose(fields["device"])
            case "Tick":
                self._expect("tick", fields["now_s"], self._now_s)

    def _pass(self, now_s: float) -> None:
        if now_s < self._now_s:
            self._wrong(f"time goes back from {self._now_s} to {now_s} s")
        if now_s > self._now_s:
            self._sample()  # now that all moves of the tick are over
        inside = min(now_s, self._end_s) - max(self._now_s, self._start_s)
        self._device_s += max(0.0, inside) * len(self._devices)
        for kind, _ in self._kinds:
            kind.device_s += max(0.0, inside) * kind.open
        self._now_s = now_s

    def _arrive(self, fields: dict[str, Any]) -> None:
        request = self._requests[fields["request"]]
        self._expect("arrival", request.arrival_s, self._now_s)
        self._expect("first pages", self._held_by(request.given + 1), fields)
        self._give(request, fields["pages"])
        self._live[fields["request"]] = request

    def _grow(self, fields: dict[str, Any], *, is_refused: bool) -> None:
        request = self._live[fields["request"]]
        if request.device is None or request.paused_s is not None:
            self._wrong(f"request {fields['request']} grows while it stands still")
        self._reach(request, request.pages * self._page - request.given)
        self._expect("next page", self._held(request.pages + 1), fields)
        if is_refused:
            request.paused_s = self._now_s
        else:
            self._grant(fields["request"], fields["pages"])

    def _finish(self, number: int) -> None:
        request = self._live.pop(number)
        if request.paused_s is not None or request.device is None:
            self._wrong(f"request {number} ends while it stands still")
        if request.given + request.made > request.pages * self._page:
            self._wrong(f"request {number} ends beyond its {request.pages} pages")
        self._reach(request, request.made)
        for move in [m for m, at in self._moves.items() if at.request == number]:
            self._hold(self._moves.pop(move).target, -request.held, rows=-1)
        if request.device is not None:
            self._hold(request.device, -request.held, rows=-1)
        self._count["served_requests"] += 1
        self._count["served_tokens"] += request.given + request.made
        self._waits.append((request.started_s or 0.0) - request.arrival_s)
        self._felt(request)

    def _felt(self, request: _Request) -> None:
        """Notes the latencies of a request that ends now."""
        first_s = request.first_s or 0.0
        ttft_s = first_s - request.arrival_s
        each_s = (self._now_s - first_s) / max(1, request.made - 1)
        self._felt_s["ttft"].append(ttft_s)
        self._felt_s["e2e"].append(self._now_s - request.arrival_s)
        if request.made > 1:
            self._felt_s["tpot"].append(each_s)
        is_even = request.made == 1 or each_s <= self._slos_s["slo_tpot_s"] + TINY_S
        is_soon = ttft_s <= self._slos_s["slo_ttft_s"] + TINY_S
        self._count["met"] += is_even and is_soon

    def _reach(self, request: _Request, tokens: float) -> None:
        """A request has made so many output tokens just now."""
        left = min(tokens, request.made) - request.done
        due_s = request.since_s + left / self._decode_rate(request)
        self._expect("clock of a request", due_s, self._now_s)
        self._note_first(request, tokens)
        request.done, request.since_s = min(tokens, request.made), self._now_s

    def _note_first(self, request: _Request, made: float) -> None:
        if request.first_s is None and made >= 1:
            left = 1 - request.done
            request.first_s = request.since_s + left / self._decode_rate(request)

    def _decode_rate(self, request: _Request) -> float:
        return self._decode * request.speed

    def _prefill_rate(self, request: _Request) -> float:
        return self._prefill * request.speed

    # Losses.

    def _lose(self, number: int) -> None:
        """A device is gone; moves from or to it end, and what it held is told of."""
        device = self._devices.pop(number)
        device.kind.open -= 1
        self._count["losses"] += 1
        self._lost[number] = device
        for at in [m for m, v in self._moves.items() if number in (v.source, v.target)]:
            move = self._moves.pop(at)
            self._ends_s.pop(at, None)
            self._hold(move.target, -self._live[move.request].held, rows=-1)

    # Decisions.

    def _obey(self, what: str, fields: dict[str, Any]) -> None:
        match what:
            case "Place":
                self._place(fields)
            case "Move":
                self._move(fields)
            case "Preempt":
                self._preempt(fields)
            case "Reject":
                del self._live[fields["request"]]
                self._count["rejected"] += 1
            case "Activate":
                kind = self._kind_of[fields["device"]]
                self._devices[fields["device"]] = _Device(
                    model=fields["model"],
                    kind=kind,
                    ready_s=self._now_s + fields["load_s"],
                )
                kind.open += 1
                kind.peak = max(kind.peak, kind.open)
                self._count["activations"] += 1
                peak = max(self._count["devices_peak"], len(self._devices))
                self._count["devices_peak"] = peak
            case "Park":
                device = self._devices.pop(fields["device"])
                device.kind.open -= 1
                if device.rows:
                    self._wrong(f"device {fields['device']} is parked while in use")

    def _place(self, fields: dict[str, Any]) -> None:
        request = self._live[fields["request"]]
        if request.device is None:
            request.device = fields["device"]
            self._give(request, fields["pages"])
            self._hold(fields["device"], request.held, rows=1)
            self._begin_prefill(request)
            if request.lost_s is not None:
                self._loss_waits.append(request.prefill_s - request.lost_s)
                request.lost_s = None
        else:
            self._expect("device of a paused request", request.device, fields, "device")
            self._resume(request)
            self._grant(fields["request"], fields["pages"])
            request.since_s = self._now_s

    def _begin_prefill(self, request: _Request) -> None:
        assert request.device is not None
        device = self._devices[request.device]
        request.speed = device.kind.speed
        request.prefill_s = max(self._now_s, device.ready_s)
        tokens = request.given + int(request.done)
        request.since_s = request.prefill_s + tokens / self._prefill_rate(request)
        if request.started_s is None or request.started_s > self._now_s:
            request.started_s = request.prefill_s

    def _resume(self, request: _Request) -> None:
        if request.paused_s is not None and self._now_s > request.paused_s:
            self._pauses.append(self._now_s - request.paused_s)
        request.paused_s = None

    def _preempt(self, fields: dict[str, Any]) -> None:
        request = self._live[fields["request"]]
        self._expect("device of a preempted one", request.device, fields, "device")
        if self._now_s >= request.since_s:
            lost = int(request.given + self._made(request))
        elif self._now_s > request.prefill_s:
            passed_s = self._now_s - request.prefill_s
            lost = int(passed_s * self._prefill_rate(request))
        else:
            lost = 0
        self._count["tokens_recomputed"] += lost
        if fields["device"] in self._lost:
            self._count["lost_requests"] += 1
            self._count["lost_tokens"] += lost
            request.lost_s = self._now_s
        else:
            self._count["preemptions"] += 1
        made = self._made(request)
        self._note_first(request, made)
        request.done = made
        self._resume(request)
        self._hold(fields["device"], -request.held, rows=-1)
        request.device = None

    def _made(self, request: _Request) -> float:
        """Output tokens by now; they end where the granted pages do.

        They are counted with those of the prompt: a sum that rounding leaves just below
        a whole number is one.
        """
        if request.paused_s is not None:
            return request.done
        passed_s = max(0.0, self._now_s - request.since_s)
        made = request.done + passed_s * self._decode_rate(request)
        tokens = request.given + made
        return min(tokens, float(request.pages * self._page)) - request.given

    def _move(self, fields: dict[str, Any]) -> None:
        request = self._live[fields["request"]]
        self._expect("source of a move", request.device, fields, "source")
        self._expect("pages of a move", request.held, fields)
        self._moves[fields["move"]] = _Move(
            request=fields["request"], source=fields["source"], target=fields["target"]
        )
        self._hold(fields["target"], request.held, rows=1)
        if self._is_instant:
            tokens = self._moved_tokens(request)
            self._count_move(tokens, model=request.model, is_replayed=False)

    def _moved_tokens(self, request: _Request) -> int:
        if self._now_s < request.prefill_s:
            return 0
        return int(request.given + self._made(request))

    def _begin(self, begun: dict[str, Any]) -> None:
        move = self._moves[begun["move"]]
        request = self._live[move.request]
        tokens = max(1, self._moved_tokens(request))
        self._expect("tokens of a move", tokens, begun, "tokens")
        is_replayed = begun["mode"] == "TOKENS"
        self._count_move(tokens, model=request.model, is_replayed=is_replayed)
        self._ends_s[begun["move"]] = begun.get("ends_s")  # none where links are shared

    def _count_move(self, tokens: int, *, model: str, is_replayed: bool) -> None:
        self._count["migrations"] += 1
        kept = sum(min(tokens, ring * self._page) for ring in self._rings)
        self._bytes += 4 * tokens if is_replayed else kept * self._token_bytes[model]
        self._count["tokens_moved"] += tokens
        if is_replayed:
            self._count["replays"] += 1
            self._count["tokens_recomputed"] += tokens
        if self._start_s <= self._now_s <= self._end_s:
            self._count["window migrations"] += 1
            self._count["window tokens"] += tokens

    def _commit(self, number: int) -> None:
        if not self._is_instant:
            ends_s = self._ends_s.pop(number)
            self._expect("end of a move", ends_s or self._now_s, self._now_s)
        move = self._moves.pop(number, None)
        if move is None:
            return  # its request has ended meanwhile
        request = self._live[move.request]
        self._hold(move.source, -request.held, rows=-1)
        request.device = move.target
        if self._now_s < request.prefill_s:  # nothing is there yet: it begins anew
            self._begin_prefill(request)
        else:
            self._change_speed(request, self._devices[move.target].kind.speed)

    def _change_speed(self, request: _Request, speed: float) -> None:
        """A request is on another device: what is left takes another time."""
        times = request.speed / speed
        if times != 1 and self._now_s < request.since_s:
            request.since_s = self._now_s + (request.since_s - self._now_s) * times
            request.prefill_s = self._now_s + (request.prefill_s - self._now_s) * times
        elif times != 1 and request.paused_s is None:
            made = self._made(request)
            self._note_first(request, made)
            request.done, request.since_s = made, self._now_s
        request.speed = speed

    # Pages.

    def _ring(self, group: dict[str, Any], cache: dict[str, Any]) -> int:
        """The most pages of a group: a step adds a chunk to what a token sees."""
        if group["window"] is None:
            return sys.maxsize
        seen, fewest = group["window"] - 1 + cache["chunk_tokens"], 1
        while (fewest - 1) * self._page < seen:
            fewest += 1
        self._expect(f"ring of the window {group['window']}", fewest, group, "ring")
        return fewest

    def _held(self, pages: int) -> int:
        """Pages of the pool: of each group those from the oldest that is kept on."""
        return sum(pages - max(0, pages - ring) for ring in self._rings)

    def _held_by(self, tokens: int) -> int:
        return self._held(-(-tokens // self._page))

    def _give(self, request: _Request, held: int) -> None:
        """A request may go on to the last page that so many of the pool allow."""
        most = -(-(request.given + request.made) // self._page)
        request.held = held
        request.pages = bisect_right(range(most + 1), held, key=self._held) - 1

    def _grant(self, number: int, pages: int) -> None:
        request = self._live[number]
        more = pages - request.held
        self._give(request, pages)
        ends = [m.target for m in self._moves.values() if m.request == number]
        for device in [request.device, *ends]:
            if device is not None:
                self._hold(device, more, rows=0)

    def _hold(self, number: int, pages: int, *, rows: int) -> None:
        device = self._devices.get(number) or self._lost[number]
        device.pages += pages
        device.rows += rows
        limit = (
            self._limit(device.model, device.rows, device.kind) if device.rows else 0
        )
        if device.pages > limit:
            self._wrong(f"device {number} holds {device.pages} of {limit} pages")

    def _limit(self, model: str, rows: int, kind: _Kind) -> int:
        """Pages that fit beside `rows` requests, by memory and by step time."""
        pool, step_s = kind.pool[model], self._slo_s * kind.speed
        if self._slo_s == math.inf:
            return pool
        left_s = step_s - self._step["fixed_s"] - rows * self._step["row_s"]
        if left_s < 0 or not self._step["page_s"]:
            return pool if left_s >= 0 else -1
        return min(pool, int(left_s / self._step["page_s"] + 1e-9))

    def _largest(self, model: str) -> int:
        """Pages of the largest request that some kind can hold."""
        return max(self._limit(model, 1, kind) for kind, _ in self._kinds)

    # Figures.

    def _sample(self) -> None:
        is_due, self._is_due = self._is_due, False
        if not (is_due and self._start_s <= self._now_s <= self._end_s):
            return
        used = sum(r.held for r in self._live.values() if r.device is not None)
        room = sum(d.kind.pool[d.model] for d in self._devices.values())
        self._samples.used.append(used / room if room else 0.0)
        bound = 0
        for model in self._models if self._has_bounds else ():
            bound += self._bound(model)
        self._samples.bound.append(bound)

    def _bound(self, model: str) -> int:
        """The fewest instances for what would live now if nobody had ever waited.

        Of several kinds a request is as large as on the slowest, and ends as on the
        fastest.
        """
        speeds = [kind.speed for kind, _ in self._kinds]
        slow, fast = min(speeds), max(speeds)
        capacity, sizes = self._largest(model), []
        for request in self._requests:
            most = self._held_by(request.given + request.made)
            if request.model != model or most > capacity:
                continue
            prefill, decode = self._prefill * fast, self._decode * fast
            ends_s = request.arrival_s + request.given / prefill + request.made / decode
            decodes_s = request.arrival_s + request.given / (self._prefill * slow)
            if request.arrival_s <= self._now_s < ends_s:
                passed_s = max(0.0, self._now_s - decodes_s)
                made = int(passed_s * self._decode * slow) + 1
                tokens = request.given + min(made, request.made)
                sizes.append(min(capacity, self._held_by(tokens)))
        bound = martello_toth(sizes, capacity)
        if self._slo_s < math.inf and sizes and not self._has_prices:
            work_s = (
                len(sizes) * self._step["row_s"] + sum(sizes) * self._step["page_s"]
            )
            spare_s = self._slo_s - self._step["fixed_s"]
            bound = max(bound, math.ceil(work_s / spare_s - 1e-9))
        return bound

    def _figures(self) -> dict[str, float]:
        count, span_s = self._count, max(self._end_s - self._start_s, 1e-9)
        asked = max(1, len(self._requests) - count["rejected"])
        names = (
            "devices_peak migrations tokens_moved tokens_recomputed replays deferrals "
            "violations preemptions activations rejected served_requests served_tokens"
        )
        felt = {
            f"{name}_p{level}_s": _quantile(seconds, level / 100)
            for name, seconds in self._felt_s.items()
            for level in (50, 90, 99)
        }
        served = count["served_requests"]
        met = {"slo_attainment": count["met"] / served if served else 1.0}
        counted = {name: count[name] for name in names.split()}
        return (
            counted
            | felt
            | (self._money(span_s) if self._has_prices else {})
            | (self._losses() if self._has_losses else {})
            | met
            | {
                "bytes_moved": self._bytes,
                "devices_mean": self._device_s / span_s,
                "devices_warm_mean": 0.0,  # as for any fleet that is counted here,
                "prefix_hit_tokens": 0.0,  # and these
                "prefix_hit_share": 0.0,
                "utilization_mean": _mean(self._samples.used),
                "lower_bound_mean": _mean(self._samples.bound),
                "migrations_per_request": count["migrations"] / asked,
                "migrations_per_s": count["window migrations"] / span_s,
                "tokens_moved_per_s": count["window tokens"] / span_s,
                "pauses": len(self._pauses),
                "pause_s": math.fsum(self._pauses),
                "pause_max_s": max(self._pauses, default=0.0),
                "wait_mean_s": _mean(self._waits),
                "wait_p99_s": _quantile(self._waits, 0.99),
            }
        )

    def _money(self, span_s: float) -> dict[str, float]:
        kinds = [kind for kind, _ in self._kinds]
        paid = math.fsum(kind.price_per_hour * kind.device_s for kind in kinds)
        means = {f"devices_mean of {own.name}": own.device_s / span_s for own in kinds}
        peaks: dict[str, float] = {f"devices_peak of {k.name}": k.peak for k in kinds}
        return {"money_per_hour": paid / span_s} | means | peaks

    def _losses(self) -> dict[str, float]:
        waits = self._loss_waits
        counted = {
            name: self._count[name]
            for name in ("losses", "lost_requests", "lost_tokens")
        }
        return counted | {
            "loss_wait_mean_s": _mean(waits),
            "loss_wait_p99_s": _quantile(waits, 0.99),
            "loss_wait_max_s": max(waits, default=0.0),
        }

    def conclude(self, *, events: int) -> Checked:
        """Compares the figures that the log ends with."""
        self._sample()
        figures = self._figures()
        if not self._said:
            self._errors.append("the log ends without figures: the run was cut off")
        for number in self._live:
            self._errors.append(f"request {number} never ends")
        for name, said in self._said.items():
            if name in UNCHECKED:
                continue
            if name not in figures:
                self._errors.append(f"{name} is not of a log: it cannot be checked")
            elif not math.isclose(said, figures[name], rel_tol=CLOSE, abs_tol=TICK_S):
                self._errors.append(f"{name}: reported {said}, here {figures[name]}")
        return Checked(events=events, figures=figures, errors=tuple(self._errors))

    # Errors.

    def _expect(
        self,
        what: str,
        value: float | None,
        found: float | dict[str, Any],
        field_name: str = "pages",
    ) -> None:
        got = found[field_name] if isinstance(found, dict) else found
        if value is None or abs(value - got) > TICK_S:
            self._wrong(f"{what} should be {value}, is {got}")

    def _wrong(self, what: str) -> None:
        if len(self._errors) < MOST_ERRORS:
            self._errors.append(f"line {self._number}, {self._now_s} s: {what}")


def _refuse_unknown(header: dict[str, Any]) -> None:
    """Raises ValueError for a fleet whose clocks are not counted here."""
    fleet = header["settings"]
    if header["shares_prefixes"]:
        raise ValueError(
            "the log is of instances that share prefixes (--blocks), which are not "
            "counted again here: --replay reproduces its decisions"
        )
    if fleet["steps"] is not None:
        raise ValueError(
            "the log is of instances that make steps (--profile), whose times are not "
            "counted again here: --replay reproduces its decisions"
        )
    if fleet["warm_devices"]:
        raise ValueError(
            "the log is of a fleet with warm devices (--warm), whose loading is not "
            "counted again here: --replay reproduces its decisions"
        )


def _read_kinds(fleet: dict[str, Any]) -> list[tuple[_Kind, int]]:
    """Returns the kinds of devices of a header, with their numbers."""
    alike = {
        "kind": "only",
        "count": fleet["max_devices"],
        "capacity_tokens": fleet["capacity_tokens"],
        "speed": 1.0,
        "price_per_hour": 1.0,
    }
    kinds = []
    for own in fleet["devices"] or [alike]:
        pool = {
            model: int(
                own["capacity_tokens"]
                / weight
                / fleet["page_tokens"]
                * fleet["num_layers"]
                / fleet["layers_per_page"]
            )
            for model, weight in fleet["weights"].items()
        }
        kind = _Kind(
            name=own["kind"],
            pool=pool,
            speed=own["speed"],
            price_per_hour=own["price_per_hour"],
        )
        kinds.append((kind, own["count"]))
    return kinds


def martello_toth(sizes: Sequence[int], capacity: int) -> int:
    """The bound L2 of bin packing, from its definition."""
    order = sorted(sizes)
    sums = [0]
    for size in order:
        sums.append(sums[-1] + size)
    half = bisect_right(order, capacity / 2)
    best = 0
    for least in {0, *order[:half]}:
        alone = bisect_right(order, capacity - least)
        small = bisect_left(order, least)
        beside = (alone - half) * capacity - (sums[alone] - sums[half])
        rest = sums[half] - sums[min(small, half)] - beside
        best = max(best, len(order) - half + max(0, -(-rest // capacity)))
    return best


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else 0.0


def _quantile(values: Sequence[float], level: float) -> float:
    """By interpolation between the two nearest."""
    if not values:
        return 0.0
    order = sorted(values)
    at = level * (len(order) - 1)
    low = int(at)
    high = min(low + 1, len(order) - 1)
    return order[low] + (at - low) * (order[high] - order[low])
