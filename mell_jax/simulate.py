"""`mell-simulate` tells how many devices a placement policy needs for a workload.

    mell-simulate --trace=trace.csv.gz --capacity_tokens=38000
    mell-simulate --workload=poisson --rate=3.6 --policies=consolidate,mell,repack
    mell-simulate --layer_windows=512,512,0 --num_layers=24 --context_tokens=32768
    mell-simulate --trace=trace.csv.gz --profile=h100.json --slo_ttft_ms=500
    mell-simulate --trace=trace.csv.gz --devices=devices.csv --losses_per_hour=0.1
    mell-simulate --trace=trace.csv.gz --record=log.jsonl
    mell-simulate --replay=log.jsonl
    mell-simulate --trace=trace.csv.gz --page=run.html
    mell-simulate --check=log.jsonl

Flags become values here, those for more realism in `realism.py`, those about devices in
`fleet_flags.py`; the simulator itself reads no flag and no clock.
"""

import dataclasses
import json
import math
import os
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from absl import app, flags
from tqdm import tqdm

from mell_jax import fleet_flags, realism
from mell_jax.console import run_program
from mell_jax.page.film import film_of
from mell_jax.page.html import film_page
from mell_jax.scheduler.cache_layout import CacheLayout
from mell_jax.scheduler.ids import ModelId
from mell_jax.scheduler.placement.model import StepTime
from mell_jax.scheduler.placement.policy import PolicyConfig
from mell_jax.scheduler.policies import POLICIES
from mell_jax.scheduler.simulator import check, record, report
from mell_jax.scheduler.simulator.layers import read_layers
from mell_jax.scheduler.simulator.results import plot, publish
from mell_jax.scheduler.simulator.results.compare import (
    REPACK,
    REPACK_LIVE,
    Knobs,
    RunOutcome,
    check_kinds,
    check_policies,
    note_savings,
    policy_config,
    run_best,
)
from mell_jax.scheduler.simulator.results.curve import draw_curves
from mell_jax.scheduler.simulator.results.page import write_page
from mell_jax.scheduler.simulator.results.scale import measure_scale
from mell_jax.scheduler.simulator.settings import Settings
from mell_jax.scheduler.simulator.workload import (
    Lognormal,
    Quantiles,
    Synthetic,
    Workload,
    draw,
    quantile_lengths,
    read_trace,
)

