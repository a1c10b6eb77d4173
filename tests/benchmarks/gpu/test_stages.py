import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest

from benchmarks.gpu import launches, speed
from benchmarks.gpu.calls import decode_call, prefill_calls, scattered_pages
from benchmarks.gpu.laps import StepLaps
from benchmarks.gpu.rig import Rig, make_rig
from benchmarks.gpu.roofline import Cost
from benchmarks.gpu.scale import TINY, GpuOrder
from benchmarks.gpu.speed import best_share
from benchmarks.gpu.stages import JOBS, NAMES, STAGES, WHOLE_S
from mell_jax.worker.compilation import use_compilation_cache
from mell_jax.worker.layout import Bucket, cut_vector


@pytest.fixture(scope="module")
def order(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GpuOrder]:
    folder = tmp_path_factory.mktemp("programs")
    with use_compilation_cache(folder), jax.numpy_dtype_promotion("standard"):
        yield GpuOrder(size="tiny", seed=0, backend="auto", programs=str(folder))


@pytest.fixture(scope="module")
def rig(order: GpuOrder) -> Rig:
    return make_rig(order, batches=(1, 2), prefills=True)


def test_the_shares_of_all_stages_are_within_nine_minutes() -> None:
    assert sum(stage.share_s for stage in STAGES) <= WHOLE_S == 9 * 60
    order = ("thunks", "dispatch", "sharing", "speed", "kernels", "moves", "flags")
    assert order == NAMES
    assert set(JOBS) == set(NAMES) - {"kernels"}


def test_rows_of_a_decode_step_have_pages_of_their_own() -> None:
    bucket = Bucket(tokens=2, rows=2, pages=8, is_decode=True)
    call = decode_call(bucket, context=33, pool_pages=20, seed=0)
    inputs = cut_vector(call.vector, bucket=bucket)
    assert inputs.token_ids.tolist() == [-1, -1]
    assert inputs.positions.tolist() == [32, 32]
    assert inputs.kv_lens.tolist() == [33, 33]
    assert inputs.sources.tolist() == [0, 1]
    assert call.rows[0].tolist() == [0, 1]
    used = inputs.page_table[0, :, :3].reshape(-1).tolist()
    assert len(set(used)) == 6
    assert 0 not in used
    assert not inputs.page_table[0, :, 3:].any()


def test_a_prompt_goes_in_chunks_and_its_last_one_samples() -> None:
    bucket = Bucket(tokens=32, rows=2, pages=8, is_decode=False)
    prompt = np.arange(40, dtype=np.int32)
    first, last = prefill_calls(
        bucket, prompt=prompt, pool_pages=20, scratch_slot=2, seed=0
    )
    inputs = cut_vector(first.vector, bucket=bucket)
    assert inputs.token_ids.tolist() == list(range(32))
    assert inputs.owners.tolist() == [0] * 32
    assert inputs.cu_q_lens.tolist() == [0, 32, 32]
    assert inputs.kv_lens.tolist() == [32, 0]
    assert first.rows[0].tolist() == [2, 2]
    inputs = cut_vector(last.vector, bucket=bucket)
    assert inputs.token_ids[:9].tolist() == [32, 33, 34, 35, 36, 37, 38, 39, 0]
    assert inputs.positions[:8].tolist() == list(range(32, 40))
    assert inputs.owners.tolist() == [0] * 8 + [2] * 24
    assert inputs.kv_lens.tolist() == [40, 0]
    assert inputs.last.tolist() == [7, 0]
    assert last.rows[0].tolist() == [0, 2]


def test_a_prompt_in_chunks_gives_the_token_that_it_gives_at_once(rig: Rig) -> None:
    """One step of 32 tokens, or two of 16 in the same bucket, with the same pages."""
    prompt = np.random.default_rng(0).integers(0, 256, 32, dtype=np.int32)
    bucket, slot = rig.chunk_bucket(), rig.worker.scratch_slot
    whole = prefill_calls(
        bucket, prompt=prompt, pool_pages=20, scratch_slot=slot, seed=0
    )
    halves = [
        dataclasses.replace(call, bucket=bucket, vector=widened(call.vector, bucket))
        for call in prefill_calls(
            dataclasses.replace(bucket, tokens=16),
            prompt=prompt,
            pool_pages=20,
            scratch_slot=slot,
            seed=0,
        )
    ]
    tokens = []
    for calls in (whole, halves):
        for call in calls:
            pending = rig.worker.dispatch(call)
        tokens.append(int(pending.tokens()[0]))
    assert len(whole) == 1
    assert len(halves) == 2
    assert tokens[0] == tokens[1] >= 0


