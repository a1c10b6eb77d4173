"""Update after update under load: nothing is kept, compiled or lost."""

import gc
import weakref
from dataclasses import dataclass, field

import jax
import pytest

from mell_jax.engine.fleet.config import FleetConfig
from mell_jax.engine.fleet.faults import Fault
from mell_jax.engine.fleet.fleet import Fleet
from mell_jax.engine.frames import FinishReason
from mell_jax.engine.params import SamplingParams
from mell_jax.worker.compilation import CompilationCounter
from tests.engine.fleet.toy_fleet import TOY
from tests.engine.fleet.versioned import Record, update, watched_fleet
from tests.toy import Transcript, submit

STREAMS = 32
WORDS = ("keep", "keep", "keep", "restart")


@dataclass
class Load:
    """Always so many streams, each begun when another has ended."""

    fleet: Fleet
    seen: Transcript = field(default_factory=Transcript)
    prompts: dict[int, list[int]] = field(default_factory=dict)

    def step(self) -> None:
        while len(self.prompts) - len(self.seen.finished) < STREAMS:
            handle = len(self.prompts)
            prompt = [(handle * 7 + n) % 90 for n in range(3 + handle % 40)]
            self.prompts[handle] = prompt
            params = SamplingParams(temperature=0.0, max_tokens=10 + handle % 9)
            submit(self.fleet, prompt, handle=handle, params=params)
        self.seen.read(self.fleet.step())

    def end(self) -> None:
        while self.fleet.has_work:
            self.seen.read(self.fleet.step())


def weights_of(fleet: Fleet) -> list[weakref.ref[jax.Array]]:
    held = fleet.instance_pool.held(TOY).values()
    return [weakref.ref(array) for each in held for array in each.arrays]


def update_often(*, count: int) -> None:
    record = Record()
    config = FleetConfig(fault=Fault(move_every=3))
    fleet = watched_fleet(record, devices=4, config=config)
    load = Load(fleet)
    for _ in range(4):
        load.step()
    for word in ("keep", "restart"):  # whatever the first ones compile
        update(fleet, record, word, is_streamed=word == "restart")
        load.step()
    arrays, compilations = len(jax.live_arrays()), CompilationCounter()
    for number in range(count):
        before = weights_of(fleet)
        update(fleet, record, WORDS[number % 4], is_streamed=number % 3 == 0)
        assert not any(array() for array in before), "older weights are kept"
        load.step()
        load.step()
    gc.collect()
    # As many as before, but for what is on its way of moves and steps.
    assert len(jax.live_arrays()) < arrays + 60
    assert compilations.count == 0
    load.end()
    assert record.check(load.seen, prompts=load.prompts) > 0
    ends = {end.reason for end in load.seen.finished.values()}
    assert ends == {FinishReason.LENGTH}
    assert len(load.seen.finished) == len(load.prompts) >= STREAMS
    assert fleet.load().used_pages == 0
    assert fleet.conductor.is_at_rest


def test_thirty_updates_under_load() -> None:
    update_often(count=30)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_thousand_updates_under_load() -> None:
    update_often(count=1000)


def test_weights_that_somebody_keeps_are_seen() -> None:
    """The control: the same look finds a planted leak."""
    record = Record()
    fleet = watched_fleet(record, devices=2)
    before = weights_of(fleet)
    planted = next(iter(fleet.instance_pool.held(TOY).values())).arrays
    update(fleet, record)
    assert sum(array() is not None for array in before) == len(planted) == 2
