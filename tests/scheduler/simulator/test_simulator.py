"""The simulated fleet: times by hand, work conserved, runs reproduced."""

import dataclasses
import gzip
import io
import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest

from mell_jax.scheduler.ids import ModelId
from mell_jax.scheduler.placement.events import ONLY_MODEL
from mell_jax.scheduler.placement.machine import Machine
from mell_jax.scheduler.placement.model import StepTime
from mell_jax.scheduler.placement.policy import PolicyConfig
from mell_jax.scheduler.policies import NEVER_MOVE, POLICIES
from mell_jax.scheduler.simulator import record, report
from mell_jax.scheduler.simulator.fleet import SimulatedFleet
from mell_jax.scheduler.simulator.results.compare import (
    REPACK,
    REPACK_LIVE,
    RunOutcome,
    check_policies,
    run_best,
    run_policy,
)
from mell_jax.scheduler.simulator.settings import Settings
from mell_jax.scheduler.simulator.workload import (
    Lognormal,
    Synthetic,
    Workload,
    draw,
    quantile_lengths,
    read_trace,
)


def workload(rows: list[tuple[float, int, int]]) -> Workload:
    return Workload(
        arrival_s=np.array([row[0] for row in rows]),
        input_tokens=np.array([row[1] for row in rows]),
        output_tokens=np.array([row[2] for row in rows]),
        models=(ONLY_MODEL,) * len(rows),
        name="by hand",
    )


def drawn(seconds: float = 60.0) -> Workload:
    synthetic = Synthetic(
        rate_per_s=4.0,
        span_s=seconds,
        input_lengths=Lognormal(mean=300, sigma=1.0),
        output_lengths=Lognormal(mean=300, sigma=0.9),
    )
    return draw(synthetic, seed=7, max_input_tokens=1800, max_tokens=1960)


def outcome(policy: str, load: Workload, settings: Settings) -> RunOutcome:
    ticks = itertools.count()
    return run_policy(
        policy,
        workload=load,
        settings=settings,
        headroom=0.0,
        clock=lambda: next(ticks) * 1e-6,
        progress=lambda served: None,
    )


def test_one_request_takes_its_prefill_and_its_decode() -> None:
    settings = Settings(
        capacity_tokens=160,
        page_tokens=16,
        decode_tokens_per_s=10.0,
        prefill_tokens_per_s=100.0,
    )
    load = workload([(0.0, 50, 30), (8.0, 50, 30)])
    measured = outcome("best_fit", load, settings).meter
    # the first runs for 0.5 + 3 s; the window is 2 s to 8 s: 1.5 s of one device
    assert measured.summary(requests=2)["devices_mean"] == pytest.approx(1.5 / 6)
    assert measured.activations == 2  # no prefix is cached here that it could keep
    assert measured.served_tokens == 160


def test_the_window_starts_at_a_quarter_of_the_span() -> None:
    settings = Settings(capacity_tokens=160, decode_tokens_per_s=1.0)
    load = workload([(10.0, 1, 1), (50.0, 1, 1)])
    window = outcome("best_fit", load, settings).meter.window
    assert (window.start_s, window.end_s) == (20.0, 50.0)


def test_what_exceeds_the_capacity_is_rejected_and_counted() -> None:
    settings = Settings(capacity_tokens=160)
    load = workload([(0.0, 100, 60), (0.0, 100, 61)])
    measured = outcome("consolidate", load, settings).meter
    assert (measured.served_requests, measured.rejected) == (1, 1)


@pytest.mark.parametrize("policy", [*sorted(POLICIES), REPACK, REPACK_LIVE])
@pytest.mark.parametrize("link_gbps", [math.inf, 1.0])
def test_every_policy_serves_every_token(policy: str, link_gbps: float) -> None:
    load = drawn()
    settings = Settings(capacity_tokens=2000, link_gbps=link_gbps)
    measured = outcome(policy, load, settings).meter
    assert measured.served_requests == len(load)
    assert measured.served_tokens == load.input_tokens.sum() + load.output_tokens.sum()
    assert measured.rejected == 0


def test_a_tight_fleet_still_serves_every_token() -> None:
    load = drawn(30.0)
    settings = Settings(capacity_tokens=2000, max_devices=3)
    for policy in sorted(POLICIES):
        measured = outcome(policy, load, settings).meter
        assert measured.served_requests == len(load), policy
        assert measured.summary(requests=1)["devices_peak"] <= 3


def mixed(seconds: float = 30.0) -> Workload:
    """Every second request is of another model."""
    load = drawn(seconds)
    names = [ModelId("half"), ModelId("whole")]
    return dataclasses.replace(
        load, models=tuple(names[n % 2] for n in range(len(load)))
    )


HARD = Settings(
    capacity_tokens=2000,
    weights={ModelId("half"): 0.5, ModelId("whole"): 1.0},
    activation_s=3.0,
    link_gbps=0.2,
    prefill_tokens_per_s=1000.0,
    max_devices=5,
    step_time=StepTime(fixed_s=0.01, row_s=0.001, page_s=1e-4),
    tpot_slo_s=0.06,
)


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_every_policy_serves_every_token_where_everything_is_scarce(
    policy: str,
) -> None:
    load = mixed()
    measured = outcome(policy, load, HARD).meter
    assert measured.served_requests == len(load)
    assert measured.served_tokens == load.input_tokens.sum() + load.output_tokens.sum()
    assert measured.replays <= measured.migrations
    if policy not in NEVER_MOVE:  # those move for a claim of the other model alone
        assert measured.migrations > 0
    if measured.replays or measured.preemptions:
        assert measured.tokens_recomputed > 0


