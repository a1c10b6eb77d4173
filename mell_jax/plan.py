"""mell-plan: how many of which devices a load needs, and what migration saves.

    mell-plan --trace=trace.csv.gz --model=llama-8b --slo_ttft_ms=2000 --slo_tpot_ms=50
    mell-plan ... --devices=H100,L4,v6e --prices=H100:2.5,L4:0.6 --plot=plan.svg
    mell-plan ... --profile=H100:h100.json --pay=used

Devices are simulated from their data sheets, or from profiles of a real engine. Prices
are examples until you give your own.
"""

import asyncio
import json
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from tqdm import tqdm

from mell_jax.planner.devices import choose_devices, read_devices, read_prices
from mell_jax.planner.flags import make_flags
from mell_jax.planner.load import Slo
from mell_jax.planner.option import find_options
from mell_jax.planner.picture import draw_answer
from mell_jax.planner.pool import TrialPool
from mell_jax.planner.question import Answer, Payment, Question
from mell_jax.planner.report import as_values, tell
from mell_jax.planner.roofline import Assumptions
from mell_jax.planner.shape import ModelShape
from mell_jax.planner.solve import solve
from mell_jax.planner.trial import Trial
from mell_jax.scheduler.placement.events import ONLY_MODEL
from mell_jax.scheduler.policies import NEVER_MOVE, POLICIES
from mell_jax.scheduler.simulator.profile import Profile, read_profile
from mell_jax.scheduler.simulator.results.plot import check_plot
from mell_jax.scheduler.simulator.workload import Workload, read_trace

BURST = 2  # a step full of prompts may last so many times the mean of tokens
NEEDED = ("trace", "model", "slo_ttft_ms", "slo_tpot_ms")


def main(argv: Sequence[str]) -> int:
    """Answers the question of a command line; returns the exit status."""
    values = make_flags()
    if {"--help", "-h", "-help"} & set(argv[1:]):
        print(f"{__doc__}{values.get_help()}")
        return 0
    try:
        extra = values(list(argv))[1:]
        if extra:
            raise ValueError(f"takes flags only, got {extra[0]!r}")
        _check(values)
        answer = _solve(values)
        command = shlex.join(["mell-plan", *argv[1:]])
        _write(values, answer=answer, command=command)
    except flags.Error as error:
        return _refuse(f"{error}; --help lists all flags", status=2)
    except ValueError as error:
        return _refuse(str(error), status=1)
    except OSError as error:
        return _refuse(f"{error.filename}: {error.strerror}", status=1)
    except KeyboardInterrupt:
        return _refuse("interrupted", status=130)
    return 0


def _refuse(text: str, *, status: int) -> int:
    print(f"mell-plan: {text}", file=sys.stderr)
    return status


def _check(values: flags.FlagValues) -> None:
    """Finds before a search what would only fail at its end.

    Raises:
      ValueError: a flag is missing, or what is asked for cannot be written.
    """
    missing = [name for name in NEEDED if values[name].value is None]
    if missing:
        raise ValueError(
            f"--{missing[0]} is missing: a question has --trace, --model, "
            "--slo_ttft_ms and --slo_tpot_ms"
        )
    for name in ("output_json", "plot"):
        path = values[name].value
        if path is not None and not Path(path).resolve().parent.is_dir():
            raise ValueError(f"--{name}={path}: there is no such folder, make it first")
    if values.plot is not None:
        check_plot(Path(values.plot))
    movers = sorted(set(POLICIES) - set(NEVER_MOVE))
    for name, known in (("policies", movers), ("baselines", NEVER_MOVE)):
        _check_policies(values[name].value or (), flag=name, known=known)


def _check_policies(given: Sequence[str], *, flag: str, known: Sequence[str]) -> None:
    for policy in given:
        if policy not in known:
            raise ValueError(
                f"--{flag} has {policy!r}, but must be of {', '.join(known)}"
            )


