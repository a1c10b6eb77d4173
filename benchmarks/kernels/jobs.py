"""Each part of the kernels suite yields its figures and outlives its failures.

A job runs in a process of its own where there is a GPU (see `kernels`), since a kernel
that goes astray takes the device's whole context with it. What a job needs from those
before it comes as `known`: values by name of figure.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from benchmarks.kernels import timing
from benchmarks.kernels.check import check_cases, run_case
from benchmarks.kernels.figures import Figure, attempt, figure, ratio_of
from benchmarks.kernels.loads import KERNEL_SCALES, KernelScale, KernelSize, Load
from benchmarks.kernels.timing import Timer
from benchmarks.kernels.tuning import tune
from mell_jax.pallas_kernels.attention.backends import ORDER

COPY = "copy, read and written"
PARTS = (  # in order: correctness, then the ceilings that others are compared with
    "check",
    "ceilings",
    "decode",
    "quantized",
    "prefill",
    "moves",
    "step",
    "torch",
    "tune",
)
Known = Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Every job is told this."""

    backend: str | None
    repeats: int
    seed: int
    size: KernelSize
    known: Known

    @property
    def scale(self) -> KernelScale:
        return KERNEL_SCALES[self.size]

    @property
    def timer(self) -> Timer:
        return Timer(repeats=self.repeats, chain=self.scale.chain)

    @property
    def copy(self) -> float | None:
        """Returns the copy's GB/s, read and written."""
        return self.known.get(COPY)


def run_job(name: str, work: Work, *, load: int = 0) -> Iterator[Figure]:
    """Yields the figures of one job, as they are measured.

    Args:
      name: of `PARTS`, but for "torch", which needs no process of ours.
      load: which decode load, of the job "decode".
    """
    if name == "decode":
        return _decode(work, work.scale.decode[load])
    jobs: dict[str, Callable[[Work], Iterator[Figure]]] = {
        "check": _check,
        "ceilings": _ceilings,
        "quantized": _quantized,
        "prefill": _prefill,
        "moves": _moves,
        "step": _step,
        "tune": _tune,
    }
    return jobs[name](work)


def _check(work: Work) -> Iterator[Figure]:
    for case in check_cases(work.backend, size=work.size):
        yield attempt(f"check {case.name}", functools.partial(run_case, case))


def _ceilings(work: Work) -> Iterator[Figure]:
    scale, timer = work.scale, work.timer

    def copy() -> Figure:
        rate = timing.copy_bandwidth(timer, rows=scale.copy_rows)
        return figure(COPY, rate / 1e9, "GB/s")

    def matmul() -> Figure:
        rate = timing.matmul_flops(timer, size=scale.matmul)
        return figure("matmul bfloat16", rate / 1e12, "TFLOP/s")

    yield attempt(COPY, copy)
    yield attempt("matmul bfloat16", matmul)


def _decode(work: Work, load: Load) -> Iterator[Figure]:
    amount = load.kv_bytes(2) / 1e9

    def ours(name: str, backend: str | None, goal: float | None) -> Figure:
        inputs = timing.attention_inputs(load, kv_dtype=jnp.bfloat16, seed=work.seed)
        attend = timing.paged(load, backend=backend)
        rate = amount / timing.attention_seconds(work.timer, inputs, attend)
        ratio = ratio_of(rate, work.copy)
        return figure(name, rate, "GB/s of KV", ratio=ratio, goal=goal, note="of copy")

    first = attempt(load.name, lambda: ours(load.name, work.backend, 0.85))
    yield first
    if work.backend is None and jax.devices()[0].platform == "gpu":
        name = f"{load.name}, mosaic_gpu"
        yield attempt(name, lambda: ours(name, "mosaic_gpu", None))
    rivals: dict[str, Callable[[], float]] = {
        "jax's paged_attention": lambda: timing.jax_paged_seconds(
            work.timer, load, seed=1
        ),
        "cuDNN, contiguous": lambda: timing.cudnn_seconds(work.timer, load, seed=1),
    }
    for rival, measure in rivals.items() if work.scale.has_rivals else ():
        yield rival_figure(load, rival, measure, ours=first["value"])


