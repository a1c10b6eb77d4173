"""A model whose layers have windows, simulated: times and pages by hand, then at large.

By hand: devices hold 10 pages of 10 tokens of both layers, which are 20 of one layer. A
request makes 10 tokens a second, a page along its sequence each.
"""

import io
import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mell_jax.scheduler.cache_spec import CacheSpec, PageGroup
from mell_jax.scheduler.ids import DeviceGroupId, MoveId, RequestId
from mell_jax.scheduler.placement import plan
from mell_jax.scheduler.placement.events import ONLY_MODEL
from mell_jax.scheduler.placement.policy import PolicyConfig
from mell_jax.scheduler.policies import POLICIES
from mell_jax.scheduler.simulator import record
from mell_jax.scheduler.simulator.carriage import Carriage
from mell_jax.scheduler.simulator.check import Checked, check
from mell_jax.scheduler.simulator.layers import read_layers
from mell_jax.scheduler.simulator.repack import demands, run_repack
from mell_jax.scheduler.simulator.report import layers
from mell_jax.scheduler.simulator.results.compare import (
    REPACK,
    REPACK_LIVE,
    RunOutcome,
    run_policy,
)
from mell_jax.scheduler.simulator.settings import Settings
from mell_jax.scheduler.simulator.workload import Workload
from mell_jax.scheduler.transfer import Mode

PLAIN = Settings(
    capacity_tokens=100,
    page_tokens=10,
    decode_tokens_per_s=10.0,
    prefill_tokens_per_s=math.inf,
    link_gbps=math.inf,
    kv_bytes_per_token=100,
)
WINDOWED = replace(
    PLAIN,
    cache=CacheSpec(
        page_tokens=10,
        groups=(PageGroup(), PageGroup(window=11, ring=3)),  # 11 - 1 + 10 tokens
        chunk_tokens=10,
    ),
    num_layers=2,
)
"""One layer sees everything, of the other a request keeps 3 pages at most."""
ALL_WINDOWED = replace(
    WINDOWED,
    cache=replace(WINDOWED.cache, groups=(PageGroup(window=11, ring=3),)),
    num_layers=1,
)


def workload(rows: list[tuple[float, int, int]]) -> Workload:
    return Workload(
        arrival_s=np.array([row[0] for row in rows]),
        input_tokens=np.array([row[1] for row in rows]),
        output_tokens=np.array([row[2] for row in rows]),
        models=(ONLY_MODEL,) * len(rows),
        name="by hand",
    )


def run(
    rows: list[tuple[float, int, int]], fleet: Settings, policy: str = "best_fit"
) -> tuple[RunOutcome, list[str]]:
    """A run and its log."""
    file, load = io.StringIO(), workload(rows)

    def open_log(name: str, config: PolicyConfig) -> record.EventLog:
        header = record.make_header(name, config=config, settings=fleet, workload=load)
        return record.EventLog(file, header=header)

    outcome = run_policy(
        policy,
        workload=load,
        settings=fleet,
        headroom=0.0,
        clock=itertools.count().__next__,
        progress=lambda served: None,
        open_log=open_log,
    )
    return outcome, file.getvalue().splitlines()


def told(lines: list[str], name: str) -> list[tuple[float, int]]:
    """When the machine was told of `name`, and of how many pages."""
    found = [json.loads(line) for line in lines]
    return [
        (line["t"], line["event"][1]["pages"])
        for line in found
        if line.get("event", [""])[0] == name
    ]


def test_a_device_is_known_by_pages_of_one_group() -> None:
    (spec,) = WINDOWED.models().values()
    assert (spec.capacity_pages, spec.page_bytes) == (20, 500.0)
    assert spec.growth_pages_per_s == 1.0  # rings are full sooner or later
    assert next(iter(ALL_WINDOWED.models().values())).growth_pages_per_s == 0.0
    assert spec.cache == WINDOWED.cache


def test_a_request_asks_for_the_pages_that_its_layers_keep() -> None:
    outcome, lines = run([(0.0, 15, 40)], WINDOWED)
    # 2 pages in each layer; at 20 tokens a third in each; at 30, 40, 50 one more
    assert told(lines, "Arrive") == [(0.0, 2 + 2)]
    assert told(lines, "Grow") == [(0.5, 3 + 3), (1.5, 4 + 3), (2.5, 5 + 3), (3.5, 9)]
    assert outcome.figures["served_tokens"] == 55
    assert not check(lines).errors