def ask(values: flags.FlagValues) -> Question:
    """Returns the question that the flags ask.

    Raises:
      ValueError: a flag, the trace or the model is not as it should be.
    """
    # It imports jax: slow, and needless for --help.
    from mell_jax.planner.shapes import find_shape  # noqa: PLC0415

    slo = Slo(
        ttft_s=values.slo_ttft_ms / 1e3,
        tpot_s=values.slo_tpot_ms / 1e3,
        attainment=values.attainment,
    )
    devices = choose_devices(
        values.devices, devices=read_devices(), prices=read_prices(values.prices)
    )
    shape = find_shape(values.model)
    workload = _workload(values, shape=shape)
    tokens = workload.input_tokens + workload.output_tokens
    longest = int(np.quantile(tokens, slo.attainment, method="inverted_cdf"))
    options = find_options(
        shape,
        devices=devices,
        assumed=_assumptions(values),
        measured=_profiles(values.profile, kinds=values.devices),
        longest_tokens=longest,
    )
    return Question(
        workload=workload,
        shape=shape,
        options=tuple(options),
        slo=slo,
        payment=Payment(values.pay),
        policies=tuple(dict.fromkeys(values.policies)),
        baselines=tuple(dict.fromkeys(values.baselines)),
        headroom=values.headroom,
        slice_requests=values.slice_requests,
        is_whole=values.whole,
        mix_tries=values.mix_tries,
    )


def _workload(values: flags.FlagValues, *, shape: ModelShape) -> Workload:
    """The trace without requests that are longer than the model's context."""
    whole = read_trace(Path(values.trace))
    if values.slice_s is not None:
        whole = whole.first(values.slice_s)
    if len(set(whole.models)) > 1:
        raise ValueError(
            f"{whole.name} has requests for {', '.join(sorted(set(whole.models)))}: "
            "give a trace of one model, the one of --model"
        )
    fits = whole.input_tokens + whole.output_tokens <= shape.context_tokens
    if not fits.any():
        raise ValueError(
            f"every request of {whole.name} is longer than the context of "
            f"{shape.name}, {shape.context_tokens:,} tokens: use another model"
        )
    if not fits.all():
        print(
            f"{int((~fits).sum()):,} requests are longer than the context of "
            f"{shape.name}, {shape.context_tokens:,} tokens, and left out.\n"
        )
    return replace(
        whole,
        arrival_s=whole.arrival_s[fits],
        input_tokens=whole.input_tokens[fits],
        output_tokens=whole.output_tokens[fits],
        models=(ONLY_MODEL,) * int(fits.sum()),
    )


def _assumptions(values: flags.FlagValues) -> Assumptions:
    return Assumptions(
        bandwidth_share=values.bandwidth_share,
        compute_share=values.compute_share,
        kv_memory_fraction=values.kv_memory_fraction,
        max_rows=values.max_rows,
        token_budget=values.token_budget,
        step_s=BURST * values.slo_tpot_ms / 1e3,
        load_s=values.load_s,
    )


def _profiles(entries: Sequence[str], *, kinds: Sequence[str]) -> dict[str, Profile]:
    """Measured profiles by kind."""
    profiles = {}
    for entry in entries:
        kind, _, path = entry.partition(":")
        if kind not in kinds or not path:
            raise ValueError(
                f"--profile={entry} is not KIND:FILE with a kind of --devices "
                f"({', '.join(kinds)}), as in H100:h100.json"
            )
        profiles[kind] = read_profile(Path(path))
    return profiles


def _solve(values: flags.FlagValues) -> Answer:
    question = ask(values)
    bar: tqdm[Any] = tqdm(
        desc="simulating", unit=" fleets", disable=not values.progress, leave=False
    )

    def advance(trial: Trial) -> None:
        bar.set_postfix_str(f"{trial.policy}: {sum(trial.fleet)}")
        bar.update()

    jobs = os.cpu_count() or 1 if values.jobs is None else values.jobs
    with bar, TrialPool(jobs=jobs, on_done=advance) as pool:
        return asyncio.run(solve(question, run=pool.run))


def _write(values: flags.FlagValues, *, answer: Answer, command: str) -> None:
    """Prints the answer and writes what is asked for."""
    print(tell(answer, model=values.model))
    if values.output_json is not None:
        content = as_values(answer, model=values.model, command=command)
        path = Path(values.output_json)
        path.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
    if values.plot is not None:
        draw_answer(Path(values.plot), answer=answer)


def run() -> None:
    """Runs the program as the console script does."""
    sys.exit(main(sys.argv))


if __name__ == "__main__":
    run()
