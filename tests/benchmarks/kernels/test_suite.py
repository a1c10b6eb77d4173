import dataclasses
import functools
import json
import math
import sys
from collections.abc import Generator, Sequence

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, AxisType

from benchmarks.__main__ import main
from benchmarks.kernels import check, tuning
from benchmarks.kernels.apart import Ended, run_apart
from benchmarks.kernels.figures import Figure, attempt, failure, figure
from benchmarks.kernels.jobs import PARTS, Work, run_job
from benchmarks.kernels.loads import FULL, TINY, Load
from benchmarks.kernels.suite import KernelSettings, run_jobs, run_kernels
from benchmarks.kernels.timing import Timer, attention_inputs, normal, paged

SMALL = Load(rows=2, context=32)
CUDNN = "cuDNN, contiguous"
WORK = Work(
    backend=None,
    repeats=1,
    seed=0,
    size="tiny",
    known={"copy, read and written": 10.0, "decode 2 x 32": 2.0},
)


def test_a_load_knows_its_bytes_and_flops():
    # 8 KV heads of 128, keys and values, 2 bytes: 4 KiB a token
    assert Load(rows=64, context=4096).kv_bytes(2) == 2**30
    # 32 heads of 128, two products of two operations, 3 + 4 keys seen
    assert Load(rows=1, context=4, new=2).flops == 4 * 32 * 128 * 7


@pytest.mark.parametrize(
    ("part", "measured", "failed"),
    [
        (
            "check",
            [f"check {x}, auto, bfloat16, heads of 128" for x in ("decode", "mixed")],
            [],
        ),
        ("ceilings", ["copy, read and written", "matmul bfloat16"], []),
        (
            "decode",
            ["decode 2 x 32"],
            [f"decode 2 x 32, {x}" for x in ("jax's paged_attention", CUDNN)],
        ),
        ("quantized", ["decode 2 x 32 float8_e4m3fn", "decode 2 x 32 int8"], []),
        pytest.param(
            "prefill",
            ["prefill 32 of 64"],
            ["cuDNN causal 64, contiguous"],
            marks=pytest.mark.slow,
        ),
        ("moves", ["gather_pages 1 x 2 MiB", "scatter_pages 1 x 2 MiB"], []),
        pytest.param(
            "step", ["step of 2 layers, decode 2 x 32"], [], marks=pytest.mark.slow
        ),
    ],
)
def test_every_part_of_the_gpu_run_works_anywhere(
    part: str, measured: list[str], failed: list[str]
) -> None:
    """What needs a GPU is a figure that failed; all others are numbers."""
    with jax.numpy_dtype_promotion("standard"):  # Flax widens bfloat16 by itself
        figures = list(run_job(part, WORK))
    assert sorted(f["name"] for f in figures) == sorted([*measured, *failed])
    for one in figures:
        assert (one["value"] is None) == (one["name"] in failed), one
        assert one["value"] is None or one["value"] > 0.0
        compare = {"GB/s": 0.1, "GB/s of KV": 0.1 if part == "decode" else 2 / 2.0}
        if one["ratio"] is not None and one["unit"] in compare:
            assert one["ratio"] == pytest.approx(one["value"] * compare[one["unit"]])
    json.dumps(figures, allow_nan=False)


def test_tuning_names_the_fastest_sizes() -> None:
    timer = Timer(repeats=1, chain=1)
    got = tuning.tune(TINY, timer=timer, seed=0, copy=1.0, interpret=True)
    decode, prefill = got
    assert json.loads(decode["note"])["block_tokens"] == 32
    assert json.loads(prefill["note"])["rows"] == 64
    assert decode["ratio"] == decode["value"] > 0.0


def test_tuning_without_any_size_that_runs_is_a_failure() -> None:
    timer = Timer(repeats=1, chain=1)
    scale = dataclasses.replace(TINY, grid=dataclasses.replace(TINY.grid, warps=(4, 8)))
    figures = list(tuning.tune(scale, timer=timer, seed=0, copy=None))
    assert [f["value"] for f in figures] == [None, None]
    assert figures[0]["note"].startswith("RuntimeError: none of 2 sizes ran; the last ")


@pytest.mark.parametrize("decode", [True, False])
def test_a_wrong_kernel_is_told(monkeypatch: pytest.MonkeyPatch, decode: bool) -> None:
    case = check.KernelCase(backend=None, decode=decode, window=100, soft_cap=3.0)
    assert check.run_case(case)["note"] == "right"
    right = check.ragged_paged_attention
    monkeypatch.setattr(
        check, "ragged_paged_attention", lambda *a, **k: right(*a, **k) * 1.25
    )
    wrong = check.run_case(case)
    assert wrong["value"] is None
    assert wrong["note"].startswith("WRONG: relative error 2.5e-01, not 0.002")


def test_a_failure_costs_one_figure() -> None:
    def broken() -> dict[str, object]:
        raise AssertionError("pages must be divisible\nby 16")

    assert attempt("x", broken)["note"] == "AssertionError: pages must be divisible"
    assert figure("x", math.nan, "s")["note"] == "not finite: value nan, ratio None"
    assert figure("x", 1.0, "s", ratio=math.inf)["value"] is None


def python(code: str) -> Sequence[str]:
    return [sys.executable, "-c", code]