def widened(vector: np.ndarray, bucket: Bucket) -> np.ndarray:
    """A step of 16 tokens as one of 32 whose second half is padding."""
    parts = cut_vector(vector, bucket=dataclasses.replace(bucket, tokens=16))
    nothing = np.zeros(16, np.int32)
    padded = parts._replace(
        token_ids=np.concatenate([parts.token_ids, nothing]),
        positions=np.concatenate([parts.positions, nothing]),
        owners=np.concatenate([parts.owners, nothing + bucket.rows]),
    )
    return np.concatenate([part.reshape(-1) for part in padded])


def test_a_pool_without_enough_pages_is_refused() -> None:
    assert sorted(scattered_pages(3, pool_pages=4, seed=0).tolist()) == [1, 2, 3]
    with pytest.raises(ValueError, match="a pool of 4 pages has no 4 besides"):
        scattered_pages(4, pool_pages=4, seed=0)


def test_the_share_of_the_roofline_is_the_best_time_over_the_measured(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    cost = Cost(bytes=4.8e9, flops=1.0)
    assert best_share(rig, cost, took_s=0.002) is None
    monkeypatch.setattr(Rig, "device_kind", "NVIDIA H200")
    assert best_share(rig, cost, took_s=0.002) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("stage", "names"),
    [
        (
            "dispatch",
            [
                f"decode {rows} x 32, {what}"
                for rows in (1, 2)
                for what in (
                    "steps sent at once",
                    "dispatch to an idle device",
                    "dispatch to a busy device",
                )
            ],
        ),
        (
            "sharing",
            [
                f"decode 1 x 32, {what}"
                for what in (
                    *("one instance", "two instances"),
                    "dispatch while the other runs",
                )
            ],
        ),
        ("speed", ["decode 1 x 32", "decode 2 x 32", "prefill 32", "prefill 64"]),
        (
            "moves",
            [
                name.format(pages)
                for pages in (1, 5)
                for name in (
                    *("gather {} pages", "copy {} pages", "scatter {} pages"),
                    "{} pages behind each step of 2 rows",
                )
            ],
        ),
    ],
)
@pytest.mark.slow
def test_every_stage_has_its_figures(
    order: GpuOrder, stage: str, names: list[str]
) -> None:
    figures = list(JOBS[stage](order))
    assert [one["name"] for one in figures] == names
    assert all(one["value"] is not None for one in figures), figures
    json.dumps(figures, allow_nan=False)


def test_flags_are_compared_with_the_step_without_them(
    order: GpuOrder, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = StepLaps(step_s=0.002, dispatch_s=0.001)
    monkeypatch.setattr(speed, "laps", lambda *_, **__: told)
    order = dataclasses.replace(order, label="some", base_ms=3.0)
    (one,) = JOBS["flags"](order)
    assert one["name"] == "decode 2 x 32, 1 layers, some"
    assert (one["value"], one["ratio"]) == (2.0, 1.5)


def test_two_instances_lose_what_two_steps_take_more_than_one_after_the_other(
    order: GpuOrder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(workers: tuple[object, ...], *_: object, **__: object) -> StepLaps:
        return StepLaps(step_s=(0.010, 0.025)[len(workers) - 1], dispatch_s=0.001)

    monkeypatch.setattr(launches, "laps", told)
    _, both, _ = JOBS["sharing"](order)
    assert both["value"] == pytest.approx(25.0)
    assert both["ratio"] == pytest.approx(0.8)


def test_instances_that_share_a_device_share_its_weights(order: GpuOrder) -> None:
    pair = make_rig(order, batches=(1,), instances=2)
    first, second = (worker.held.arrays for worker in pair.workers)
    assert all(a is b for a, b in zip(first, second, strict=True))
    assert pair.workers[0].pool is not pair.workers[1].pool
    assert pair.worker.buckets == [pair.decode_bucket(1)]
    assert pair.number_bytes == 4
    assert TINY.beside in TINY.batches
    assert Path(order.programs).is_dir()
