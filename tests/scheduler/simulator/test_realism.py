"""Loading, warm devices, shared links and shared prefixes: a run by hand for each.

Devices hold 10 pages of 10 tokens; a request makes 10 tokens a second, and a prompt
takes no time.
"""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mell_jax.scheduler.ids import DeviceGroupId, ModelId
from mell_jax.scheduler.simulator import check
from mell_jax.scheduler.simulator.agenda import Agenda
from mell_jax.scheduler.simulator.links import SharedLinks, divide_links, path
from mell_jax.scheduler.simulator.settings import Settings
from mell_jax.scheduler.simulator.warm import WarmPool
from mell_jax.scheduler.transfer import LinkId
from tests.scheduler.simulator.by_hand import run_recorded, workload
from tests.scheduler.simulator.test_figures import OVERFLOW, PLAIN


def test_a_first_token_is_waited_for_while_the_model_loads() -> None:
    load = workload([(0.0, 10, 5), (1.0, 10, 5), (8.0, 1, 1)])
    meter, log = run_recorded(load, replace(PLAIN, activation_s=3.0, slo_ttft_s=2.5))
    # device 0 has loaded at 3 s; it stays for 3 s without a request, and the last one
    # finds it parked
    assert list(meter.latencies.ttft_s) == pytest.approx([3.1, 2.1, 3.1])
    assert list(meter.latencies.tpot_s) == pytest.approx([0.1, 0.1])
    assert list(meter.latencies.e2e_s) == pytest.approx([3.5, 2.5, 3.1])
    assert meter.latencies.figures()["slo_attainment"] == pytest.approx(1 / 3)
    assert not check.check(log).errors


def test_each_model_loads_in_its_own_time() -> None:
    slow, fast = ModelId("slow"), ModelId("fast")
    load = replace(workload([(0.0, 10, 5), (0.0, 10, 5)]), models=(slow, fast))
    settings = replace(
        PLAIN, weights={slow: 1.0, fast: 1.0}, activation_s=1.0, load_s={slow: 4.0}
    )
    meter, log = run_recorded(load, settings)
    assert list(meter.latencies.e2e_s) == [1.5, 4.5]
    assert not check.check(log).errors


WHOLE = [(0.0, 95, 5), (1.0, 95, 5), (11.0, 95, 5)]
"""Each fills a device for half a second."""


def test_a_warm_device_serves_sooner_and_another_takes_its_place() -> None:
    settings = replace(PLAIN, activation_s=10.0, warm_devices=1, warm_s=2.0)
    meter, log = run_recorded(workload(WHOLE), settings)
    # The first loads until 2 s. Another device is warm from 10 s on, so that the second
    # is faster on a cold one, from 11 s. Device 0 is parked at 5 s, 2 s after its last
    # request and at a tick, and is warm for the third, which begins at 13 s.
    assert list(meter.wait_s) == [2.0, 10.0, 2.0]
    assert meter.summary(requests=3)["devices_warm_mean"] == 1.0
    with pytest.raises(ValueError, match="with warm devices"):
        check.check(log)
    cold, _ = run_recorded(workload(WHOLE), replace(settings, warm_devices=0))
    assert list(cold.wait_s)[:2] == [10.0, 10.0]


def test_a_warm_pool_is_filled_from_what_is_idle() -> None:
    pool = WarmPool(size=2, warm_s=1.0, idle=3)
    takes = [pool.open(now_s=0.0, cold_s=9.0, idle=idle) for idle in (2, 1, 0)]
    # two warm ones, and what is left has only begun to be warmed
    assert takes == [1.0, 1.0, 9.0] and len(pool) == 0
    pool.park(now_s=5.0)
    assert (len(pool), pool.open(now_s=5.0, cold_s=9.0, idle=0)) == (1, 1.0)


LINKED = replace(PLAIN, devices_per_host=1, host_gbps=8e-7, kv_bytes_per_token=1)
"""Every device has a host of its own, and 100 tokens a second go in or out of it."""


