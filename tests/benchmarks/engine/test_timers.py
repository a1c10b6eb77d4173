import itertools
from types import SimpleNamespace

import pytest

from benchmarks.engine import timers
from benchmarks.engine.timers import StepClock, replaced


class Door:
    width = 2

    def open(self, by: int) -> int:
        return self.width * by


def test_a_watched_method_does_what_it_did_and_each_call_is_timed(monkeypatch):
    squares = (float(n * n) for n in itertools.count())  # 0 1 | 4 9
    time = SimpleNamespace(perf_counter=lambda: next(squares))
    monkeypatch.setattr(timers, "time", time)
    door, clock = Door(), StepClock()
    with clock.watch(door, "open", name="opening"):
        assert [door.open(1), door.open(by=3)] == [2, 6]
    assert clock.laps["opening"] == [1.0, 5.0]
    assert "open" not in vars(door)


def test_a_call_that_raises_is_timed_too():
    door, clock = Door(), StepClock()
    with clock.watch(door, "open"), pytest.raises(TypeError):
        door.open()
    assert len(clock.laps["open"]) == 1


def test_a_class_gets_its_own_method_back():
    before = Door.open
    clock = StepClock()
    with clock.watch(Door, "open"):
        assert Door().open(2) == 4
    assert Door.open is before
    assert len(clock.laps["open"]) == 1


def test_an_attribute_of_the_object_itself_is_put_back():
    door = Door()
    door.width = 5
    with replaced(door, "width", 7):
        assert door.width == 7
    assert door.width == 5


def test_a_reset_clock_knows_nothing():
    clock = StepClock()
    clock.timed(lambda: None, name="x")()
    clock.reset()
    assert not clock.laps
