"""Sends requests as users send them and measures figures as users feel them."""

import asyncio
import contextlib
import dataclasses
import math
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from tqdm import tqdm

from mell_jax.bench import workload
from mell_jax.bench.metrics import Record, measure, render
from mell_jax.bench.replay import Order, Replay, orders_of, replay
from mell_jax.bench.report import BenchReport
from mell_jax.bench.shapes import model_directory
from mell_jax.bench.targets import BenchTarget, TargetInfo, connect, run_here
from mell_jax.bench.workload import LoadShape, WorkloadError
from mell_jax.engine.build import build_engine, demo_directory
from mell_jax.engine.config import DEMO, EngineConfig
from mell_jax.text.tokenizer import load_tokenizer

WARM_UP_TOKENS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingSettings:
    """The settings are those of one run; no `address` measures an engine in here.

    Raises:
      ValueError: a value is out of range, naming the flag and the rule.
    """

    engine: EngineConfig
    address: str = ""
    trace: Path | None = None
    trace_model: str = ""  # only rows of this model
    num_requests: int = 200
    input_tokens: int = 200  # median, when drawn
    output_tokens: int = 100  # median, when drawn
    length_scale: float | None = 1.0  # None: such that 99% fit the context
    request_rate: float | None = None  # requests/s; inf: all at once
    time_scale: float = 1.0
    max_concurrency: int | None = None
    text: Path | None = None
    tokenizer: Path | None = None
    temperature: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("num_requests", "input_tokens", "output_tokens"):
            if not (getattr(self, name) >= 1):
                raise ValueError(f"{name} must be at least 1")
        if self.max_concurrency is not None and not (self.max_concurrency >= 1):
            raise ValueError("max_concurrency must be at least 1")
        for name in ("length_scale", "request_rate"):
            value = getattr(self, name)
            if value is not None and not (value > 0.0):
                raise ValueError(f"{name} must be positive, got {value}")
        if not (0.0 <= self.time_scale < math.inf):
            raise ValueError(f"time_scale must be at least 0, got {self.time_scale}")


def run_serving(settings: ServingSettings, *, progress: bool) -> BenchReport:
    """Replays a workload and measures it.

    Raises:
      WorkloadError: nothing to send, or a file that cannot be read.
      TargetError: no server answers.
      ValueError: the model or its configuration cannot be used.
    """
    outcome, info, left_out = asyncio.run(_run(settings, progress=progress))
    metrics = measure(outcome.records, duration_s=outcome.duration_s)
    note = f"{info.name}, {_rate_text(settings)}"
    if left_out:
        note += f"; {left_out} requests longer than its {info.context} tokens left out"
    return BenchReport(
        suite="serving",
        text=f"{render(metrics)}\n{note}",
        results=dataclasses.asdict(metrics)
        | {
            "model": info.name,
            "context": info.context,
            "left_out": left_out,
            "requests": [_row(record) for record in outcome.records],
        },
    )


def choose_shapes(
    settings: ServingSettings, *, context: int
) -> tuple[list[LoadShape], int]:
    """Returns the requests of a run, sorted by arrival, and how many did not fit.

    Raises:
      WorkloadError: the trace cannot be read, or none of it fits.
    """
    if settings.trace is None:
        shapes = workload.draw_shapes(
            settings.num_requests,
            input_tokens=settings.input_tokens,
            output_tokens=settings.output_tokens,
            context=context,
            seed=settings.seed,
        )
    else:
        shapes = workload.read_trace(settings.trace)
    if settings.trace_model:
        shapes = [shape for shape in shapes if shape.model == settings.trace_model]
    shapes = shapes[: settings.num_requests]
    if not shapes:
        raise WorkloadError(f"{settings.trace}: holds no request to send")
    factor = settings.length_scale
    if factor is None:
        factor = workload.auto_factor(shapes, context=context)
    fitting = workload.keep_fitting(
        workload.scale_lengths(shapes, factor=factor), context=context
    )
    if not fitting:
        raise WorkloadError(
            f"no request fits the context of {context} tokens: give --length_scale=auto"
        )
    return _arrivals(fitting, settings), len(shapes) - len(fitting)


