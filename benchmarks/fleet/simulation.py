"""Repeats requests in the simulator, at the speeds that the engine has shown."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.fleet.run import Run
from mell_jax.bench.metrics import tpot_s
from mell_jax.bench.replay import Order
from mell_jax.bench.stats import median
from mell_jax.engine.frames import Handle
from mell_jax.scheduler.ids import ModelId
from mell_jax.scheduler.placement.machine import Machine
from mell_jax.scheduler.placement.model import ModelSpec
from mell_jax.scheduler.placement.policy import Policy
from mell_jax.scheduler.simulator.fleet import SimulatedFleet
from mell_jax.scheduler.simulator.settings import Settings
from mell_jax.scheduler.simulator.workload import Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class Speeds:
    """The speeds are of one request on one instance, as the simulator takes them."""

    decode_tokens_per_s: float
    prefill_tokens_per_s: float
    link_gbps: float  # inf: nothing moved

    @staticmethod
    def of(run: Run, *, page_bytes: float) -> "Speeds":
        """Returns the speeds that requests and moves had in the engine.

        The simulator knows speeds only and no fixed delays. They are such that all
        requests together take as many page-seconds for their prompts, from when they
        have a place, and as many while they decode, as they did in the engine.

        Raises:
          ValueError: no request made two tokens.
        """
        handles = [
            Handle(at)
            for at, record in enumerate(run.records)
            if not record.error and record.output_tokens > 1
        ]
        if not handles:
            raise ValueError("no request made two tokens: give larger output_tokens")
        done = [run.records[handle] for handle in handles]
        inputs = np.array([r.input_tokens for r in done])
        outputs = np.array([r.output_tokens for r in done])
        placed_s = np.array([run.log.placed_s[handle] for handle in handles])
        prefill_s = np.array([r.chunks[0][0] for r in done]) - placed_s
        decode_s = np.array([tpot_s(r) for r in done]) * (outputs - 1)
        held = inputs + outputs / 2  # on average, while it decodes
        moves = [m for m in run.log.moves if m.is_committed and m.ended_s > m.began_s]
        gbps = [8e-9 * m.pages * page_bytes / (m.ended_s - m.began_s) for m in moves]
        return Speeds(
            decode_tokens_per_s=float(held @ outputs / (held @ decode_s)),
            prefill_tokens_per_s=float(inputs @ inputs / (inputs @ prefill_s)),
            link_gbps=median(gbps) if gbps else math.inf,
        )


def simulate(
    orders: Sequence[Order],
    *,
    speeds: Speeds,
    spec: ModelSpec,
    models: Sequence[ModelId],
    make_policy: Callable[[], Policy],
    instances: int,
    epoch_s: float,
) -> dict[str, float]:
    """Returns `Meter.summary` of a simulated fleet with these instances.

    Args:
      spec: of each of `models`.
    """
    settings = Settings(
        capacity_tokens=spec.capacity_pages * spec.page_tokens,
        page_tokens=spec.page_tokens,
        epoch_s=epoch_s,
        decode_tokens_per_s=speeds.decode_tokens_per_s,
        prefill_tokens_per_s=speeds.prefill_tokens_per_s,
        link_gbps=speeds.link_gbps,
        kv_bytes_per_token=max(1, round(spec.page_bytes / spec.page_tokens)),
        max_devices=instances,
        weights=dict.fromkeys(models, 1.0),
    )
    workload = Workload(
        arrival_s=np.array([order.arrival_s for order in orders]),
        input_tokens=np.array([len(order.prompt) for order in orders]),
        output_tokens=np.array([order.output_tokens for order in orders]),
        models=tuple(ModelId(order.model) or models[0] for order in orders),
        name="bench",
    )
    fleet = SimulatedFleet(
        Machine(models=dict.fromkeys(models, spec), policy=make_policy()),
        workload=workload,
        settings=settings,
        clock=time.perf_counter,
    )
    return fleet.run().summary(requests=len(orders))
