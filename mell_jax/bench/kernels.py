"""`--suite=kernels`: attention and page moves against what the device can do.

On a GPU it measures the ceilings first (copy, bfloat16 matmul), then every figure that
has a goal, beside others who compute the same. On a CPU it times the reference alone;
there is nothing to compare it with but its own earlier figures.
"""

import functools
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from tqdm import tqdm

from mell_jax.bench import kernel_timing as timing
from mell_jax.bench.kernel_timing import Load, Timer
from mell_jax.bench.kernel_torch import RIVALS, torch_seconds
from mell_jax.bench.report import Report, table
from mell_jax.pallas_kernels.attention.backends import BACKENDS, body
from mell_jax.pallas_kernels.attention.tuning import TritonSizes

DECODE = (
    Load(rows=64, context=4096),
    Load(rows=256, context=1024),
    Load(rows=8, context=32_768),
    Load(rows=1, context=131_072),
)
PREFILL = Load(rows=1, context=8192, new=2048)
WHOLE_PREFILL = Load(rows=1, context=8192, new=8192)
STEP = Load(rows=64, context=2048)
ON_CPU = (Load(rows=1, context=512), Load(rows=8, context=512))
Figure = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelSettings:
    """One measurement.

    Raises:
      ValueError: a value is out of range, naming the flag and the rule.
    """

    backend: str = "auto"
    repeats: int = 7
    tune: bool = False
    torch_python: str = ""  # empty: without torch
    seed: int = 0

    def __post_init__(self) -> None:
        if not (self.repeats >= 1):
            raise ValueError(f"repeats must be at least 1, got {self.repeats}")
        if self.backend not in ("auto", *BACKENDS):
            raise ValueError(
                f"attention_backend must be auto, {', '.join(BACKENDS)}; got "
                f"{self.backend!r}"
            )

    @property
    def name(self) -> str | None:
        """As the op takes it."""
        return None if self.backend == "auto" else self.backend


def run_kernels(settings: KernelSettings, *, progress: bool) -> Report:
    """Measures everything on the default device.

    Raises:
      ValueError: the device cannot do what was asked for.
    """
    platform = jax.devices()[0].platform
    if platform not in ("gpu", "cpu"):
        raise ValueError(f"the kernels suite runs on a GPU or a CPU, not on {platform}")
    if settings.tune:
        if platform != "gpu":
            raise ValueError("--tune measures Triton kernels and needs a GPU")
        return _report(list(_bar(_tuned(settings), progress)))
    jobs = _on_gpu(settings) if platform == "gpu" else _on_cpu(settings)
    return _report(list(_bar(jobs, progress)))


def _bar(jobs: Iterator[Figure], progress: bool) -> Iterator[Figure]:
    with tqdm(jobs, desc="measure", unit="figure", disable=not progress) as bar:
        yield from bar


def _report(figures: list[Figure]) -> Report:
    rows = [
        (f["name"], f["value"], f["unit"], f.get("ratio"), f.get("goal"), f.get("note"))
        for f in figures
    ]
    header = ("figure", "value", "unit", "ratio", "goal", "note")
    text = table(header, rows)
    return Report(suite="kernels", text=text, results={"figures": figures})


def _on_cpu(settings: KernelSettings) -> Iterator[Figure]:
    timer = Timer(repeats=settings.repeats)
    for load in ON_CPU:
        inputs = timing.attention_inputs(
            load, kv_dtype=jnp.bfloat16, seed=settings.seed
        )
        for name in ("q", "pool"):
            inputs[name] = inputs[name].astype(jnp.float32)
        attend = timing.paged(load, backend=settings.name)
        seconds = timing.attention_seconds(timer, inputs, attend)
        gigabytes = load.kv_bytes(4) / seconds / 1e9
        yield _figure(f"decode {load.name} float32", gigabytes, "GB/s of KV")


def _on_gpu(settings: KernelSettings) -> Iterator[Figure]:
    timer = Timer(repeats=settings.repeats)
    copy = timing.copy_bandwidth(timer)
    yield _figure("copy, read and written", copy / 1e9, "GB/s")
    yield _figure("matmul bfloat16", timing.matmul_flops(timer) / 1e12, "TFLOP/s")
    seconds: dict[str, float] = {}
    for load in DECODE:
        yield from _decode(settings, timer, load, copy=copy, seconds=seconds)
    yield from _quantized(settings, timer, bfloat16_s=seconds[DECODE[0].name])
    yield from _prefill(settings, timer)
    taken, put = timing.move_seconds(timer, seed=settings.seed)
    moved = 2 * 16 * 2 * 2**20  # read and written
    for name, lap in (("gather_pages", taken), ("scatter_pages", put)):
        rate = moved / lap
        yield _figure(f"{name} 16 x 2 MiB", rate / 1e9, "GB/s", rate / copy, 0.8)
    lap, read = timing.step_seconds(
        timer,
        config=timing.LLAMA_8B,
        load=STEP,
        backend=settings.name or "triton",
        seed=settings.seed,
    )
    ratio = read / copy / lap
    yield _figure(f"8B decode step {STEP.name}", lap * 1e3, "ms", ratio, 0.75)


