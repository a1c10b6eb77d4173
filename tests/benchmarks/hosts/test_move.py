"""The figures of a move are those of what was seen."""

from typing import Any

import pytest

from benchmarks.hosts import move
from benchmarks.hosts.two_hosts import Move
from mell_jax.engine.frames import Handle


class Seen:
    """Tokens came at these times."""

    def __init__(self, *times: list[float]) -> None:
        self.times = {Handle(n): list(each) for n, each in enumerate(times)}


def gap(seen: Any, *, began_s: float, ended_s: float) -> tuple[int, float]:
    found = move.gap_of(
        seen,
        Handle(0),
        neighbours=[Handle(1), Handle(2)],
        move=Move(began_s=began_s, ended_s=ended_s),
    )
    return found[0], round(found[1], 6)


def test_a_gap_is_counted_in_steps_of_the_busier_neighbour() -> None:
    #            0.0  1.0  2.0       (moves)        6.0  7.0
    seen = Seen(
        [0.0, 1.0, 2.0, 6.0, 7.0],
        [0.5, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5],
        [0.2, 2.2, 4.2, 6.2],
    )
    assert gap(seen, began_s=1.5, ended_s=5.0) == (4, 4.0)


def test_what_happens_before_and_after_a_move_is_not_its_downtime() -> None:
    seen = Seen([0.0, 9.0, 10.0, 12.0, 13.0, 30.0], [11.0, 20.0, 21.0], [1.0])
    assert gap(seen, began_s=9.5, ended_s=12.5) == (1, 2.0)


def test_a_move_that_nobody_notices_costs_one_step() -> None:
    seen = Seen([0.0, 1.0, 2.0, 3.0], [9.0], [9.0])
    assert gap(seen, began_s=0.5, ended_s=1.5) == (1, 1.0)


def test_pages_are_measured_beside_a_plain_socket(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(move, "TURNS", 3)
    monkeypatch.setattr(move, "WARM_TURNS", 1)
    figures = move.measure_pages("small", 256)
    assert figures.bytes == 2**20
    assert figures.lane_gb_s > 0.0
    assert figures.plain_gb_s > 0.0
    assert figures.ratio > 0.0