_TRACE = flags.DEFINE_string(
    "trace", None, "This CSV (.gz) has arrival_s,input_tokens,output_tokens[,model]."
)
_SLICE_S = flags.DEFINE_float(
    "slice_s", None, "Only the first seconds of a trace or of the results are used."
)
_WORKLOAD = flags.DEFINE_enum(
    "workload", "poisson", ["poisson", "bursty"], "Requests arrive like this."
)
_LENGTHS = flags.DEFINE_string(
    "lengths", "lognormal", "Lengths are lognormal, or as in the trace of this name."
)
_RATE = flags.DEFINE_float("rate", 3.6, "So many requests per second are drawn.")
_SPAN_S = flags.DEFINE_float("span_s", 1300.0, "Arrivals last this long.")
_INPUT_MEAN = flags.DEFINE_float("input_mean", 1000.0, "Inputs have this mean.")
_INPUT_SIGMA = flags.DEFINE_float(
    "input_sigma", 1.0, "Their logarithms have this sigma."
)
_OUTPUT_MEAN = flags.DEFINE_float("output_mean", 2500.0, "Outputs have this mean.")
_OUTPUT_SIGMA = flags.DEFINE_float(
    "output_sigma", 0.9, "Their logarithms have this sigma."
)
_SEED = flags.DEFINE_integer(
    "seed", 0, "The workload is drawn from this seed.", lower_bound=0
)
_CAPACITY_TOKENS = flags.DEFINE_integer(
    "capacity_tokens", 20000, "A device holds so many KV tokens."
)
_PAGE_TOKENS = flags.DEFINE_integer("page_tokens", 16, "A page has so many tokens.")
_LAYER_WINDOWS = flags.DEFINE_list(
    "layer_windows",
    ["0"],
    "Layers have these windows, in tokens and in turns; one of 0 sees everything.",
)
_NUM_LAYERS = flags.DEFINE_integer(
    "num_layers",
    None,
    "There are so many layers; by default as many as --layer_windows.",
    lower_bound=1,
)
_CONTEXT_TOKENS = flags.DEFINE_integer(
    "context_tokens", None, "No request is longer; drawn ones are cut.", lower_bound=2
)
_MODELS = flags.DEFINE_list(
    "models", [], "Each name:weight is a model; weight is KV memory per token."
)
_POLICIES = flags.DEFINE_list(
    "policies",
    ["consolidate"],
    "These are compared; there are "
    f"{', '.join([*sorted(POLICIES), REPACK, REPACK_LIVE])}.",
)
_HEADROOM = flags.DEFINE_list(
    "headroom", ["0"], "Baselines leave these fractions free; the best one is reported."
)
_LOOK_S = flags.DEFINE_float(
    "look_s", None, "`consolidate` foresees growth for so long; by default its own."
)
_EPOCH_S = flags.DEFINE_float("epoch_s", 1.0, "Consolidations are this far apart.")
_DECODE = flags.DEFINE_float(
    "decode_tokens_per_s", 33.0, "A request decodes at this rate."
)
_MOVE_PRICE_S = flags.DEFINE_float(
    "move_price_s",
    Knobs().move_price_s,
    "Moving a full device is worth so many device seconds to `consolidate`: a lower "
    "price means fewer devices and more bytes moved.",
)
_PLACE_WAIT_MS = flags.DEFINE_float(
    "place_wait_ms",
    1e3 * Knobs().place_wait_s,
    "`consolidate` lets an arrival wait so long at most before it opens a device.",
)
_PREFILL = flags.DEFINE_float(
    "prefill_tokens_per_s",
    8000.0,
    "A request prefills at this rate; 0: it takes no time.",
)
_PREFILL_SHARE = flags.DEFINE_float(
    "prefill_share", 0.25, "Moves that replay tokens get this part of prefill."
)
_LINK_GBPS = flags.DEFINE_float(
    "link_gbps", 200.0, "A device's link carries so much; 0: moves take no time."
)
_KV_BYTES = flags.DEFINE_integer(
    "kv_bytes_per_token", 131072, "A move sends this much for a token of weight 1."
)
_MAX_DEVICES = flags.DEFINE_integer("max_devices", 1000, "There are so many devices.")
_ACTIVATION_S = flags.DEFINE_float(
    "activation_s", 0.0, "A model takes so long to load."
)
_TPOT_SLO_MS = flags.DEFINE_float(
    "tpot_slo_ms", None, "An output token may take so long; by default any time."
)
_STEP_FIXED_MS = flags.DEFINE_float("step_fixed_ms", 0.0, "Every step takes so long.")
_STEP_ROW_MS = flags.DEFINE_float(
    "step_row_ms", 0.0, "Each request adds so much to a step."
)
_STEP_KTOKEN_MS = flags.DEFINE_float(
    "step_ktoken_ms", 0.0, "1,000 KV tokens add so much to a step."
)
_OUTPUT_JSON = flags.DEFINE_string(
    "output_json", None, "Every figure is written to this file."
)
_PLOT = flags.DEFINE_string(
    "plot", None, "Devices and utilisation over time are drawn to this file."
)
_RECORD = flags.DEFINE_string("record", None, "The event log is written to this file.")
_PAGE = flags.DEFINE_string(
    "page",
    None,
    "The run is played by this file, which a browser opens; with --replay, that log.",
)
_REPLAY = flags.DEFINE_string("replay", None, "This recorded log is reproduced.")
_CHECK = flags.DEFINE_string(
    "check", None, "Every figure of this recorded log is recomputed by other code."
)
_RESULTS = flags.DEFINE_string(
    "results", None, "Instead, the results page is written to this file."
)
_DATA = flags.DEFINE_string(
    "data", None, "This folder has the traces for the results page."
)
_SCALE = flags.DEFINE_list(
    "scale", [], "Instead, decisions are timed in full fleets of these sizes."
)