def _decode(
    settings: KernelSettings,
    timer: Timer,
    load: Load,
    *,
    copy: float,
    seconds: dict[str, float],
) -> Iterator[Figure]:
    inputs = timing.attention_inputs(load, kv_dtype=jnp.bfloat16, seed=settings.seed)
    attend = timing.paged(load, backend=settings.name)
    ours = seconds[load.name] = timing.attention_seconds(timer, inputs, attend)
    del inputs
    rate = load.kv_bytes(2) / ours
    yield _figure(f"decode {load.name}", rate / 1e9, "GB/s of KV", rate / copy, 0.85)
    rivals: list[tuple[str, Callable[[], float]]] = [
        (
            "jax's paged_attention",
            lambda: timing.jax_paged_seconds(timer, load, seed=1),
        ),
        ("cuDNN, contiguous", lambda: timing.cudnn_seconds(timer, load, seed=1)),
        *(
            (
                name,
                functools.partial(
                    torch_seconds,
                    settings.torch_python,
                    load,
                    method=method,
                    repeats=settings.repeats,
                ),
            )
            for name, method in RIVALS.items()
        ),
    ]
    for name, measure in rivals:
        try:
            theirs = measure()
        except (ImportError, NotImplementedError, RuntimeError, ValueError) as error:
            yield _figure(f"decode {load.name}, {name}", None, "", note=_short(error))
            continue
        yield _figure(
            f"decode {load.name}, {name}",
            load.kv_bytes(2) / theirs / 1e9,
            "GB/s of KV",
            theirs / ours,
            1.0,
            note="our speed over theirs",
        )


def _quantized(
    settings: KernelSettings, timer: Timer, *, bfloat16_s: float
) -> Iterator[Figure]:
    load = DECODE[0]
    for name, goal in (("float8_e4m3fn", 1.6), ("int8", None)):
        dtype = jnp.dtype(name)
        inputs = timing.attention_inputs(load, kv_dtype=dtype, seed=settings.seed)
        attend = timing.paged(load, backend=settings.name)
        try:
            lap = timing.attention_seconds(timer, inputs, attend)
        except ValueError as error:  # not on this device
            yield _figure(f"decode {load.name} {name}", None, "", note=_short(error))
            continue
        rate = load.kv_bytes(1) / lap / 1e9
        label = f"decode {load.name} {name}"
        note = "tokens/s over bfloat16's"
        yield _figure(label, rate, "GB/s of KV", bfloat16_s / lap, goal, note=note)


def _prefill(settings: KernelSettings, timer: Timer) -> Iterator[Figure]:
    load = PREFILL
    inputs = timing.attention_inputs(load, kv_dtype=jnp.bfloat16, seed=settings.seed)
    attend = timing.paged(load, backend=settings.name)
    ours = load.flops / timing.attention_seconds(timer, inputs, attend)
    name = f"prefill {load.new} of {load.context}"
    try:
        # Causal attention of cuDNN begins both sequences together: all 8k queries.
        lap = timing.cudnn_seconds(timer, WHOLE_PREFILL, seed=1)
    except (NotImplementedError, RuntimeError, ValueError) as error:
        yield _figure(name, ours / 1e12, "TFLOP/s", note=_short(error))
        return
    theirs = WHOLE_PREFILL.flops / lap
    yield _figure("cuDNN causal 8192, contiguous", theirs / 1e12, "TFLOP/s")
    yield _figure(name, ours / 1e12, "TFLOP/s", ours / theirs, 0.6)


def _tuned(settings: KernelSettings) -> Iterator[Figure]:
    """The fastest sizes of each load; what does not compile is left out."""
    timer = Timer(repeats=settings.repeats)
    for load in (*DECODE, PREFILL):
        inputs = timing.attention_inputs(
            load, kv_dtype=jnp.bfloat16, seed=settings.seed
        )
        laps: list[tuple[float, TritonSizes]] = []
        for sizes in _candidates(load):
            try:
                attend = _with_sizes(load, sizes)
                laps.append((timing.attention_seconds(timer, inputs, attend), sizes))
            except (RuntimeError, ValueError):  # too much shared memory
                continue
        lap, best = min(laps, key=lambda pair: pair[0])
        amount = load.kv_bytes(2) / 1e9 if load.is_decode else load.flops / 1e12
        unit = "GB/s of KV" if load.is_decode else "TFLOP/s"
        yield _figure(f"best for {load.name}", amount / lap, unit, note=str(best))


def _candidates(load: Load) -> Iterator[TritonSizes]:
    rows = (16,) if load.is_decode else (64, 128)
    splits = (1, 2, 4, 8, 16, 32) if load.is_decode else (1,)
    grid = itertools.product(rows, (32, 64, 128), splits, (4, 8), (2, 3, 4))
    for row, block, split, warps, stages in grid:
        yield TritonSizes(
            tile_tokens=1 if load.is_decode else row // timing.GROUP,
            rows=row,
            block_tokens=block,
            num_splits=split,
            num_warps=warps,
            num_stages=stages,
        )


def _with_sizes(load: Load, sizes: TritonSizes) -> timing.Attend:
    kind = jax.devices()[0].device_kind

    def attend(q: jax.Array, pool: Any, **metadata: jax.Array) -> jax.Array:
        return body("triton")(
            q,
            pool,
            sm_scale=timing.HEAD**-0.5,
            window=None,
            soft_cap=None,
            decode=load.is_decode,
            device_kind=kind,
            interpret=False,
            sizes=sizes,
            **metadata,
        )

    return attend


def _figure(
    name: str,
    value: float | None,
    unit: str,
    ratio: float | None = None,
    goal: float | None = None,
    *,
    note: str = "",
) -> Figure:
    return {
        "name": name,
        "value": value,
        "unit": unit,
        "ratio": ratio,
        "goal": goal,
        "note": note,
    }


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0][:80]}"
