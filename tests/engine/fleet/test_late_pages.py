"""Pages that arrive after their request has gone are written nowhere."""

from dataclasses import dataclass

from mell_jax.engine.fleet.page_transfer import PageTransfer
from mell_jax.engine.fleet.transport import DevicePut
from mell_jax.engine.frames import Abort, Handle
from mell_jax.engine.params import SamplingParams
from mell_jax.scheduler.ids import DeviceGroupId
from mell_jax.scheduler.placement import events
from mell_jax.worker.group import DeviceGroup
from tests.engine.fleet.toy_fleet import toy_fleet
from tests.toy import Transcript, expected, submit

LONG = [*range(1, 65)]
SHORT = [5] * 20
THERE = [9] * 49  # 4 pages on the target of the move
NEXT = [7] * 60
RIGHT = DeviceGroupId(1)


class Gate:
    """A transport whose transfers arrive when it is opened."""

    def __init__(self) -> None:
        self.is_open = False
        self.carried = 0

    def carry(
        self,
        transfer: PageTransfer,
        *,
        source: DeviceGroupId,
        target: DeviceGroupId,
        to: DeviceGroup,
    ) -> PageTransfer:
        copy = DevicePut().carry(transfer, source=source, target=target, to=to)
        self.carried += 1
        return GatedTransfer(chunks=copy.chunks, places=copy.places, gate=self)


@dataclass(frozen=True, slots=True, kw_only=True)
class GatedTransfer(PageTransfer):
    gate: Gate

    @property
    def is_ready(self) -> bool:
        return self.gate.is_open

    @property
    def is_awaited(self) -> bool:
        return not self.gate.is_open


def greedy(max_tokens: int) -> SamplingParams:
    return SamplingParams(temperature=0.0, max_tokens=max_tokens)


def test_pages_that_arrive_after_an_abort_are_not_written_and_fence_nothing() -> None:
    gate, seen = Gate(), Transcript()
    fleet = toy_fleet(
        devices=2,
        num_pages=13,
        policy="best_fit",
        rows=2,
        growth=0.0,
        transport=gate,
        prefix_cache=False,
    )
    for handle, prompt in enumerate([LONG, SHORT, THERE]):
        submit(fleet, prompt, handle=handle, params=greedy(60))
    for _ in range(4):
        seen.read(fleet.step())
    conductor = fleet.conductor
    conductor.decide(
        events.Relocate(request=conductor.requests[Handle(0)], device=RIGHT)
    )
    while not gate.carried:
        seen.read(fleet.step())
    target = fleet.instances[RIGHT]
    assert target.is_busy and target.inner.batcher.cache.counts.used >= 4 + 4
    fleet.abort(Abort(handles=(Handle(0),)))
    seen.read(fleet.step())
    assert target.inner.batcher.cache.counts.used <= 4 + 1  # they are free again
    for handle in (3, 4):  # one on each device, so that no page is left there
        submit(fleet, NEXT, handle=handle, params=greedy(20))
    for _ in range(3):
        seen.read(fleet.step())
    gate.is_open = True
    while fleet.has_work:
        seen.read(fleet.step())
    assert fleet.stats().losses == 0
    assert fleet.stats().replays == 0
    for handle, prompt in ((1, SHORT), (2, THERE)):
        assert seen.tokens[handle] == expected(prompt, count=60)
    for handle in (3, 4):
        assert seen.tokens[handle] == expected(NEXT, count=20)