def test_a_request_whose_layers_all_have_windows_stops_asking() -> None:
    outcome, lines = run([(0.0, 15, 500)], ALL_WINDOWED)
    # no device holds its 515 tokens, and it never has more than 3 pages
    assert told(lines, "Grow") == [(0.5, 3)]
    assert (outcome.meter.rejected, outcome.figures["served_tokens"]) == (0, 515)
    assert not check(lines).errors
    assert run([(0.0, 15, 500)], PLAIN)[0].meter.rejected == 1


def test_as_many_requests_fit_a_device_as_their_pages_do() -> None:
    rows = [(0.0, 55, 5)] * 3  # 6 + 3 pages each of a device's 20, or 6 of 10
    assert run(rows, WINDOWED)[0].figures["devices_peak"] == 2
    assert run(rows, PLAIN)[0].figures["devices_peak"] == 3
    assert run(rows[:2], WINDOWED)[0].figures["devices_peak"] == 1


def test_what_never_fits_is_what_would_hold_too_much() -> None:
    # 17 pages and 3 are a whole device, 18 and 3 one more; without windows 10 are
    rows = [(0.0, 150, 20), (0.0, 150, 21)]
    assert run(rows, WINDOWED)[0].meter.rejected == 1
    assert run(rows, PLAIN)[0].meter.rejected == 2
    assert run_repack(workload(rows), settings=WINDOWED).rejected == 1


def test_demands_and_bounds_are_of_pages_held() -> None:
    rows = [(0.0, 15, 45), (0.0, 55, 45)]
    pages = [
        sorted(demand.pages[ONLY_MODEL].tolist())
        for demand in demands(workload(rows), settings=WINDOWED)
    ]
    # 26 and 66 tokens after a second: 3 + 3 and 7 + 3 pages
    assert pages == [[6, 10], [7, 11], [8, 12], [9, 13], []]


def test_a_move_copies_what_is_held() -> None:
    slow = replace(WINDOWED, link_gbps=8e-6)  # 1,000 bytes a second
    carriage = Carriage(slow, ready_s={DeviceGroupId(1): 0.0})
    move = plan.Move(
        move=MoveId(0),
        request=RequestId(0),
        source=DeviceGroupId(0),
        target=DeviceGroupId(1),
        pages=8,
        is_urgent=False,
    )
    demand = carriage.demand(move, model=ONLY_MODEL, tokens=50)
    # 50 tokens of the one layer and 30 of the other, at 50 bytes
    assert demand.link_bytes(Mode.KV) == 50 * 50 + 30 * 50
    assert carriage.demand(move, model=ONLY_MODEL, tokens=20).link_bytes(Mode.KV) == (
        20 * 100
    )


def test_bytes_that_were_moved_are_counted() -> None:
    # at 0.5 s the second asks for a page that is not there: one of both goes
    rows = [(0.0, 115, 30), (0.0, 35, 30)]
    outcome, lines = run(rows, replace(WINDOWED, capacity_tokens=110))
    assert outcome.figures["migrations"] == 1
    assert outcome.figures["tokens_moved"] == 40
    assert outcome.figures["bytes_moved"] == 40 * 50 + 30 * 50
    assert not check(lines).errors


LOAD = [
    (t, int(given), int(made))
    for t, given, made in zip(
        np.sort(np.random.default_rng(5).uniform(0, 20, 60)).tolist(),
        np.random.default_rng(6).integers(1, 80, 60),
        np.random.default_rng(7).integers(1, 90, 60),
        strict=True,
    )
]
SCARCE = {
    "link_gbps": 8e-5,
    "activation_s": 0.7,
    "prefill_tokens_per_s": 400.0,
    "prefill_share": 0.5,
}


PACKING = sorted(set(POLICIES) - {"spread", "pinned_spread"})  # these use all


@pytest.mark.parametrize("policy", [*PACKING, REPACK, REPACK_LIVE])
def test_every_policy_needs_fewer_devices_with_windows(policy: str) -> None:
    without = replace(PLAIN, capacity_tokens=200)
    windowed = replace(WINDOWED, capacity_tokens=200)
    before = run(LOAD, without, policy)[0].figures
    after = run(LOAD, windowed, policy)[0].figures
    assert before["served_tokens"] == after["served_tokens"] > 0
    assert after["devices_mean"] < 0.9 * before["devices_mean"]
    assert after["lower_bound_mean"] < 0.9 * before["lower_bound_mean"]