def sent(settings: Settings, *, sends: list[tuple[float, int, int]]) -> list[float]:
    """When 100 bytes from one device to another have come, of each of `sends`."""
    agenda = Agenda()
    links, ends = SharedLinks(settings, agenda=agenda), [0.0] * len(sends)

    def come(at: int) -> None:
        ends[at] = agenda.now_s

    for number, (at_s, source, target) in enumerate(sends):
        ways = path(
            settings, source=DeviceGroupId(source), target=DeviceGroupId(target)
        )
        links.carry(ways, amount_bytes=100.0, from_s=at_s, then=come, subject=number)
    while agenda.next_s < math.inf:
        agenda.advance()
    return ends


def test_what_leaves_a_host_at_the_same_time_divides_its_link() -> None:
    # the first sends 50 bytes alone, then both 50 bytes a second; from 1.5 s on the
    # second has the link for itself
    assert sent(LINKED, sends=[(0.0, 0, 1), (0.5, 0, 2)]) == [1.5, 2.0]
    assert sent(LINKED, sends=[(0.0, 0, 1), (0.5, 2, 3)]) == [1.0, 1.5]


def test_a_switch_is_divided_between_all_hosts_and_not_inside_of_one() -> None:
    switched = replace(LINKED, devices_per_host=2, switch_gbps=4e-7)  # 50 a second
    assert sent(switched, sends=[(0.0, 0, 2), (0.0, 4, 6)]) == [4.0, 4.0]
    inside = replace(switched, link_gbps=16e-7)
    assert sent(inside, sends=[(0.0, 0, 1), (0.0, 4, 6)]) == [0.5, 2.0]
    assert sent(switched, sends=[(0.0, 0, 1)]) == [0.0]  # nothing binds it


def test_a_link_is_divided_so_that_nobody_gets_less_for_one_who_cannot_use_it() -> None:
    x, y = LinkId("x"), LinkId("y")
    assert divide_links([(x,), (x, y), (y,)], speeds={x: 10.0, y: 4.0}) == [8, 2, 2]


@given(
    flows=st.lists(
        st.sets(st.sampled_from("abcd"), min_size=1).map(sorted), min_size=1, max_size=9
    ),
    speeds=st.lists(st.integers(1, 20), min_size=4, max_size=4),
)
def test_links_are_never_overfull_and_every_flow_is_bound_by_a_full_one(
    flows: list[list[str]], speeds: list[int]
) -> None:
    ways = [tuple(LinkId(name) for name in flow) for flow in flows]
    whole = {LinkId(n): float(v) for n, v in zip("abcd", speeds, strict=True)}
    rates = divide_links(ways, speeds=whole)
    used = {
        link: sum(rate for way, rate in zip(ways, rates, strict=True) if link in way)
        for link in whole
    }
    assert all(used[link] <= whole[link] + 1e-9 for link in whole)
    for way, rate in zip(ways, rates, strict=True):
        full = [link for link in way if used[link] >= whole[link] - 1e-9]
        most = [
            max(r for w, r in zip(ways, rates, strict=True) if link in w)
            for link in full
        ]
        assert any(rate >= other - 1e-9 for other in most)


def test_two_moves_through_one_switch_take_twice_as_long() -> None:
    a, b = ModelId("a"), ModelId("b")
    rows = [row for row in OVERFLOW for _ in (a, b)]  # of each model 40 tokens move
    twice = replace(workload(rows), models=(a, b) * 4)
    settings = replace(LINKED, weights={a: 1.0, b: 1.0})
    apart, _ = run_recorded(twice, settings)
    assert list(apart.pause_s) == pytest.approx([0.4] * 4)
    together, log = run_recorded(twice, replace(settings, switch_gbps=8e-7))
    assert list(together.pause_s) == pytest.approx([0.8] * 4)
    assert (apart.migrations, together.migrations) == (2, 2)
    assert not check.check(log).errors


def test_a_shared_link_with_one_move_is_as_fast_as_one_that_is_not() -> None:
    meter, log = run_recorded(workload(OVERFLOW), LINKED)
    assert list(meter.pause_s) == pytest.approx([0.4, 0.4])
    assert not check.check(log).errors