def _arrivals(
    shapes: Sequence[LoadShape], settings: ServingSettings
) -> list[LoadShape]:
    rate = settings.request_rate
    if rate is None:
        return workload.trace_arrivals(shapes, time_scale=settings.time_scale)
    if rate == math.inf:
        return workload.trace_arrivals(shapes, time_scale=0.0)
    return workload.poisson_arrivals(shapes, requests_per_s=rate, seed=settings.seed)


async def _run(
    settings: ServingSettings, *, progress: bool
) -> tuple[Replay, TargetInfo, int]:
    async with _target(settings, progress=progress) as target:
        shapes, left_out = choose_shapes(settings, context=target.info.context)
        orders = _orders(shapes, settings, target.info)
        await _warm_up(target, orders[0])
        total = sum(order.output_tokens for order in orders)
        bar = tqdm(total=total, unit="tok", desc="serving", disable=not progress)
        with contextlib.closing(bar):
            outcome = await replay(
                target,
                orders,
                max_concurrency=settings.max_concurrency,
                temperature=settings.temperature,
                on_done=lambda record: _advance(bar, record),
            )
    return outcome, target.info, left_out


def _target(
    settings: ServingSettings, *, progress: bool
) -> AbstractAsyncContextManager[BenchTarget]:
    if settings.address:
        return connect(settings.address)
    return _engine_here(settings.engine, progress=progress)


@contextlib.asynccontextmanager
async def _engine_here(
    config: EngineConfig, *, progress: bool
) -> AsyncIterator[BenchTarget]:
    with model_directory(config.model) as directory:
        name = config.served_model_name or config.model
        local = dataclasses.replace(
            config, model=str(directory), served_model_name=name
        )
        built = build_engine(local, progress=progress)
    async with run_here(built) as target:
        yield target


def _orders(
    shapes: Sequence[LoadShape], settings: ServingSettings, info: TargetInfo
) -> list[Order]:
    if settings.text is None:
        prompts = workload.random_prompts(
            shapes, vocab_size=info.vocab_size, avoid=info.eos_ids, seed=settings.seed
        )
    else:
        tokenizer = load_tokenizer(settings.tokenizer or _model_directory(settings))
        text = settings.text.read_text(encoding="utf-8")
        ids = tokenizer.encode(text, add_special_tokens=False)
        prompts = workload.text_prompts(shapes, ids=ids, seed=settings.seed)
    return orders_of(shapes, prompts)


def _model_directory(settings: ServingSettings) -> Path:
    model = settings.engine.model
    return demo_directory() if model == DEMO else Path(model)


async def _warm_up(target: BenchTarget, order: Order) -> None:
    """One short request, so that connections and first calls are not measured."""
    prompt = order.prompt[:WARM_UP_TOKENS]
    short = Order(prompt=prompt, output_tokens=1, arrival_s=0.0)
    outcome = await replay(target, [short])
    if outcome.records[0].error:
        raise WorkloadError(f"the first request failed: {outcome.records[0].error}")


def _advance(bar: "tqdm[NoReturn]", record: Record) -> None:
    bar.update(record.output_tokens)


def _rate_text(settings: ServingSettings) -> str:
    if settings.request_rate not in (None, math.inf):
        return f"{settings.request_rate:g} requests/s"
    if settings.request_rate is None and settings.trace is not None:
        return f"arrivals of the trace times {settings.time_scale:g}"
    return "all requests at once"


def _row(record: Record) -> dict[str, float | str]:
    """A request in the JSON file, small."""
    if record.error:
        return {"input_tokens": record.input_tokens, "error": record.error}
    first_s, last_s = record.chunks[0][0], record.chunks[-1][0]
    return {
        "input_tokens": record.input_tokens,
        "output_tokens": record.output_tokens,
        "cached_tokens": record.cached_tokens,
        "ttft_ms": round(1e3 * (first_s - record.sent_s), 3),
        "e2el_ms": round(1e3 * (last_s - record.sent_s), 3),
    }
