"""What a scrape shows, from values that can be read here."""

import dataclasses
import math

import pytest
from prometheus_client.parser import text_string_to_metric_families

from mell_jax.engine.fleet_view import (
    GAP_BOUNDS_S,
    STEP_BOUNDS,
    FleetStats,
    FleetView,
    GroupState,
    InstanceView,
    ModelView,
    MoveEnd,
    MoveOutcome,
    MoveReason,
    MoveStage,
    MoveView,
    ServingView,
    SleepState,
)
from mell_jax.engine.frames import EngineLoad
from mell_jax.engine.histogram import Histogram
from mell_jax.frontend.meter import Meter
from mell_jax.scheduler.transfer import Mode
from mell_jax.serving.metrics import Scrape

LOAD = EngineLoad(
    running=3,
    waiting=2,
    waiting_tokens=11,
    used_pages=30,
    cached_pages=20,
    free_pages=50,
    generated_tokens=1000,
    prefix_hit_tokens=30,
    prefix_query_tokens=120,
    preemptions=4,
    steps=77,
    compilations=12,
)
STATS = FleetStats(
    begun={Mode.KV: 5, Mode.TOKENS: 1},
    ended={
        MoveEnd(
            reason=MoveReason.URGENT, mode=Mode.KV, outcome=MoveOutcome.COMMITTED
        ): 3,
        MoveEnd(
            reason=MoveReason.CONSOLIDATION, mode=Mode.KV, outcome=MoveOutcome.ABORTED
        ): 1,
        MoveEnd(
            reason=MoveReason.CONSOLIDATION,
            mode=Mode.TOKENS,
            outcome=MoveOutcome.COMMITTED,
        ): 1,
    },
    carried={(0, 1): 3, (1, 0): 1},
    deferred=6,
    violations=7,
    sent_bytes=8192,
    stages=9,
    activations=4,
    activation_s=0.5,
    parkings=1,
    losses=1,
    replays=2,
    pauses=10,
    preemptions=4,
    gap_steps=Histogram.of([2, 2, 5], bounds=STEP_BOUNDS),
    gap_s=Histogram.of([0.02, 99.0], bounds=GAP_BOUNDS_S),
)
VIEW = FleetView(
    instances=(
        InstanceView(
            device=0,
            state=GroupState.SERVING,
            model="a",
            capacity_pages=100,
            used_pages=60,
            reserved_pages=10,
            cached_pages=5,
            running=7,
            waiting=1,
            paused=2,
        ),
        InstanceView(
            device=1,
            state=GroupState.SERVING,
            model="b",
            capacity_pages=50,
            used_pages=20,
            running=3,
        ),
        InstanceView(device=2, state=GroupState.PARKED),
        InstanceView(device=3, state=GroupState.LOST),
    ),
    models=(
        ModelView(name="a", lower_bound=1, waiting=4),
        ModelView(name="b", lower_bound=1, waiting=0),
    ),
    moves=(
        MoveView(request=8, source=1, target=0, mode="kv", stage=MoveStage.COPYING),
        MoveView(request=9, source=1, target=0, mode="kv", stage=MoveStage.COPYING),
        MoveView(request=10, source=0, target=1, mode="", stage=MoveStage.WAITING),
    ),
    stats=STATS,
    link_bytes_per_s={(0, 1): 2e9, (1, 0): math.inf},
    prefill_tokens_per_s={(0, "a"): 300.0, (1, "a"): math.inf},
    serving=ServingView(
        is_paused=True,
        sleep=SleepState.POOLS,
        freed_bytes=4096,
        updates={"a": 12, "b": 0},
    ),
)


def scrape(
    load: EngineLoad = LOAD,
    *,
    models: tuple[str, ...] = ("a",),
    shows_vllm_names: bool = False,
) -> Scrape:
    return Scrape(
        load=load,
        measured=Meter(models).measured(),
        refused={"overloaded": 3},
        is_serving=True,
        shows_vllm_names=shows_vllm_names,
    )


def fleet_text() -> str:
    load = dataclasses.replace(LOAD, fleet=VIEW)
    return scrape(load, models=("a", "b")).text().decode()


def lines(text: str, *starts: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(starts)]


