"""An answer as text, as JSON, as commands and as a picture."""

import importlib.util
import json
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from mell_jax.planner.picture import draw_answer
from mell_jax.planner.question import Payment, Side
from mell_jax.planner.report import as_values, cheapest, saved, tell
from mell_jax.planner.serve_command import serve_commands
from tests.planner.answers import ANSWER, MOVING, NOTHING, PINNED, offer

TOLD = """\
small: 3 requests in 2 min, tiny (1.0 GB, 2 KiB a token)
TTFT <= 500 ms and TPOT <= 50 ms for 99% of them; all devices are paid for all the time

busiest 2.0 min, from 0 s on:
<TABLE>

no offers:
L4, consolidate: too slow

$/h: all devices, all the time; in use: mean of those not parked, and what they cost
TTFT, TPOT: 99th percentiles; within: requests with both in bounds
Devices are as in their data sheets or profiles; prices are examples: see --prices

with migration: 2 x H100 + 2 x L4, of which 2.50 are in use: 5.00 $/h
without: 3 x H100, of which 2.50 are in use: 6.00 $/h
migration saves 1.00 $/h (16.7%)

serve it on 2 x H100 + 2 x L4:
mell-serve --model=DIR --devices=2 --max_rows=50 --token_budget=100 --kv_pages=500
mell-serve --model=DIR --mesh=1x2 --max_rows=50 --token_budget=100
One mell-serve has devices of one kind: a router divides the requests between these, and
none moves from one to the other, as the simulated ones may."""
CELLS = [
    "devices, policy, $/h, in use, $/h used, TTFT ms, TPOT ms, within, moves, preempt",
    "2 x H100 + 2 x L4, consolidate, 5.00, 2.50, 3.50, 432, 44, 99.51%, 12k, 3",
    "3 x H100, pinned_best_fit, 6.00, 2.50, 5.00, 432, 44, 99.51%, 12k, 3",
]


def test_an_answer_is_told_with_what_it_saves_and_how_to_serve_it() -> None:
    before, after = TOLD.split("<TABLE>")
    told = tell(ANSWER, model="DIR")
    assert told.startswith(before) and told.endswith(after)
    table = told.removeprefix(before).removesuffix(after).splitlines()
    assert [", ".join(re.split(r" {2,}", line)) for line in table] == CELLS
    assert max(map(len, told.splitlines())) <= 100


def test_the_whole_trace_has_a_table_of_its_own() -> None:
    part = tuple(replace(each, is_whole=False) for each in ANSWER.offers)
    told = tell(replace(ANSWER, offers=part), model="DIR")
    assert told.count("2 x H100 + 2 x L4  consolidate") == 2
    assert "\nwhole trace:\n" in told


def test_what_costs_the_same_saves_nothing() -> None:
    same = replace(ANSWER, best={Side.MOVING: PINNED, Side.PINNED: PINNED})
    assert "migration saves no money here" in tell(same, model="DIR")


def test_the_cheaper_side_is_served_also_where_it_does_not_move() -> None:
    cheap = offer("pinned_best_fit", fleet=(1, 0), in_use=(1.0, 0.0))
    answer = replace(ANSWER, best={Side.MOVING: MOVING, Side.PINNED: cheap})
    assert cheapest(answer) == cheap
    told = tell(answer, model="DIR")
    assert "migration would cost 3.00 $/h (150.0%)" in told
    assert told.endswith(
        "serve it on 1 x H100:\nmell-serve --model=DIR --max_rows=50 "
        "--token_budget=100 --policy=pinned_best_fit"
    )


def test_no_offer_is_told_as_such() -> None:
    told = tell(NOTHING, model="DIR")
    assert "busiest 2.0 min, from 0 s on: no fleet meets the bounds" in told
    assert told.endswith("No fleet meets the bounds: allow more, or add other devices.")
    assert saved(NOTHING) == {} and cheapest(NOTHING) is None


def test_of_equal_kinds_and_sides_the_cheapest_is_shown() -> None:
    dear = offer("consolidate", fleet=(3, 1), in_use=(1.5, 0.5))
    told = tell(replace(ANSWER, offers=(dear, *ANSWER.offers)), model="DIR")
    assert "3 x H100 + 2 x L4" not in told


def test_what_is_saved_is_told_in_devices_and_both_kinds_of_money() -> None:
    assert saved(ANSWER) == {
        "devices": -1.0,
        "devices_in_use": 0.0,
        "price_per_hour_owned": 1.0,
        "price_per_hour_owned_share": pytest.approx(1 / 6),
        "price_per_hour_used": 1.5,
        "price_per_hour_used_share": pytest.approx(0.3),
    }


def test_json_has_every_figure() -> None:
    values = as_values(ANSWER, model="DIR", command="mell-plan ...")
    content = json.loads(json.dumps(values, allow_nan=False))
    assert content["command"] == "mell-plan ..."
    assert content["payment"] == "owned" and content["trials"] == 9
    moving = content["best"]["moving"]
    assert moving["devices"] == {"H100": 2, "L4 x2": 2}
    assert (moving["price_per_hour_owned"], moving["price_per_hour_used"]) == (5.0, 3.5)
    assert (moving["policy"], moving["within_share"]) == ("consolidate", 0.9951)
    assert moving["instances"] == [1.0, 2.0, 1.0]
    assert content["offers"][0] == {
        key: value
        for key, value in moving.items()
        if key not in ("times_s", "instances", "serve")
    }
    assert moving["serve"] == serve_commands(MOVING, model="DIR")
    assert [each["kind"] for each in content["options"]] == ["H100", "L4"]
    assert content["options"][0]["profile"]["link_bytes_per_s"] is None  # unbounded
    assert content["saved"]["price_per_hour_owned"] == 1.0


def test_money_is_counted_as_it_is_paid() -> None:
    used = replace(ANSWER.question, payment=Payment.USED)
    assert used.cost_of(MOVING) == (3.5, 5.0)
    assert ANSWER.question.cost_of(MOVING) == (5.0, 3.5)


@pytest.mark.skipif(
    importlib.util.find_spec("matplotlib") is None, reason="needs the extra plot"
)
@pytest.mark.parametrize("answer", [ANSWER, NOTHING])
def test_a_picture_shows_all_offers(answer: object, tmp_path: Path) -> None:
    path = tmp_path / "plan.svg"
    draw_answer(path, answer=answer)  # type: ignore[arg-type]
    text = "".join(ElementTree.parse(path).getroot().itertext())
    assert "TTFT <= 500 ms" in text
    assert ("3 x H100, pinned_best_fit" in text) == (answer is ANSWER)
    first = path.read_bytes()
    draw_answer(path, answer=answer)  # type: ignore[arg-type]
    assert path.read_bytes() == first
