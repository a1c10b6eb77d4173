"""What an engine shows becomes a moment, and its JSON what the page reads."""

import dataclasses
import json

from mell_jax.page.live import moment_of
from mell_jax.page.moment import Dots, Lane, Rival, Tile, Totals
from tests.page.views import LOAD, VIEW


def test_a_view_becomes_a_moment() -> None:
    moment = moment_of(LOAD)
    assert moment is not None
    assert (moment.number, moment.at, moment.in_use, moment.bound) == (12, 30.0, 1, 1)
    assert moment.waiting == 3
    assert moment.tiles == (
        Tile(
            device=0,
            state="serving",
            model="m",
            capacity=100,
            used=60,
            reserved=8,
            cached=32,  # as many as are free
            rows=2,
            paused=1,
        ),
        Tile(device=1, state="parked"),
    )
    assert moment.dots == Dots(
        numbers=(4, 9),
        devices=(0, -1),
        targets=(1, -1),
        pages=(3, 2),
        tokens=(40, 0),
        left_out=7,
    )
    assert moment.lanes == (
        Lane(request=4, device=0, first=17, ticks=(29.5, 29.62), moves=((29.6, 1, 0),)),
    )
    assert sum(moment.gaps.moved) == 1 and sum(moment.gaps.unmoved) == 2
    assert len(moment.gaps.bounds) + 1 == len(moment.gaps.after)
    assert moment.rivals == (
        Rival(policy="best_fit", devices=2, device_s=60.0, cost_s=0.0123),
    )
    assert moment.totals == Totals(
        tokens=321, moves=5, called_off=2, bytes=4096, broken=1, device_s=41.2
    )


def test_its_json_has_the_names_that_the_page_reads() -> None:
    moment = moment_of(LOAD)
    assert moment is not None
    told = json.loads(moment.json())
    assert set(told) == {
        *("number", "at", "in_use", "bound", "waiting", "tiles", "dots", "lanes"),
        *("gaps", "rivals", "totals", "age"),
    }
    assert told["lanes"][0]["moves"] == [[29.6, 1, 0]]
    assert told["dots"]["targets"] == [1, -1]
    assert told["totals"]["device_s"] == 41.2


def test_an_engine_that_nobody_has_looked_at_has_no_moment() -> None:
    assert moment_of(dataclasses.replace(LOAD, fleet=None)) is None
    assert VIEW.number == 12
