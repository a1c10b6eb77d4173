"""Runs one policy over one workload on the engine and notes all that happens."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.fleet.timeline import Timeline
from benchmarks.fleet.watch import Log, watch
from mell_jax.bench.metrics import Record
from mell_jax.bench.replay import Order
from mell_jax.engine.fleet.fleet import Fleet
from mell_jax.engine.frames import FinishReason, Handle, Submit
from mell_jax.engine.params import SamplingParams
from mell_jax.scheduler.simulator.measure import RunMeter
from mell_jax.scheduler.simulator.window import Window

STUCK_ROUNDS = 1000
"""So many rounds that bring nothing, one after the other, are not waiting any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run tells what came of it."""

    records: list[Record]
    log: Log
    devices_mean: float  # in the window of `serve`
    device_s: float  # seconds of instances in use, added up over the whole run
    duration_s: float


def window_of(arrivals_s: Sequence[float]) -> Window:
    """Returns the simulator's window: no first quarter, until the last arrival."""
    first, last = arrivals_s[0], arrivals_s[-1]
    return Window(start_s=first + 0.25 * (last - first), end_s=last)


def serve(
    fleet: Fleet,
    orders: Sequence[Order],
    *,
    timeline: Timeline,
    on_done: Callable[[int], object] = lambda count: None,
) -> Run:
    """Sends `orders` when they are due and steps until all have ended.

    Raises:
      RuntimeError: the fleet stands still with requests open.
    """
    inside = RunMeter(window=window_of([order.arrival_s for order in orders]))
    whole = RunMeter(window=Window(start_s=0.0, end_s=float("inf")))

    def count(devices: int) -> None:
        inside.count_devices(timeline.now_s(), devices)
        whole.count_devices(timeline.now_s(), devices)

    log = Log(timeline.now_s, on_devices=count)
    with watch(fleet, log):
        _loop(fleet, orders, timeline=timeline, log=log, on_done=on_done)
    count(len(fleet.instances))
    return Run(
        records=[_record(order, n, log) for n, order in enumerate(orders)],
        log=log,
        devices_mean=inside.summary(requests=len(orders))["devices_mean"],
        device_s=whole.device_s,
        duration_s=timeline.now_s(),
    )


def _loop(
    fleet: Fleet,
    orders: Sequence[Order],
    *,
    timeline: Timeline,
    log: Log,
    on_done: Callable[[int], object],
) -> None:
    sent = quiet = 0
    while sent < len(orders) or len(log.finished) < sent:
        while sent < len(orders) and orders[sent].arrival_s <= timeline.now_s():
            fleet.submit(_submit(orders[sent], handle=sent))
            sent += 1
        timeline.due_s = orders[sent].arrival_s if sent < len(orders) else math.inf
        frame = fleet.step()
        timeline.stepped(fleet)
        log.read(frame)
        if frame is not None:
            quiet = 0
            on_done(len(frame.finished))
        elif not fleet.has_work:
            quiet += 1
            due_s = timeline.now_s() + 1.0
            if sent < len(orders):
                due_s = min(due_s, orders[sent].arrival_s)
            timeline.wait_until(due_s)
            if quiet > STUCK_ROUNDS and sent == len(orders):
                raise RuntimeError(
                    f"the fleet stands still with {sent - len(log.finished)} requests"
                )


def _submit(order: Order, *, handle: int) -> Submit:
    params = SamplingParams(
        temperature=0.0, max_tokens=order.output_tokens, ignore_eos=True
    )
    return Submit(
        handle=Handle(handle), prompt=order.prompt, params=params, model=order.model
    )


def _record(order: Order, handle: int, log: Log) -> Record:
    reason = log.finished[Handle(handle)]
    rounds = log.tokens.get(Handle(handle), [])
    return Record(
        input_tokens=len(order.prompt),
        due_s=order.arrival_s,
        sent_s=order.arrival_s,
        chunks=tuple((log.round_s[at], 1) for at in rounds),
        error="" if reason is FinishReason.LENGTH else reason.value,
    )
