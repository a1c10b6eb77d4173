"""The suite about hosts: its figures by hand, and one short run of real processes."""

import json
from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.hosts.clients import Noted
from benchmarks.hosts.recovery import RecoveryFigures, render_recovery
from benchmarks.hosts.tokens import TokensFigures, render_tokens


def test_the_first_message_after_a_moment_is_found() -> None:
    noted = Noted(at_s=[1.0, 2.0, 3.5])
    assert noted.next_after(0.5) == 1.0
    assert noted.next_after(2.0) == 3.5
    assert noted.next_after(3.5) is None
    assert noted.silence_s(1.5, 1.7) == 1.0
    assert noted.silence_s(1.5, 2.5) == 1.5
    assert noted.silence_s(4.0, 5.0) == 0.0


def test_figures_are_told_as_medians() -> None:
    tokens = TokensFigures(
        streams=8,
        fleet_tokens_per_s=(90.0, 100.0, 300.0),
        separate_tokens_per_s=(100.0, 100.0, 200.0),
        ratios=(0.9, 1.0, 1.5),
        ratio=1.0,
        fleet_cpu_ms=2.5,
        separate_cpu_ms=2.0,
    )
    assert "8 streams, medians of 3 turns" in render_tokens(tokens)
    assert [line.split()[-1] for line in render_tokens(tokens).splitlines()[1:]] == [
        "100.00",
        "100.00",
        "1.000",
        "2.500",
        "2.000",
    ]
    recovery = RecoveryFigures(
        streams=9,
        lost=3,
        recovery_s=(1.0, 1.5, 4.0),
        waits_s=((0.3, 1.0), (0.3, 1.5), (0.3, 4.0)),
        prefill_s=(0.25, 0.5, 0.5),
        beyond_prefill_s=1.0,
    )
    lines = render_recovery(recovery).splitlines()
    assert lines[0].startswith("kill -9 of one of 3 hosts with 9 streams")
    assert [line.split()[-1] for line in lines[1:]] == [
        "1.500",
        "0.500",
        "1.000",
        "4.000",
    ]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_short_run_goes_from_flags_to_json(tmp_path: Path) -> None:
    path = tmp_path / "hosts.json"
    flags = ["--model=demo", "--batch_sizes=6", "--seconds=1", "--repeats=1"]
    parts = "--hosts_parts=tokens,recovery"
    out = ["--noprogress", f"--output_json={path}"]
    assert main(["benchmarks", "--suite=hosts", parts, *flags, *out]) == 0
    results = json.loads(path.read_text())["results"]
    assert results.keys() == {"tokens", "recovery"}
    tokens, recovery = results["tokens"], results["recovery"]
    assert tokens["fleet_tokens_per_s"][0] > 0 < tokens["separate_tokens_per_s"][0]
    assert tokens["ratio"] == tokens["ratios"][0]
    assert recovery["recovery_s"][0] == max(recovery["waits_s"][0])
    assert recovery["lost"] == 2
