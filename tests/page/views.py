"""The view of a small fleet, as an engine might tell it."""

from mell_jax.engine.fleet_view import (
    FleetStats,
    FleetView,
    GroupState,
    InstanceView,
    ModelView,
    MoveEnd,
    MoveOutcome,
    MoveReason,
)
from mell_jax.engine.frames import EngineLoad
from mell_jax.engine.histogram import Histogram
from mell_jax.engine.stream_view import (
    TICK_GAP_BOUNDS_S,
    GapsView,
    MoveMark,
    RequestsView,
    ShadowView,
    StreamView,
)
from mell_jax.scheduler.transfer import Mode

COMMITTED = MoveEnd(
    reason=MoveReason.URGENT, mode=Mode.KV, outcome=MoveOutcome.COMMITTED
)
ABORTED = MoveEnd(reason=MoveReason.URGENT, mode=Mode.KV, outcome=MoveOutcome.ABORTED)
VIEW = FleetView(
    number=12,
    at_s=30.00001,
    device_s=41.23,
    instances=(
        InstanceView(
            device=0,
            state=GroupState.SERVING,
            model="m",
            capacity_pages=100,
            used_pages=60,
            reserved_pages=8,
            cached_pages=50,
            running=2,
            paused=1,
        ),
        InstanceView(device=1, state=GroupState.PARKED),
    ),
    models=(ModelView(name="m", lower_bound=1, waiting=3),),
    moves=(),
    stats=FleetStats(ended={COMMITTED: 5, ABORTED: 2}, sent_bytes=4096, broken=1),
    link_bytes_per_s={(0, 1): 1e9},
    prefill_tokens_per_s={},
    requests=RequestsView(
        numbers=(4, 9),
        devices=(0, -1),
        targets=(1, -1),
        pages=(3, 2),
        tokens=(40, 0),
        left_out=7,
    ),
    streams=(
        StreamView(
            request=4,
            device=0,
            first=17,
            ticks_s=(29.50001, 29.62),
            moves=(MoveMark(at_s=29.6, source=1, target=0),),
        ),
    ),
    gaps=GapsView(
        moved=Histogram.of((0.012,), bounds=TICK_GAP_BOUNDS_S),
        unmoved=Histogram.of((0.02, 0.02), bounds=TICK_GAP_BOUNDS_S),
    ),
    shadows=(
        ShadowView(policy="best_fit", devices=2, device_s=60.01, cost_s=0.0123456),
    ),
)
LOAD = EngineLoad(
    running=2,
    waiting=3,
    waiting_tokens=0,
    used_pages=60,
    cached_pages=20,
    free_pages=20,
    generated_tokens=321,
    prefix_hit_tokens=0,
    prefix_query_tokens=0,
    preemptions=0,
    steps=55,
    compilations=9,
    fleet=VIEW,
)
