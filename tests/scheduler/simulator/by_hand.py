"""Runs that were done by hand: requests as rows, and the log that the run leaves."""

import io
import itertools

import numpy as np

from mell_jax.scheduler.placement.events import ONLY_MODEL
from mell_jax.scheduler.placement.policy import PolicyConfig
from mell_jax.scheduler.simulator import record
from mell_jax.scheduler.simulator.measure import RunMeter
from mell_jax.scheduler.simulator.results.compare import DEFAULT, Knobs, run_policy
from mell_jax.scheduler.simulator.settings import Settings
from mell_jax.scheduler.simulator.workload import Workload


def workload(rows: list[tuple[float, int, int]]) -> Workload:
    """Requests by arrival, tokens given and tokens to make."""
    return Workload(
        arrival_s=np.array([row[0] for row in rows]),
        input_tokens=np.array([row[1] for row in rows]),
        output_tokens=np.array([row[2] for row in rows]),
        models=(ONLY_MODEL,) * len(rows),
        name="by hand",
    )


def run_recorded(
    load: Workload,
    settings: Settings,
    *,
    policy: str = "best_fit",
    knobs: Knobs = DEFAULT,
) -> tuple[RunMeter, list[str]]:
    """What was measured, and the log, which is reproduced."""
    file = io.StringIO()

    def open_log(name: str, config: PolicyConfig) -> record.EventLog:
        header = record.make_header(
            name, config=config, settings=settings, workload=load
        )
        return record.EventLog(file, header=header)

    outcome = run_policy(
        policy,
        workload=load,
        settings=settings,
        headroom=0.0,
        knobs=knobs,
        clock=itertools.count().__next__,
        progress=lambda served: None,
        open_log=open_log,
    )
    log = file.getvalue().splitlines()
    lines = iter(log)
    record.replay(record.read_machine(lines), lines=lines)
    return outcome.meter, log
