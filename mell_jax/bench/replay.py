"""Sends requests when they are due and notes when their tokens come."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mell_jax.bench.metrics import Record
from mell_jax.bench.targets import BenchTarget, TargetError
from mell_jax.bench.workload import Int32Array, LoadShape


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """An order is a request to send."""

    prompt: Int32Array  # [T] token ids
    output_tokens: int
    arrival_s: float  # from the start of the run
    model: str = ""  # empty for the default one


def orders_of(
    shapes: Sequence[LoadShape],
    prompts: Sequence[Int32Array],
    *,
    names_models: bool = False,
) -> list[Order]:
    """Returns an order per shape; one without an arrival is due at once.

    Args:
      prompts: of each shape.
      names_models: orders are for the models that shapes name, not the default one.
    """
    return [
        Order(
            prompt=prompt,
            output_tokens=shape.output_tokens,
            arrival_s=shape.arrival_s or 0.0,
            model=shape.model if names_models else "",
        )
        for shape, prompt in zip(shapes, prompts, strict=True)
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """A replay tells what happened, in the order of the requests."""

    records: tuple[Record, ...]
    duration_s: float  # from the first request due to the last answer


async def replay(
    target: BenchTarget,
    orders: Sequence[Order],
    *,
    max_concurrency: int | None = None,
    temperature: float = 0.0,
    on_done: Callable[[Record], None] = lambda record: None,
) -> Replay:
    """Sends `orders`, sorted by arrival, at most `max_concurrency` at a time."""
    gate = (
        contextlib.nullcontext()
        if max_concurrency is None
        else asyncio.Semaphore(max_concurrency)
    )

    async def send(order: Order, due_s: float) -> Record:
        async with gate:
            record = await _send(target, order, due_s=due_s, temperature=temperature)
        on_done(record)
        return record

    start_s = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        tasks = []
        for order in orders:
            due_s = start_s + order.arrival_s
            await asyncio.sleep(max(0.0, due_s - time.perf_counter()))
            tasks.append(group.create_task(send(order, due_s)))
    return Replay(
        records=tuple(task.result() for task in tasks),
        duration_s=time.perf_counter() - start_s,
    )


async def _send(
    target: BenchTarget, order: Order, *, due_s: float, temperature: float
) -> Record:
    sent_s = time.perf_counter()
    chunks: list[tuple[float, int]] = []
    cached_tokens, error = 0, ""
    pieces = target.stream(
        order.prompt, output_tokens=order.output_tokens, temperature=temperature
    )
    try:
        async with contextlib.aclosing(pieces):
            async for piece in pieces:
                chunks.append((time.perf_counter(), piece.tokens))
                cached_tokens = piece.cached_tokens
    except TargetError as failure:
        error = str(failure)
    if not error and sum(tokens for _, tokens in chunks) != order.output_tokens:
        error = "the answer does not have as many tokens as were asked for"
    return Record(
        input_tokens=len(order.prompt),
        due_s=due_s,
        sent_s=sent_s,
        chunks=tuple(chunks),
        cached_tokens=cached_tokens,
        error=error,
    )