def settings_from_flags(
    workload: Workload, *, profiled: Settings | None = None
) -> Settings:
    """Returns the fleet that the flags describe.

    Args:
      profiled: what --profile says where no flag does.

    Raises:
      ValueError: a flag is out of range, or a model of the trace has no weight.
    """
    pick = partial(realism.pick, profiled=profiled)
    slo = _TPOT_SLO_MS.value
    layout = _layout(workload)
    page_tokens = pick(_PAGE_TOKENS, "page_tokens")
    settings = Settings(
        capacity_tokens=_most_tokens(profiled),
        page_tokens=page_tokens,
        cache=layout.spec(
            page_tokens=page_tokens,
            token_budget=_CONTEXT_TOKENS.value or 1,  # windows bound a chunk
        ),
        layers_per_page=layout.layers_per_page,
        num_layers=len(layout.places),
        epoch_s=_EPOCH_S.value,
        decode_tokens_per_s=pick(_DECODE, "decode_tokens_per_s"),
        prefill_tokens_per_s=pick(_PREFILL, "prefill_tokens_per_s") or math.inf,
        prefill_share=_PREFILL_SHARE.value,
        link_gbps=pick(_LINK_GBPS, "link_gbps") or math.inf,
        kv_bytes_per_token=pick(_KV_BYTES, "kv_bytes_per_token"),
        max_devices=_MAX_DEVICES.value,
        activation_s=pick(_ACTIVATION_S, "activation_s"),
        weights=_weights(workload),
        step_time=_step_time(layout, page_tokens=page_tokens, profiled=profiled),
        tpot_slo_s=slo * 1e-3 if slo is not None else math.inf,
    )
    settings = realism.make_real(settings, profiled=profiled)
    return fleet_flags.make_fleet(settings)


def _most_tokens(profiled: Settings | None) -> int:
    """Returns what a device holds, the largest of several kinds."""
    given = realism.pick(_CAPACITY_TOKENS, "capacity_tokens", profiled=profiled)
    return fleet_flags.largest_tokens() or int(given)


def _step_time(
    layout: CacheLayout, *, page_tokens: int, profiled: Settings | None
) -> StepTime:
    """Returns the time of a step by pages of the pool."""
    base = StepTime() if profiled is None else profiled.step_time
    token_s = 0.0 if profiled is None else base.page_s / profiled.page_tokens

    def seconds(flag: flags.FlagHolder[Any], unit_s: float, default_s: float) -> float:
        is_given = flags.FLAGS[flag.name].present
        return float(flag.value) * unit_s if is_given else default_s

    token_s = seconds(_STEP_KTOKEN_MS, 1e-6, token_s)
    return StepTime(
        fixed_s=seconds(_STEP_FIXED_MS, 1e-3, base.fixed_s),
        row_s=seconds(_STEP_ROW_MS, 1e-3, base.row_s),
        page_s=token_s * page_tokens * layout.layers_per_page / len(layout.places),
    )


def _layout(workload: Workload) -> CacheLayout:
    """Returns how layers lie in pages."""
    context = _CONTEXT_TOKENS.value
    longest = int((workload.input_tokens + workload.output_tokens).max())
    if context is not None and longest > context:
        raise ValueError(
            f"--context_tokens is {context}, but a request of {workload.name} has "
            f"{longest} tokens: raise it, or use requests that the model can serve"
        )
    return read_layers(
        _LAYER_WINDOWS.value, num_layers=_NUM_LAYERS.value, context_tokens=context
    )


