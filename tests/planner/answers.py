"""Questions and answers made by hand, and stand-ins for what it takes to draw them."""

from dataclasses import replace

from mell_jax.planner.load import Slo
from mell_jax.planner.question import Answer, Offer, Payment, Question, Side, Unmet
from mell_jax.planner.shape import ModelShape
from mell_jax.planner.trial import Trial
from tests.planner.small import option, workload

OPTIONS = (
    option("H100", price=2.0, capacity_tokens=16_000),
    option("L4", price=0.5, width=2, capacity_tokens=4000),
)
QUESTION = Question(
    workload=workload(arrival_s=[0.0, 60.0, 120.0], given=[10] * 3, made=[5] * 3),
    shape=ModelShape(
        name="tiny",
        parameters=500_000_000,
        embedding=0,
        head=0,
        hidden_size=64,
        context_tokens=1024,
        num_kv_heads=2,
        head_dim=64,
        windows=(None,) * 4,
        attention_width=(256,) * 4,
        num_heads=(4,),
        mlp_sizes=(128,),
    ),
    options=OPTIONS,
    slo=Slo(ttft_s=0.5, tpot_s=0.05),
    payment=Payment.OWNED,
    policies=("consolidate",),
    baselines=("pinned_best_fit",),
)


def offer(
    policy: str,
    *,
    fleet: tuple[int, int],
    in_use: tuple[float, float],
    fills: tuple[float, float] = (1.0, 1.0),
    is_whole: bool = True,
) -> Offer:
    trial = Trial(
        fleet=fleet,
        fills=fills,
        policy=policy,
        is_met=True,
        within_share=0.9951,
        ttft_p50_s=0.1,
        ttft_p99_s=0.4321,
        tpot_p50_s=0.01,
        tpot_p99_s=0.0444,
        in_use=in_use,
        times_s=(1.0, 2.0, 3.0),
        instances=(1.0, 2.0, 1.0),
        moves=12_345,
        bytes_moved=1e9,
        preemptions=3,
        rejected=0,
    )
    return Offer(options=OPTIONS, trial=trial, is_whole=is_whole)


MOVING = offer("consolidate", fleet=(2, 1), in_use=(1.5, 0.5), fills=(0.5, 1.0))
PINNED = offer("pinned_best_fit", fleet=(3, 0), in_use=(2.5, 0.0))
ANSWER = Answer(
    question=QUESTION,
    busiest_s=(0.0, 120.0),
    offers=(MOVING, PINNED),
    unmet=(Unmet(kind="L4", policy="consolidate", reason="too slow"),),
    best={Side.MOVING: MOVING, Side.PINNED: PINNED},
    trials=9,
)
NOTHING = replace(ANSWER, offers=(), best={})