@pytest.mark.parametrize("policy", sorted(POLICIES))
@pytest.mark.parametrize("max_devices", [4, 1000])
def test_another_count_confirms_every_policy(policy: str, max_devices: int) -> None:
    fleet = replace(WINDOWED, capacity_tokens=200, max_devices=max_devices, **SCARCE)
    outcome, lines = run(LOAD, fleet, policy)
    assert not check(lines).errors
    assert outcome.figures["served_requests"] == 60
    rest = iter(lines)
    machine = record.read_machine(rest)
    assert record.replay(machine, lines=rest) > 400


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(
    rows=st.lists(
        st.tuples(st.floats(0, 10), st.integers(1, 90), st.integers(1, 90)),
        min_size=1,
        max_size=25,
    ),
    policy=st.sampled_from(["best_fit", "consolidate", "mell", "reserve_peak"]),
    windows=st.lists(st.sampled_from([None, 1, 7, 30]), min_size=1, max_size=4),
    is_scarce=st.booleans(),
)
def test_no_device_ever_holds_more_than_it_has(
    rows: list[tuple[float, int, int]],
    policy: str,
    windows: list[int | None],
    is_scarce: bool,
) -> None:
    cache = CacheSpec.of_windows(windows, page_tokens=10, most_chunk_tokens=20)
    fleet = replace(
        PLAIN,
        capacity_tokens=200,
        cache=cache,
        layers_per_page=3,
        num_layers=3 * len(windows) - 1 if len(windows) > 1 else 3,
        **(SCARCE | {"max_devices": 3} if is_scarce else {}),
    )
    outcome, lines = run(sorted(rows), fleet, policy)
    assert not check(lines).errors
    served = outcome.figures["served_requests"] + outcome.figures["rejected"]
    assert served == len(rows)


def spoilt(lines: list[str], change: dict[str, int]) -> Checked:
    """The check of a log whose windows are others than those that it ran with."""
    header = json.loads(lines[0])
    header["header"]["settings"]["cache"]["groups"][1] |= change
    return check([json.dumps(header), *lines[1:]])


def test_the_check_counts_what_windows_keep_by_itself() -> None:
    _, lines = run(LOAD, WINDOWED)
    assert not check(lines).errors
    assert any("ring" in error for error in spoilt(lines, {"ring": 4}).errors)
    errors = spoilt(lines, {"window": 21, "ring": 4}).errors
    assert any("next page should be" in error for error in errors)


def test_layers_that_all_see_everything_change_nothing() -> None:
    scarce = replace(PLAIN, capacity_tokens=200, **SCARCE)
    several = replace(scarce, layers_per_page=6, num_layers=6)
    for policy in ("consolidate", "mell"):
        before, lines = run(LOAD, scarce, policy)
        after, same = run(LOAD, several, policy)
        assert same[1:] == lines[1:] and after.figures == before.figures


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"num_layers": 3}, "take all of them from one layout"),
        ({"layers_per_page": 3}, "take all of them from one layout"),
        ({"page_tokens": 20}, "page_tokens is 20, but the rings"),
        (
            {"capacity_tokens": 10, "page_tokens": 10, "layers_per_page": 2},
            "hold 1 pages of default, but its first token needs 2",
        ),
    ],
)
def test_settings_that_do_not_go_together_are_refused(
    change: dict[str, int], rule: str
) -> None:
    with pytest.raises(ValueError, match=rule):
        replace(WINDOWED, **change)


def test_a_pattern_of_windows_repeats() -> None:
    pattern = ["1024", "1024", "1024", "1024", "1024", "0"]
    layout = read_layers(pattern, num_layers=62, context_tokens=131072)
    assert (layout.layers_per_page, layout.windows) == (10, (None, *[1024] * 6))
    assert [group for group, _ in layout.places].count(0) == 10
    assert read_layers(["0"], num_layers=None, context_tokens=None).windows == (None,)


def test_a_report_says_how_layers_lie() -> None:
    fleet = replace(WINDOWED, num_layers=2)
    assert layers(fleet) == (
        "2 layers, 1 to a page; groups: 1 of all pages, 1 of at most 3 pages of a "
        "request\n"
    )