def _weights(workload: Workload) -> dict[ModelId, float]:
    found = sorted(set(workload.models))
    if not _MODELS.value:
        return dict.fromkeys(found, 1.0)
    weights = dict(_weight(entry) for entry in _MODELS.value)
    missing = [model for model in found if model not in weights]
    if missing:
        raise ValueError(
            f"--models has no weight for {missing} of the trace: add {missing[0]}:1.0"
        )
    return weights


def _weight(entry: str) -> tuple[ModelId, float]:
    """Returns one entry of --models."""
    name, _, weight = entry.partition(":")
    try:
        return ModelId(name), float(weight)
    except ValueError:
        raise ValueError(
            f"--models: {entry!r} is not name:weight, as in code:0.5,conv:1.0"
        ) from None


def _knobs() -> Knobs:
    return Knobs(
        look_s=_LOOK_S.value,
        move_price_s=_MOVE_PRICE_S.value,
        place_wait_s=1e-3 * _PLACE_WAIT_MS.value,
        reserve=fleet_flags.reserve(),
    )


def _headrooms() -> list[float]:
    try:
        values = [float(text) for text in _HEADROOM.value]
    except ValueError:
        values = []
    if not values or not all(0 <= value < 1 for value in values):
        raise ValueError(
            f"--headroom must be fractions in [0, 1), as in 0,0.05,0.1, "
            f"got {','.join(_HEADROOM.value)!r}"
        )
    return values


def workload_from_flags(*, profiled: Settings | None = None) -> Workload:
    """Returns the trace, or requests drawn from the seed; see `settings_from_flags`."""
    trace = None if _TRACE.value is None else read_trace(Path(_TRACE.value))
    whole = realism.blocks_from_flags(trace)
    if whole is not None:
        return whole if _SLICE_S.value is None else whole.first(_SLICE_S.value)
    capacity = _most_tokens(profiled)
    if not (capacity >= 10):
        raise ValueError(f"--capacity_tokens must be >= 10 to draw, got {capacity}")
    lengths: tuple[Lognormal | Quantiles, Lognormal | Quantiles]
    if _LENGTHS.value == "lognormal":
        lengths = (
            Lognormal(mean=_INPUT_MEAN.value, sigma=_INPUT_SIGMA.value),
            Lognormal(mean=_OUTPUT_MEAN.value, sigma=_OUTPUT_SIGMA.value),
        )
    else:
        lengths = quantile_lengths(_LENGTHS.value)
    synthetic = Synthetic(
        rate_per_s=_RATE.value,
        span_s=_SPAN_S.value,
        input_lengths=lengths[0],
        output_lengths=lengths[1],
        burstiness=1.0 if _WORKLOAD.value == "poisson" else 16.0,
    )
    context = _CONTEXT_TOKENS.value or capacity
    return draw(
        synthetic,
        seed=_SEED.value,
        max_input_tokens=int(0.9 * min(capacity, context)),
        max_tokens=min(int(0.98 * capacity), context),
    )


def simulate(
    workload: Workload, settings: Settings, *, log: Path | None
) -> list[RunOutcome]:
    """Runs every policy with a bar; writes event logs to `log`, if asked to."""
    outcomes, headrooms = [], _headrooms()
    with ExitStack() as stack:
        for name in dict.fromkeys(_POLICIES.value):
            with tqdm(total=len(workload), desc=name, leave=False) as bar:
                outcome = run_best(
                    name,
                    workload=workload,
                    settings=settings,
                    headrooms=headrooms,
                    knobs=_knobs(),
                    clock=time.perf_counter,
                    progress=partial(_advance, bar),
                    open_log=partial(
                        _open_log,
                        workload=workload,
                        settings=settings,
                        log=log,
                        stack=stack,
                    ),
                )
            outcomes.append(outcome)
    return outcomes


def _advance(bar: "tqdm[Any]", served: int) -> None:
    if served < bar.n:  # the next headroom
        bar.reset()
    bar.update(served - bar.n)


