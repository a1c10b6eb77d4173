"""`mell-plan` as a stranger uses it."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mell_jax.plan import main
from mell_jax.scheduler.simulator.profile import write_profile
from tests.planner.small import profile

BOUNDS = ("--slo_ttft_ms=2000", "--slo_tpot_ms=100")
MODEL = "--model=llama-8b"


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """Two requests a second for 20 s, of 500 tokens and 50 more."""
    path = tmp_path / "trace.csv"
    lines = [f"{n / 2},500,50\n" for n in range(40)]
    path.write_text("arrival_s,input_tokens,output_tokens\n" + "".join(lines))
    return path


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line with which a command is refused."""
    assert main(["mell-plan", *arguments]) in (1, 2)
    told = capsys.readouterr()
    assert told.err.startswith("mell-plan: ") and told.err.count("\n") == 1
    return told.err


def test_a_question_is_answered_in_text_and_json(
    trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = tmp_path / "plan.json"
    status = main(
        [
            "mell-plan",
            f"--trace={trace}",
            MODEL,
            *BOUNDS,
            "--devices=H100,L4",
            "--prices=L4:0.5",
            "--jobs=1",
            "--noprogress",
            f"--output_json={written}",
        ]
    )
    assert status == 0
    told = capsys.readouterr().out
    assert told.startswith("trace: 40 requests in 0 min, llama-8b (16.1 GB, 128 KiB")
    assert told.rstrip().endswith(
        "serve it on 1 x L4:\nmell-serve --model=llama-8b --max_rows=256 "
        "--token_budget=512"
    )
    content = json.loads(written.read_text())
    assert content["requests"] == 40
    assert content["best"]["moving"]["price_per_hour_owned"] == 0.5
    assert {each["kind"] for each in content["options"]} == {"H100", "L4"}


def test_a_measured_profile_takes_the_place_of_the_data_sheet(
    trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    measured = tmp_path / "h100.json"
    write_profile(measured, profile=profile("measured", capacity_tokens=64_000))
    written = tmp_path / "plan.json"
    arguments = (f"--trace={trace}", MODEL, *BOUNDS, "--devices=H100", "--jobs=1")
    more = (f"--profile=H100:{measured}", f"--output_json={written}", "--noprogress")
    assert main(["mell-plan", *arguments, *more]) == 0
    (option,) = json.loads(written.read_text())["options"]
    assert option["is_measured"] and option["profile"]["name"] == "measured"
    capsys.readouterr()
    told = refused(capsys, *arguments, f"--profile=L4:{measured}")
    assert "is not KIND:FILE with a kind of --devices (H100)" in told


def test_requests_beyond_the_context_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = tmp_path / "long.csv"
    head = "arrival_s,input_tokens,output_tokens\n"
    long.write_text(head + "0,140000,5\n1,500,5\n2,500,5\n")
    arguments = (f"--trace={long}", MODEL, *BOUNDS, "--devices=H100", "--jobs=1")
    assert main(["mell-plan", *arguments, "--noprogress"]) == 0
    told = capsys.readouterr().out
    assert told.startswith(
        "1 requests are longer than the context of llama-8b, 131,072"
    )
    long.write_text(head + "0,140000,5\n")
    assert "every request of long is longer than the context" in refused(
        capsys, *arguments
    )


def test_a_trace_of_several_models_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "two.csv"
    head = "arrival_s,input_tokens,output_tokens,model\n"
    path.write_text(head + "0,500,5,chat\n1,500,5,chat\n")
    arguments = (f"--trace={path}", MODEL, *BOUNDS, "--devices=H100", "--jobs=1")
    assert main(["mell-plan", *arguments, "--noprogress"]) == 0
    capsys.readouterr()
    path.write_text(head + "0,500,5,chat\n1,500,5,code\n")
    told = refused(capsys, *arguments)
    assert "two has requests for chat, code: give a trace of one model" in told


def test_a_bound_that_no_device_reaches_is_told_with_the_least(
    trace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = refused(
        capsys,
        f"--trace={trace}",
        MODEL,
        "--slo_ttft_ms=1",
        "--slo_tpot_ms=100",
        "--devices=L4,H100",
        "--noprogress",
    )
    assert "--slo_ttft_ms=1 is below " in told
    assert "the least that any of these devices reaches (H100 x8)" in told


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "--trace is missing: a question has --trace, --model, --slo_ttft_ms"),
        (("--devices=H101",), "no device is called 'H101': there are H200, H100"),
        (("--prices=H100",), "--prices: 'H100' is not KIND:PRICE"),
        (("--prices=v5e:1",), "--prices has v5e, which is not asked for"),
        (("--model=llama-9b",), "--model=llama-9b: there is no such directory"),
        (("--model=llama-70b", "--devices=v5e"), "llama-70b takes 141 GB"),
        (("--attainment=2",), "attainment must be in (0, 1], got 2"),
        (("--slo_tpot_ms=-1",), "tpot_s must be > 0, got -0.001"),
        (("--bandwidth_share=0",), "bandwidth_share must be in (0, 1], got 0"),
        (("--policies=pinned_spread",), "--policies has 'pinned_spread', but must"),
        (("--baselines=consolidate",), "--baselines has 'consolidate', but must be"),
        (("--output_json=/nowhere/x.json",), "there is no such folder, make it"),
        (("--jobs=0",), "--jobs must be >= 1, got 0"),
        (("--trace=nothing.csv",), "there is no trace nothing.csv"),
        (("--profile=H100:nothing.json", "--devices=H100"), "nothing.json: No such"),
        (("--headroom=1", "--jobs=1"), "headroom must be in [0, 1), got 1.0"),
        (("--mix_tries=-1",), "--mix_tries=-1: -1 is not a non-negative integer"),
        (("words",), "takes flags only, got 'words'"),
        (("--cost=1",), "Unknown command line flag 'cost'"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(
    trace: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    message: str,
) -> None:
    whole = (f"--trace={trace}", MODEL, *BOUNDS, "--noprogress", *arguments)
    assert message in refused(capsys, *(whole if arguments else ()))


@pytest.mark.skipif(
    importlib.util.find_spec("matplotlib") is not None, reason="matplotlib is there"
)
def test_a_picture_without_matplotlib_says_what_to_install(
    trace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = refused(capsys, f"--trace={trace}", MODEL, *BOUNDS, "--plot=plan.svg")
    assert "pip install 'mell_jax[plot]'" in told


def test_help_has_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mell-plan", "--help"]) == 0
    told = capsys.readouterr().out
    for flag in ("trace", "slo_ttft_ms", "prices", "profile", "pay", "plot", "jobs"):
        assert f"--{flag}" in told or f"--[no]{flag}" in told


def test_an_interrupt_ends_it_at_once(tmp_path: Path) -> None:
    """Some seconds of search, of which Ctrl-C takes all but the first."""
    path = tmp_path / "trace.csv"
    lines = [f"{n / 10},2000,300\n" for n in range(20_000)]
    path.write_text("arrival_s,input_tokens,output_tokens\n" + "".join(lines))
    command = [sys.executable, "-m", "mell_jax.plan", f"--trace={path}", MODEL]
    with subprocess.Popen(
        [*command, *BOUNDS, "--slice_requests=20000", "--jobs=1"],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # as a shell does: Ctrl-C is for all of its processes
    ) as program:
        assert program.stderr is not None
        told = program.stderr.read(len("\rsimulating"))
        os.killpg(program.pid, signal.SIGINT)
        told += program.stderr.read()
        assert program.wait(timeout=60) == 130
    assert "simulating" in told  # the bar was there, so the search had begun
    assert told.rstrip().endswith("mell-plan: interrupted")
    assert "Traceback" not in told
