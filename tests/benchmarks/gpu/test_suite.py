import json
import sys
from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.gpu import suite
from benchmarks.gpu.stages import Stage
from benchmarks.gpu.suite import GpuSettings, StageRecord, report_of, run_gpu
from benchmarks.kernels.figures import failure, figure
from mell_jax.bench.report import BenchReport

ANSWER = """
import json, sys
asked = json.loads(sys.argv[-1])
stage, order = asked["stage"], asked["order"]
if stage == "sharing":
    sys.exit("an illegal memory access")
if stage == "moves":
    import time
    time.sleep(600)
import os
value = 4.0 if not os.environ.get("XLA_FLAGS") else 2.0
ratio = order["base_ms"] and order["base_ms"] / value
name = f"{stage} {order['label']}".strip()
print(json.dumps({"name": name, "value": value, "unit": "ms", "ratio": ratio,
                  "goal": None, "note": os.environ.get("XLA_FLAGS", "")}))
"""


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Children that answer at once, die ("sharing") or hang ("moves")."""
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    monkeypatch.setattr(suite, "CHILD", (sys.executable, "-c", ANSWER))


def test_a_stage_that_dies_or_hangs_costs_only_itself(
    scripted: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares = {"dispatch": 60.0, "sharing": 60.0, "moves": -118.0, "speed": 60.0}
    stages = tuple(Stage(name=n, share_s=s, why="") for n, s in shares.items())
    monkeypatch.setattr(suite, "STAGES", stages)
    settings = GpuSettings(rehearse=True, parts=tuple(shares))
    kept: list[BenchReport] = []
    report = run_gpu(settings, progress=False, save=kept.append)
    by_name = {one["name"]: one for one in report.results["stages"]}
    assert {name: one["status"] for name, one in by_name.items()} == {
        **{"dispatch": "done", "sharing": "died", "moves": "late", "speed": "done"}
    }
    (dead,) = by_name["sharing"]["figures"]
    assert dead == failure("sharing", "died with status 1: an illegal memory access")
    (late,) = by_name["moves"]["figures"]
    assert late["note"].startswith("killed after ")
    assert by_name["moves"]["seconds"] < 10.0
    assert by_name["speed"]["figures"][0]["value"] == 4.0
    running = kept[0].results["stages"]
    assert [one["status"] for one in running] == ["running"]
    assert len(running[0]["figures"]) == 1


def test_a_stage_without_time_is_left_out(
    scripted: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = tuple(Stage(name=n, share_s=-1.0, why="") for n in ("kernels", "flags"))
    monkeypatch.setattr(suite, "STAGES", stages)
    report = run_gpu(GpuSettings(rehearse=True), progress=False)
    assert [one["status"] for one in report.results["stages"]] == ["late", "late"]
    notes = {f["note"] for one in report.results["stages"] for f in one["figures"]}
    assert notes == {"left out: no time is left"}


def test_flags_go_to_the_process_and_are_compared_with_none(scripted: None) -> None:
    report = run_gpu(GpuSettings(rehearse=True, parts=("flags",)), progress=False)
    (stage,) = report.results["stages"]
    assert [(f["name"], f["note"], f["ratio"]) for f in stage["figures"]] == [
        ("flags no flags", "", None),
        (
            "flags WHILE and COLLECTIVES in command buffers",
            "--xla_gpu_enable_command_buffer=+WHILE,+COLLECTIVES",
            2.0,
        ),
        ("flags GEMMs by cuBLASLt", "--xla_gpu_enable_triton_gemm=false", 2.0),
    ]


def test_the_thunks_process_is_told_where_to_leave_them(scripted: None) -> None:
    report = run_gpu(GpuSettings(rehearse=True, parts=("thunks",)), progress=False)
    told, missing = report.results["stages"][0]["figures"]
    assert told["note"].startswith("--xla_dump_to=")
    assert missing["note"] == "XLA left no thunks: it does for a GPU alone"
    assert report.results["failed"] == ["launches"]


def test_a_report_counts_what_failed_and_what_is_short() -> None:
    figures = [
        figure("fast", 1.0, "ms", ratio=0.9, goal=0.8),
        figure("slow", 2.0, "ms", ratio=0.7, goal=0.8),
        failure("dead", "why"),
    ]
    record = StageRecord(
        name="speed", share_s=65.0, status="done", seconds=12.0, figures=figures
    )
    report = report_of([record])
    assert report.results["missed"] == ["slow"]
    assert report.results["failed"] == ["dead"]
    assert "speed: done, 12 of 65 s" in report.text
    assert report.text.endswith("without a figure: 1, short of their goal: 1; 12 s")


@pytest.mark.slow
def test_one_command_measures_a_stage_in_its_process(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "gpu.json"
    flags = ["--suite=gpu", "--rehearse", "--parts=speed", f"--output_json={path}"]
    assert main(["benchmarks", *flags, "--noprogress"]) == 0, capsys.readouterr().err
    document = json.loads(path.read_text())
    assert document["machine"]["devices"]
    (stage,) = document["results"]["stages"]
    assert stage["status"] == "done"
    assert [one["value"] is None for one in stage["figures"]] == [False] * 4
    assert "speed: done" in capsys.readouterr().out


@pytest.mark.slow
def test_a_rehearsal_runs_every_stage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "gpu.json"
    flags = ["--suite=gpu", "--rehearse", f"--output_json={path}", "--noprogress"]
    assert main(["benchmarks", *flags]) == 0, capsys.readouterr().err
    stages = json.loads(path.read_text())["results"]["stages"]
    assert {stage["status"] for stage in stages} == {"done"}


def test_what_cannot_be_measured_is_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["benchmarks", "--suite=gpu", "--noprogress"]) == 1
    assert "the gpu suite needs a GPU" in capsys.readouterr().err
    with pytest.raises(ValueError, match="parts must be of thunks, dispatch"):
        GpuSettings(parts=("luck",))
    with pytest.raises(ValueError, match="attention_backend must be auto, mosaic_gpu"):
        GpuSettings(backend="cuda")