def _open_log(
    name: str,
    config: PolicyConfig,
    *,
    workload: Workload,
    settings: Settings,
    log: Path | None,
    stack: ExitStack,
) -> record.EventLog | None:
    """The log of a policy in `log`, if there is to be one."""
    if log is None:
        return None
    several = len(set(_POLICIES.value) & set(POLICIES)) > 1
    path = Path(f"{log}.{name}" if several else log)
    file = stack.enter_context(path.open("w"))
    header = record.make_header(
        name, config=config, settings=settings, workload=workload
    )
    return record.EventLog(file, header=header)


def replay(path: Path) -> int:
    """Reproduces every decision of a log; returns the number of events."""
    with path.open() as file:
        machine = record.read_machine(file)
        return record.replay(machine, lines=file)


def film(log: Path, *, to: Path, title: str) -> None:
    """Writes the page that plays a log.

    Raises:
      ValueError: it is none, or nothing happens in it.
    """
    with log.open() as lines:
        taken = film_of(lines, title=title)
    to.write_text(film_page(taken.json()).html)


def _log_path(stack: ExitStack) -> Path | None:
    """Returns where the log goes: to --record, or where only --page reads it."""
    if _RECORD.value is not None:
        return Path(_RECORD.value)
    if _PAGE.value is not None:
        return Path(stack.enter_context(TemporaryDirectory())) / "log.jsonl"
    return None


def check_log(path: Path) -> None:
    """Prints what a log comes to by another count.

    Raises:
      ValueError: something in it cannot be, or a figure differs.
    """
    with path.open() as file:
        checked = check.check(file)
    if checked.errors:
        raise ValueError(f"{path} is wrong: {'; '.join(checked.errors)}")
    for name, value in checked.figures.items():
        print(f"{name:24} {value:,.6g}")
    print(f"{checked.events} lines checked, every figure as reported")


def check_flags() -> None:
    """Finds before a long run what would only fail at its end.

    Raises:
      ValueError: what is asked for cannot be written, or names nothing known.
    """
    check_policies(_POLICIES.value)
    for flag in (_OUTPUT_JSON, _PAGE, _PLOT, _RECORD, _RESULTS):
        if flag.value is not None and not Path(flag.value).resolve().parent.is_dir():
            raise ValueError(
                f"--{flag.name}={flag.value}: there is no such folder, make it first"
            )
    if _PLOT.value is not None:
        plot.check_plot(Path(_PLOT.value))
    if _RECORD.value is not None and len(_headrooms()) > 1:
        raise ValueError("--record writes one run per policy: give one --headroom")
    if _RECORD.value is not None and not set(_POLICIES.value) & set(POLICIES):
        raise ValueError(f"--record: {_POLICIES.value} are bounds, they decide nothing")
    is_one_run = len(set(_POLICIES.value) & set(POLICIES)) == len(_headrooms()) == 1
    if _PAGE.value is not None and not (is_one_run or _REPLAY.value is not None):
        raise ValueError("--page plays one run: give one policy and one --headroom")
    if _DATA.value is not None and not Path(_DATA.value).is_dir():
        raise ValueError(f"--data={_DATA.value} is no folder")


def write_json(
    path: Path,
    *,
    workload: Workload,
    settings: Settings,
    outcomes: Sequence[RunOutcome],
) -> None:
    """Writes every figure that is printed, and what it was measured with."""
    figures = {o.policy: {"headroom": o.headroom} | o.figures for o in outcomes}
    content = {
        "workload": workload.name,
        "requests": len(workload),
        "seed": _SEED.value,
        "settings": dataclasses.asdict(settings),
        "policies": figures,
    }
    path.write_text(json.dumps(_finite(content), indent=1) + "\n")