def rival_figure(
    load: Load, rival: str, measure: Callable[[], float], *, ours: float | None
) -> Figure:
    """Returns the figure of another's decode, in seconds per call, against our GB/s."""
    name = f"{load.name}, {rival}"

    def one() -> Figure:
        rate = load.kv_bytes(2) / 1e9 / measure()
        ratio = None if ours is None else ours / rate
        note = "our speed over theirs"
        return figure(name, rate, "GB/s of KV", ratio=ratio, goal=1.0, note=note)

    return attempt(name, one)


def _quantized(work: Work) -> Iterator[Figure]:
    load = work.scale.decode[0]
    plain = work.known.get(load.name)

    def one(dtype: str, goal: float | None) -> Figure:
        inputs = timing.attention_inputs(
            load, kv_dtype=jnp.dtype(dtype), seed=work.seed
        )
        attend = timing.paged(load, backend=work.backend)
        seconds = timing.attention_seconds(work.timer, inputs, attend)
        rate = load.kv_bytes(1) / 1e9 / seconds
        ratio = ratio_of(2 * rate, plain)  # half the bytes per token
        note = "tokens/s over bfloat16's"
        label = f"{load.name} {dtype}"
        return figure(label, rate, "GB/s of KV", ratio=ratio, goal=goal, note=note)

    for dtype, goal in (("float8_e4m3fn", 1.6), ("int8", None)):
        label = f"{load.name} {dtype}"
        yield attempt(label, functools.partial(one, dtype, goal))


def _prefill(work: Work) -> Iterator[Figure]:
    load, whole = work.scale.prefill, work.scale.whole_prefill

    def theirs() -> Figure:
        # Causal attention of cuDNN begins both sequences together: all queries.
        rate = whole.flops / timing.cudnn_seconds(work.timer, whole, seed=1)
        name = f"cuDNN causal {whole.context}, contiguous"
        return figure(name, rate / 1e12, "TFLOP/s")

    def ours(best: float | None) -> Figure:
        inputs = timing.attention_inputs(load, kv_dtype=jnp.bfloat16, seed=work.seed)
        attend = timing.paged(load, backend=work.backend)
        seconds = timing.attention_seconds(work.timer, inputs, attend)
        rate = load.flops / seconds / 1e12
        ratio = ratio_of(rate, best)
        return figure(
            load.name, rate, "TFLOP/s", ratio=ratio, goal=0.6, note="of cuDNN"
        )

    rival = attempt(f"cuDNN causal {whole.context}, contiguous", theirs)
    yield rival
    yield attempt(load.name, lambda: ours(rival["value"]))


def _moves(work: Work) -> Iterator[Figure]:
    scale = work.scale
    amount = 2 * scale.moved_pages * 2 * 2**20 / 1e9  # read and written
    names = [
        f"{name} {scale.moved_pages} x 2 MiB"
        for name in ("gather_pages", "scatter_pages")
    ]
    laps: list[float] = []

    def measure(index: int) -> Figure:
        if not laps:
            laps.extend(
                timing.move_seconds(
                    work.timer,
                    seed=work.seed,
                    count=scale.moved_pages,
                    pages=scale.pool_pages,
                )
            )
        rate = amount / laps[index]
        ratio = ratio_of(rate, work.copy)
        return figure(names[index], rate, "GB/s", ratio=ratio, goal=0.8, note="of copy")

    yield attempt(names[0], lambda: measure(0))
    yield attempt(names[1], lambda: measure(1))


def _step(work: Work) -> Iterator[Figure]:
    load = work.scale.step
    layers = work.scale.model.num_layers
    name = f"step of {layers} layers, {load.name}"

    def one() -> Figure:
        seconds, read = timing.step_seconds(
            work.timer,
            config=work.scale.model,
            load=load,
            backend=work.backend or ORDER[jax.devices()[0].platform][0],
            seed=work.seed,
        )
        ratio = ratio_of(read / 1e9 / seconds, work.copy)
        note = "reading weights and KV once, at copy's speed, over it"
        return figure(name, seconds * 1e3, "ms", ratio=ratio, goal=0.75, note=note)

    yield attempt(name, one)


def _tune(work: Work) -> Iterator[Figure]:
    yield from tune(work.scale, timer=work.timer, seed=work.seed, copy=work.copy)