def test_where_everything_is_scarce_moves_are_late_replayed_and_over() -> None:
    measured = outcome("mell", mixed(), HARD).meter
    counts = (measured.preemptions, measured.deferrals, measured.violations)
    assert min(counts) > 0
    assert measured.replays > 0


def test_slow_links_are_answered_by_replays_at_most_with_the_slack_given() -> None:
    load = drawn()
    replays = [
        outcome(
            "consolidate",
            load,
            Settings(capacity_tokens=2000, link_gbps=link_gbps, prefill_share=share),
        ).meter.replays
        for link_gbps, share in [(200.0, 0.25), (0.5, 0.25), (0.5, 0.001)]
    ]
    assert replays[0] == replays[2] == 0 < replays[1]


def test_a_migration_takes_its_time_and_both_ends_hold_the_pages() -> None:
    load = drawn()
    fast = Settings(capacity_tokens=2000, link_gbps=math.inf)
    slow = Settings(capacity_tokens=2000, link_gbps=0.05)
    devices = [
        outcome("consolidate", load, settings).figures["devices_mean"]
        for settings in (fast, slow)
    ]
    assert devices[1] > devices[0]


def test_the_same_seed_gives_the_same_run() -> None:
    settings = Settings(capacity_tokens=2000)
    first, second = (outcome("mell", drawn(), settings).figures for _ in range(2))
    assert first == second


def test_models_share_devices_but_not_instances() -> None:
    a, b = ModelId("a"), ModelId("b")
    load = workload([(0.0, 80, 10), (0.0, 80, 10), (1.0, 80, 10)])
    load = Workload(
        arrival_s=load.arrival_s,
        input_tokens=load.input_tokens,
        output_tokens=load.output_tokens,
        models=(a, b, a),
        name="two",
    )
    settings = Settings(
        capacity_tokens=160, weights={a: 0.5, b: 1.0}, decode_tokens_per_s=1.0
    )
    measured = outcome("consolidate", load, settings).meter
    assert measured.summary(requests=3)["devices_peak"] == 2  # both of a fit on one
    assert measured.served_requests == 3


def test_a_recorded_run_is_reproduced() -> None:
    settings = Settings(capacity_tokens=2000)

    def machine() -> Machine:
        policy = POLICIES["consolidate"](PolicyConfig())
        return Machine(models=settings.models(), policy=policy)

    file, load = io.StringIO(), drawn(20.0)
    header = record.make_header(
        "consolidate", config=PolicyConfig(), settings=settings, workload=load
    )
    log = record.EventLog(file, header=header)
    SimulatedFleet(
        machine(), workload=load, settings=settings, clock=lambda: 0.0, log=log
    ).run()
    lines = iter(file.getvalue().splitlines())
    described = record.read_machine(lines)
    rest = list(lines)
    assert record.replay(described, lines=rest) > 1000
    spoilt = json.loads(rest[-1])
    assert "event" in spoilt
    spoilt["plan"] = [["Park", {"device": 77}]]
    rest[-1] = json.dumps(spoilt)
    with pytest.raises(record.ReplayError, match="77"):
        record.replay(machine(), lines=rest)


HEAD = "arrival_s,input_tokens,output_tokens,model\n"


def test_a_trace_is_read(tmp_path: Path) -> None:
    path = tmp_path / "tiny.csv.gz"
    path.write_bytes(gzip.compress((HEAD + "0,5,6,a\n1.5,7,8,b\n").encode()))
    load = read_trace(path)
    assert load.name == "tiny" and load.models == ("a", "b")
    assert load.arrival_s.tolist() == [0.0, 1.5]


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        (HEAD + "1,5,6,a\n0,5,6,a\n", "go back"),
        (HEAD + "0,0,6,a\n", "a whole number of at least 1"),
        ("arrival_s,tokens\n0,5\n", "are missing"),
    ],
)
def test_a_trace_that_breaks_a_rule_is_refused(
    tmp_path: Path, text: str, rule: str
) -> None:
    path = tmp_path / "tiny.csv.gz"
    path.write_bytes(gzip.compress(text.encode()))
    with pytest.raises(ValueError, match=rule):
        read_trace(path)


def test_known_traces_have_their_quantiles() -> None:
    given, made = quantile_lengths("mooncake_conversation")
    rng = np.random.default_rng(0)
    assert 5_000 < np.median(given.draw(rng, 2_000)) < 9_000
    assert 250 < np.median(made.draw(rng, 2_000)) < 450
    with pytest.raises(ValueError, match="no quantiles"):
        quantile_lengths("nothing")


def test_a_table_fits_a_terminal_and_names_the_best_headroom() -> None:
    load, settings = drawn(20.0), Settings(capacity_tokens=2000)
    best = run_best(
        "llumnix_consolidation",
        workload=load,
        settings=settings,
        headrooms=[0.0, 0.3],
        clock=lambda: 0.0,
        progress=lambda served: None,
    )
    text = report.table([best])
    assert max(len(line) for line in text.splitlines()) <= 100
    assert report.markdown([best]).count("\n") == 2
    with pytest.raises(ValueError, match="no policy is called 'magic'"):
        check_policies(["magic"])
