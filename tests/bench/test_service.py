import json
import time

import pytest

from mell_jax.bench.main import main
from mell_jax.bench.metronome import CLOCK_US
from mell_jax.bench.service import ServiceResult, Tally, render
from mell_jax.bench.stats import summarize


def result(streams: int, *, step_ms: float) -> ServiceResult:
    return ServiceResult(
        streams=streams,
        messages_per_s=50.0,
        tokens_per_message=1.0,
        cpu_us_per_message=40.0,
        late_ms=summarize([1.0, 3.0]),
        step_ms=step_ms,
        step_cpu_ms=1.0,
    )


def test_steps_are_told_as_multiples_of_the_first_row():
    first, second = render([result(1, step_ms=2.0), result(9, step_ms=3.0)]).split(
        "\n"
    )[1:]
    assert first.split()[7] == "1.000"
    assert second.split()[7] == "1.500"


def test_a_token_is_as_late_as_its_time_says_also_when_the_clock_wraps():
    tally = Tally()
    tally.see([0])
    assert (tally.messages, tally.late_ms) == (0, [])  # it does not count yet
    tally.is_counting = True
    tally.see([])
    now_us = int(1e6 * time.monotonic())
    tally.see([(now_us - 5000) % CLOCK_US, (now_us - 2**29) % CLOCK_US])
    assert tally.messages == 1
    assert 5.0 <= tally.late_ms[0] < 1000.0
    assert 2**29 * 1e-3 <= tally.late_ms[1] < 2**29 * 1e-3 + 1000.0


@pytest.mark.slow
@pytest.mark.parametrize("frontends", [0, 1])
def test_the_service_is_measured(tmp_path, frontends):
    path = tmp_path / "out.json"
    flags = ["--suite=service", "--batch_sizes=1,8", "--seconds=0.5", "--noprogress"]
    flags.append(f"--frontends={frontends}")
    assert main(["mell-bench", *flags, f"--output_json={path}"]) == 0
    rows = json.loads(path.read_text())["results"]["streams"]
    assert [row["streams"] for row in rows] == [1, 8]
    for row in rows:
        assert row["cpu_us_per_message"] >= 0.0
        assert row["late_ms"]["median"] > 0.0
        assert row["step_ms"] >= row["step_cpu_ms"] > 0.0