def test_one_model_on_one_instance() -> None:
    text = scrape().text().decode()
    assert lines(text, "mell:num_", "mell:kv", "mell:prefix", "mell:steps") == [
        'mell:num_requests_running{model_name="a"} 3.0',
        'mell:num_requests_waiting{model_name="a"} 2.0',
        'mell:kv_cache_usage_perc{model_name="a"} 0.3',
        'mell:num_preemptions_total{model_name="a"} 4.0',
        'mell:prefix_cache_queries_total{model_name="a"} 120.0',
        'mell:prefix_cache_hits_total{model_name="a"} 30.0',
        "mell:steps_total 77.0",
    ]
    assert lines(text, "mell:admission", "mell:compilations") == [
        'mell:admission_rejected_total{reason="overloaded"} 3.0',
        'mell:admission_rejected_total{reason="queue_full"} 0.0',
        'mell:admission_rejected_total{reason="tenant_quota"} 0.0',
        'mell:admission_rejected_total{reason="draining"} 0.0',
        "mell:compilations_total 12.0",
    ]
    assert "mell:devices" not in text
    assert "mell:step_seconds_" not in text


def test_the_phases_of_steps_are_shown_where_they_are_known() -> None:
    seconds = Histogram.of([0.02, 0.5], bounds=GAP_BOUNDS_S)
    load = dataclasses.replace(LOAD, phases={"plan": seconds, "wait": seconds})
    text = scrape(load).text().decode()
    assert lines(text, "mell:step_seconds_count", "mell:step_seconds_sum") == [
        'mell:step_seconds_count{phase="plan"} 2.0',
        'mell:step_seconds_sum{phase="plan"} 0.52',
        'mell:step_seconds_count{phase="wait"} 2.0',
        'mell:step_seconds_sum{phase="wait"} 0.52',
    ]
    assert "vllm:" not in text


def test_models_of_a_fleet_have_samples_of_their_own() -> None:
    assert lines(fleet_text(), "mell:num_", "mell:kv") == [
        'mell:num_requests_running{model_name="a"} 7.0',
        'mell:num_requests_running{model_name="b"} 3.0',
        'mell:num_requests_waiting{model_name="a"} 5.0',
        'mell:num_requests_waiting{model_name="b"} 0.0',
        'mell:kv_cache_usage_perc{model_name="a"} 0.7',
        'mell:kv_cache_usage_perc{model_name="b"} 0.4',
        'mell:num_preemptions_total{model_name="all"} 4.0',
    ]


def test_devices_and_their_pages() -> None:
    text = fleet_text()
    assert lines(text, "mell:devices", "mell:page_") == [
        "mell:devices 4.0",
        "mell:devices_in_use 2.0",
        'mell:devices_lower_bound{model_name="a"} 1.0',
        'mell:devices_lower_bound{model_name="b"} 1.0',
        "mell:page_fragmentation_ratio 0.4",
        "mell:devices_lost_total 1.0",
    ]
    assert lines(text, 'mell:instance_pages{device="0"') == [
        'mell:instance_pages{device="0",kind="used",model_name="a"} 60.0',
        'mell:instance_pages{device="0",kind="reserved",model_name="a"} 10.0',
        'mell:instance_pages{device="0",kind="free",model_name="a"} 30.0',
    ]
    states = [
        line for line in lines(text, "mell:instance_state") if line.endswith("1.0")
    ]
    assert states == [
        'mell:instance_state{device="0",model_name="a",state="serving"} 1.0',
        'mell:instance_state{device="1",model_name="b",state="serving"} 1.0',
        'mell:instance_state{device="2",model_name="",state="parked"} 1.0',
        'mell:instance_state{device="3",model_name="",state="lost"} 1.0',
    ]
    assert 'mell:instance_cached_pages{device="0",model_name="a"} 5.0' in text
    assert 'mell:instance_requests_paused{device="0",model_name="a"} 2.0' in text


