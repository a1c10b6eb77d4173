"""Devices, profiles and loads small enough to be done in the head."""

import math

import numpy as np

from mell_jax.planner.devices import Device
from mell_jax.planner.option import Option
from mell_jax.scheduler.placement.events import ONLY_MODEL
from mell_jax.scheduler.placement.model import StepTime
from mell_jax.scheduler.simulator.profile import Profile
from mell_jax.scheduler.simulator.workload import Workload


def profile(
    name: str = "A", *, capacity_tokens: int = 1600, speed: float = 1.0
) -> Profile:
    """A step of 10 ms, 1 ms more for each row and 0.1 ms for a page; 1 ms a token."""
    return Profile(
        name=name,
        step_time=StepTime(
            fixed_s=0.010 / speed, row_s=0.001 / speed, page_s=0.0001 / speed
        ),
        prefill_token_s=0.001 / speed,
        token_budget=100,
        max_rows=50,
        capacity_tokens=capacity_tokens,
        page_tokens=16,
        kv_bytes_per_token=1000,
        load_s=0.0,
        link_bytes_per_s=math.inf,
    )


def option(
    kind: str = "A",
    *,
    price: float = 1.0,
    width: int = 1,
    capacity_tokens: int = 1600,
    speed: float = 1.0,
) -> Option:
    device = Device(
        kind=kind,
        memory_bytes=1e9,
        bytes_per_s=1e9,
        flops_per_s=1e9,
        link_bytes_per_s=1e9,
        price_per_hour=price,
    )
    return Option(
        device=device,
        width=width,
        profile=profile(kind, capacity_tokens=capacity_tokens, speed=speed),
    )


def workload(*, arrival_s: list[float], given: list[int], made: list[int]) -> Workload:
    return Workload(
        arrival_s=np.array(arrival_s, np.float64),
        input_tokens=np.array(given, np.int64),
        output_tokens=np.array(made, np.int64),
        models=(ONLY_MODEL,) * len(arrival_s),
        name="small",
    )