def figures_and_end(
    figures: Generator[Figure, None, Ended],
) -> tuple[list[Figure], Ended]:
    found = []
    while True:
        try:
            found.append(next(figures))
        except StopIteration as end:
            return found, end.value


def test_a_part_that_dies_leaves_its_figures() -> None:
    code = """
import os, sys
print('{"name": "first", "value": 1.0}', flush=True)
print("not a figure")
print("an illegal memory access", file=sys.stderr, flush=True)
os.abort()
"""
    run = run_apart(python(code), name="decode", limit_s=60.0)
    (first, last), ended = figures_and_end(run)
    assert first == {"name": "first", "value": 1.0}
    why = "died with status -6: an illegal memory access"
    assert last == failure("decode", why)
    assert ended is Ended.DEAD


def test_a_part_that_hangs_is_killed() -> None:
    code = "import time; time.sleep(600)"
    run = run_apart(python(code), name="step", limit_s=0.2)
    (only,), ended = figures_and_end(run)
    assert only["note"] == "killed after 0 s"
    assert ended is Ended.LATE


def test_jobs_without_time_are_left_out() -> None:
    settings = KernelSettings(size="tiny", parts=("check", "step"))
    figures, ended = figures_and_end(run_jobs(settings, left_s=lambda: 0.0))
    assert [f["name"] for f in figures] == ["check", "step"]
    assert {f["note"] for f in figures} == {"left out: no time is left"}
    assert ended is Ended.LATE


def test_a_brief_check_has_every_type_and_one_head_size() -> None:
    cases = list(check.check_cases(None, size="brief"))
    assert {case.kv for case in cases} == {
        *("bfloat16", "float32", "int8", "float8_e4m3fn")
    }
    assert {case.head for case in cases} == {128}
    assert {case.head for case in check.check_cases(None, size="full")} == {
        *(64, 80, 96, 128, 256)
    }


def test_one_command_measures_and_keeps_what_it_has(tmp_path, capsys) -> None:
    path = tmp_path / "kernels.json"
    flags = ["--suite=kernels", "--rehearse", "--parts=check,torch", "--repeats=1"]
    more = ["--torch_python=", f"--output_json={path}", "--noprogress"]
    assert main(["benchmarks", *flags, *more]) == 0, capsys.readouterr().err
    results = json.loads(path.read_text())["results"]
    assert [f["note"] for f in results["figures"][:2]] == ["right", "right"]
    assert len(results["failed"]) == 4  # torch's
    assert "without a figure: 4" in capsys.readouterr().out


def test_on_a_cpu_the_reference_is_timed_and_saved_after_each_figure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("benchmarks.kernels.suite.ON_CPU", (SMALL, SMALL))
    kept: list[int] = []
    report = run_kernels(
        KernelSettings(repeats=1),
        progress=False,
        save=lambda report: kept.append(len(report.results["figures"])),
    )
    assert kept == [1, 2]
    one, _ = report.results["figures"]
    assert one["name"] == "decode 2 x 32 float32"
    assert one["value"] > 0.0


@pytest.mark.parametrize(
    ("load", "dtype", "backend"),
    [
        *((load, "bfloat16", None) for load in (*FULL.decode, FULL.prefill)),
        *((load, "bfloat16", "mosaic_gpu") for load in FULL.decode),
        *((FULL.decode[0], dtype, None) for dtype in ("int8", "float8_e4m3fn")),
    ],
    ids=lambda value: value.name if isinstance(value, Load) else str(value),
)
def test_full_loads_lower_for_the_gpu_that_they_are_meant_for(
    load: Load, dtype: str, backend: str | None
) -> None:
    """No size, type or back end of the real run is refused there."""
    make = functools.partial(attention_inputs, load, kv_dtype=jnp.dtype(dtype), seed=0)
    inputs = jax.eval_shape(make)
    attend = functools.partial(paged(load, backend=backend), layer=jnp.int32(0))
    device = AbstractDevice(device_kind="NVIDIA H200", num_cores=None, platform="gpu")
    mesh = AbstractMesh(
        (1,), ("x",), axis_types=(AxisType.Auto,), abstract_device=device
    )
    with jax.sharding.use_abstract_mesh(mesh):
        lowered = jax.jit(attend).trace(**inputs).lower(lowering_platforms=("cuda",))
    assert (backend or "triton") in lowered.as_text()


def test_random_numbers_differ() -> None:
    whole = normal(0, (5, 3), jnp.float32)
    assert whole.shape == (5, 3)
    assert len(set(whole.reshape(-1).tolist())) == 15


def test_pages_are_shuffled_and_scratch_is_left_out() -> None:
    table = attention_inputs(SMALL, kv_dtype=jnp.float32, seed=0)["page_table"]
    assert sorted(table.reshape(-1).tolist()) == [1, 2, 3, 4]


def test_what_cannot_be_measured_is_refused(capsys):
    assert main(["benchmarks", "--suite=kernels", "--tune", "--noprogress"]) == 1
    assert "needs a GPU" in capsys.readouterr().err
    with pytest.raises(ValueError, match="repeats must be at least 1"):
        KernelSettings(repeats=0)
    with pytest.raises(ValueError, match="attention_backend must be auto, mosaic_gpu"):
        KernelSettings(backend="cuda")
    with pytest.raises(ValueError, match="parts must be of check, ceilings"):
        KernelSettings(parts=("luck",))
    assert KernelSettings().parts == PARTS[:-1]