def test_moves_and_their_counts() -> None:
    text = fleet_text()
    assert lines(text, "mell:requests_moving") == [
        'mell:requests_moving{mode="",source="0",stage="waiting",target="1"} 1.0',
        'mell:requests_moving{mode="kv",source="1",stage="copying",target="0"} 2.0',
    ]
    ended = [
        line for line in lines(text, "mell:migrations_total") if "} 0.0" not in line
    ]
    assert ended == [
        'mell:migrations_total{mode="kv",outcome="committed",reason="urgent"} 3.0',
        'mell:migrations_total{mode="kv",outcome="aborted",reason="consolidation"} 1.0',
        'mell:migrations_total{mode="tokens",outcome="committed",reason="consolidation"}'
        " 1.0",
    ]
    assert lines(text, "mell:migrations_between") == [
        'mell:migrations_between_total{source="0",target="1"} 3.0',
        'mell:migrations_between_total{source="1",target="0"} 1.0',
    ]
    counts = {line.split()[0]: float(line.split()[1]) for line in lines(text, "mell:")}
    assert counts["mell:migration_bytes_total"] == 8192
    assert counts["mell:migration_stages_total"] == 9
    assert counts["mell:activations_total"] == 4
    assert counts["mell:activation_seconds_total"] == 0.5
    assert counts['mell:requests_recovered_total{how="replay"}'] == 2
    assert counts['mell:migration_downtime_steps_bucket{le="2.0"}'] == 2
    assert counts['mell:migration_downtime_steps_bucket{le="+Inf"}'] == 3
    assert counts["mell:migration_downtime_steps_sum"] == 9
    assert counts['mell:migration_stall_seconds_bucket{le="10.0"}'] == 1
    assert counts["mell:migration_stall_seconds_count"] == 2


def test_pauses_sleeps_and_updates() -> None:
    text = fleet_text()
    assert lines(
        text, "mell:paused", "mell:sleep", "mell:weights", "mell:engine_s"
    ) == [
        *sleep_lines(awake=0.0, weights_offloaded=1.0, discard_all=0.0),
        "mell:paused 1.0",
        "mell:sleep_freed_bytes 4096.0",
        'mell:weights_updates_total{model_name="a"} 12.0',
        'mell:weights_updates_total{model_name="b"} 0.0',
    ]


@pytest.mark.parametrize(
    ("sleep", "name"),
    [
        (SleepState.AWAKE, "awake"),
        (SleepState.POOLS, "weights_offloaded"),
        (SleepState.DROPPED, "discard_all"),
    ],
)
def test_a_sleep_has_the_states_of_vllm(sleep: SleepState, name: str) -> None:
    view = dataclasses.replace(VIEW, serving=ServingView(sleep=sleep))
    load = dataclasses.replace(LOAD, fleet=view)
    text = scrape(load, models=("a", "b"), shows_vllm_names=True).text().decode()
    values = {"awake": 0.0, "weights_offloaded": 0.0, "discard_all": 0.0, name: 1.0}
    assert lines(text, "mell:engine_sleep") == sleep_lines(**values)
    assert lines(text, "vllm:engine_sleep") == [
        line.replace("mell:", "vllm:") for line in sleep_lines(**values)
    ]


def sleep_lines(**values: float) -> list[str]:
    return [
        f'mell:engine_sleep_state{{model_name="all",sleep_state="{state}"}} {value}'
        for state, value in values.items()
    ]


def test_only_what_was_measured_is_shown_of_links() -> None:
    assert lines(fleet_text(), "mell:link", "mell:prefill") == [
        'mell:link_bytes_per_second{source="0",target="1"} 2e+09',
        'mell:prefill_slack_tokens_per_second{device="0",model_name="a"} 300.0',
    ]


def test_every_name_that_dashboards_for_vllm_use_is_there() -> None:
    text = scrape(shows_vllm_names=True).text().decode()
    names = {family.name for family in text_string_to_metric_families(text)}
    assert {
        "vllm:num_requests_running",
        "vllm:num_requests_waiting",
        "vllm:kv_cache_usage_perc",
        "vllm:prefix_cache_queries",
        "vllm:prefix_cache_hits",
        "vllm:num_preemptions",
        "vllm:prompt_tokens",
        "vllm:generation_tokens",
        "vllm:request_success",
        "vllm:time_to_first_token_seconds",
        "vllm:inter_token_latency_seconds",
        "vllm:e2e_request_latency_seconds",
        "vllm:request_queue_time_seconds",
        "vllm:request_prefill_time_seconds",
        "vllm:request_decode_time_seconds",
        "vllm:request_prompt_tokens",
        "vllm:request_generation_tokens",
        "vllm:request_max_num_generation_tokens",
    } <= names