def _finite(value: Any) -> Any:
    """JSON has no infinity: null stands for unbounded."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return None if value == math.inf else value


def print_scale() -> None:
    """Prints decision times of the first policy, one line per size."""
    name = _POLICIES.value[0]
    if name not in POLICIES:
        raise ValueError(f"--scale: {name} is a bound, it decides nothing")
    for text in _SCALE.value:
        if not text.isdecimal():
            raise ValueError(f"--scale must be numbers of instances, got {text!r}")
        measured = measure_scale(
            POLICIES[name](PolicyConfig(**dataclasses.asdict(_knobs()))),
            instances=int(text),
            num_events=200_000,
            clock=time.perf_counter,
        )
        print(
            f"{measured.instances:7,} instances {measured.requests:9,} requests   "
            f"p50 {measured.event_us_p50:5.1f} us   p99 {measured.event_us_p99:6.1f} us"
            f"   epoch {measured.epoch_us_max / 1e3:6.1f} ms"
            f"   {measured.bytes_per_request:4.0f} B/request"
            f"   a tenth less: {measured.fall_s:4.1f} s",
            flush=True,
        )


def compare() -> None:
    """Simulates the policies, prints their figures and writes what is asked for."""
    profiled = realism.settings_of_profile()
    workload = workload_from_flags(profiled=profiled)
    settings = settings_from_flags(workload, profiled=profiled)
    policy_config(settings, headroom=0.0, knobs=_knobs())  # refuses what is wrong
    check_kinds(_POLICIES.value, settings=settings)
    with ExitStack() as stack:
        log = _log_path(stack)
        outcomes = simulate(workload, settings, log=log)
        if log is not None and _PAGE.value is not None:
            film(log, to=Path(_PAGE.value), title=workload.name)
    note_savings(outcomes)
    window = outcomes[0].meter.window
    print(
        f"{workload.name}: {len(workload):,} requests, C = "
        f"{settings.capacity_tokens:,} tokens, means over {window.start_s:.0f} s to "
        f"{window.end_s:.0f} s\n"
    )
    if not settings.cache.is_plain:
        print(report.layers(settings))
    if settings.devices:
        print(report.kinds(settings))
    if not (window.end_s - window.start_s >= settings.epoch_s):
        print("The window is shorter than an epoch: means say little.\n")
    print(report.table(outcomes))
    if _OUTPUT_JSON.value is not None:
        path = Path(_OUTPUT_JSON.value)
        write_json(path, workload=workload, settings=settings, outcomes=outcomes)
    if _PLOT.value is not None:
        title = f"{workload.name}, C = {settings.capacity_tokens:,} tokens"
        plot.draw_plot(Path(_PLOT.value), outcomes=outcomes, title=title)


def write_results(path: Path) -> None:
    """Simulates all cases of the results page on all cores; draws the curves beside.

    Raises:
      ValueError: matplotlib is not installed.
    """
    picture = path.with_name(f"{path.stem.lower()}_curves.svg")
    plot.check_plot(picture)
    results = publish.measure(
        data=Path(_DATA.value) if _DATA.value is not None else None,
        clock=time.perf_counter,
        jobs=os.cpu_count() or 1,
        say=partial(print, flush=True),
        most_s=_SLICE_S.value,
    )
    path.write_text(write_page(results, picture=picture.name))
    draw_curves(picture, curves=results.curves)


def main(argv: Sequence[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}")
    try:
        check_flags()
        if _REPLAY.value is not None:
            count = replay(Path(_REPLAY.value))
            print(f"{count} events replayed, every plan as recorded")
            if _PAGE.value is not None:
                log = Path(_REPLAY.value)
                film(log, to=Path(_PAGE.value), title=log.name)
        elif _CHECK.value is not None:
            check_log(Path(_CHECK.value))
        elif _SCALE.value:
            print_scale()
        elif _RESULTS.value is not None:
            write_results(Path(_RESULTS.value))
        else:
            compare()
    except ValueError as error:
        sys.exit(f"mell-simulate: {error}")
    except OSError as error:
        sys.exit(f"mell-simulate: {error.filename}: {error.strerror}")
    except KeyboardInterrupt:
        sys.exit("mell-simulate: interrupted")


def run() -> None:
    """Runs the program as the console script does."""
    run_program(
        main, modules=("mell_jax.simulate", "mell_jax.realism", "mell_jax.fleet_flags")
    )


if __name__ == "__main__":
    run()
