import json
import time
from types import SimpleNamespace

import pytest

from benchmarks.__main__ import main
from benchmarks.service.cancels import match
from benchmarks.service.engine_server import AbortLog, dump_config, load_config
from benchmarks.service.metronome import CLOCK_US
from benchmarks.service.streams import ServiceResult, StreamTally, render
from benchmarks.service.suite import ServiceSettings
from mell_jax.bench.stats import summarize
from mell_jax.engine.config import EngineConfig
from mell_jax.engine.frames import Abort, Handle
from mell_jax.engine.params import SamplingParams
from mell_jax.engine.thread import EngineThread
from mell_jax.worker.compilation import CompilationCounter
from tests.toy import submit, toy_engine


def result(streams: int, *, step_ms: float) -> ServiceResult:
    return ServiceResult(
        streams=streams,
        messages_per_s=50.0,
        tokens_per_message=1.0,
        cpu_us_per_message=40.0,
        bare_cpu_us_per_message=30.0,
        late_ms=summarize([1.0, 3.0]),
        step_ms=step_ms,
        step_cpu_ms=1.0,
    )


def test_steps_are_told_as_multiples_of_the_first_row():
    first, second = render([result(1, step_ms=2.0), result(9, step_ms=3.0)]).split(
        "\n"
    )[1:]
    assert first.split()[8] == "1.000"
    assert second.split()[8] == "1.500"


def test_a_token_is_as_late_as_its_time_says_also_when_the_clock_wraps():
    tally = StreamTally()
    tally.see([0])
    assert (tally.messages, tally.late_ms) == (0, [])  # it does not count yet
    tally.is_counting = True
    tally.see([])
    now_us = int(1e6 * time.monotonic())
    tally.see([(now_us - 5000) % CLOCK_US, (now_us - 2**29) % CLOCK_US])
    assert tally.messages == 1
    assert 5.0 <= tally.late_ms[0] < 1000.0
    assert 2**29 * 1e-3 <= tally.late_ms[1] < 2**29 * 1e-3 + 1000.0


def test_an_abort_takes_the_steps_that_end_before_its_pages_are_free():
    engine = toy_engine()
    thread = EngineThread(engine, compilations=CompilationCounter())
    log = AbortLog(SimpleNamespace(engine=engine, thread=thread))
    for handle in (1, 2, 3):
        params = SamplingParams(temperature=0.0, max_tokens=50)
        submit(engine, range(1, 20), handle=handle, params=params)
    engine.step()
    for handle in (1, 2, 9):  # 9 is nobody's
        thread.send(Abort(handles=(Handle(handle),)))
    engine.abort(Abort(handles=(Handle(1),)))
    engine.step()
    engine.abort(Abort(handles=(Handle(2), Handle(9))))
    engine.abort(Abort(handles=(Handle(2),)))  # once more
    assert [each.steps for each in log.freed] == [0, 1]
    assert all(each.pages >= 1 and each.waited_ms > 0.0 for each in log.freed)
    assert log.freed[0].at_s < log.freed[1].at_s


def test_what_is_freed_belongs_to_the_client_that_left_before():
    freed = [{"at_s": 0.5}, {"at_s": 1.2}, {"at_s": 1.3}, {"at_s": 2.1}]
    assert match([1.0, 2.0], freed=freed) == [{"at_s": 1.2}, {"at_s": 2.1}]
    with pytest.raises(RuntimeError, match="heard of 1 of 3 cancels"):
        match([1.0, 1.4, 2.0], freed=freed)


def test_an_engine_s_configuration_survives_the_way_to_its_process():
    config = EngineConfig(
        max_rows=3, device_ids=(1,), decode_rows=(1, 3), compilation_cache_dir="/c"
    )
    assert load_config(dump_config(config)) == config
    assert load_config(dump_config(EngineConfig())) == EngineConfig()


@pytest.mark.parametrize(
    "bad",
    [
        {"parts": ("streams", "storm")},
        {"churn_minutes": -1.0},
        {"churn_minutes": float("nan")},
        {"seconds": 0.0},
        {"streams": ()},
        {"frontends": 65},
    ],
)
def test_settings_out_of_range_are_refused(bad):
    with pytest.raises(ValueError, match=r"must be"):
        ServiceSettings(**bad)


@pytest.mark.slow
@pytest.mark.parametrize("frontends", [0, 1])
def test_the_service_is_measured(tmp_path, frontends):
    path = tmp_path / "out.json"
    flags = ["--suite=service", "--batch_sizes=1,8", "--seconds=0.5", "--noprogress"]
    flags.append("--service_parts=streams")
    flags.append(f"--frontends={frontends}")
    assert main(["benchmarks", *flags, f"--output_json={path}"]) == 0
    rows = json.loads(path.read_text())["results"]["streams"]
    assert [row["streams"] for row in rows] == [1, 8]
    for row in rows:
        assert row["cpu_us_per_message"] < 50_000  # ticks are coarse: it may be 0
        assert row["late_ms"]["median"] > 0.0
        assert row["step_ms"] >= row["step_cpu_ms"] > 0.0


@pytest.mark.slow
@pytest.mark.parametrize("frontends", [0, 1])
def test_refusals_cancels_and_churn_are_measured(tmp_path, frontends):
    path = tmp_path / "out.json"
    flags = [
        *("--suite=service", "--service_parts=flood,cancels", "--model=random:tiny"),
        *("--seconds=1.5", "--churn_minutes=0.1", "--noprogress"),
        *("--max_rows=16", "--token_budget=32", "--max_model_len=128"),
        *(f"--frontends={frontends}", f"--output_json={path}"),
        f"--compilation_cache_dir={tmp_path}",
    ]
    assert main(["benchmarks", *flags]) == 0
    results = json.loads(path.read_text())["results"]
    assert list(results) == ["flood", "cancels", "churn"]
    flood, cancels, churn = results.values()
    assert (flood["capacity"], flood["refused"]) == (64, 576)
    assert 0.0 < flood["in_turn_ms"]["median"] <= flood["at_once_ms"]["max"]
    assert flood["late_ms"]["count"] > 0
    assert cancels["cancels"] == cancels["steps"]["count"] > 10
    assert cancels["steps"]["max"] <= 1
    assert cancels["heard_ms"]["max"] <= cancels["left_ms"]["max"]
    assert (cancels["used_pages"], churn["used_pages"]) == (0, 0)
    assert (churn["open_requests"], churn["requests"] > 50) == (0, True)
    assert min(*churn["front_mb"], *churn["engine_mb"]) > 10.0
