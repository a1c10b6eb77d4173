import asyncio
import json
import math
from dataclasses import replace

import pytest

from mell_jax.bench.main import main
from mell_jax.bench.serving import ServingSettings, choose_shapes, run_serving
from mell_jax.bench.workload import WorkloadError
from mell_jax.engine.config import EngineConfig
from tests.serving.fake_engine import write_letters_tokenizer
from tests.serving.harness import run, serving

SETTINGS = ServingSettings(engine=EngineConfig())


@pytest.fixture
def trace(tmp_path):
    path = tmp_path / "trace.csv"
    path.write_text(
        "arrival_s,input_tokens,output_tokens,model\n"
        "3,100,20,a\n5,30,10,b\n9,600,400,a\n"
    )
    return path


def test_what_does_not_fit_the_context_is_left_out_and_counted(trace):
    shapes, left_out = choose_shapes(replace(SETTINGS, trace=trace), context=200)
    assert [(s.input_tokens, s.arrival_s) for s in shapes] == [(100, 0.0), (30, 2.0)]
    assert left_out == 1


def test_lengths_scale_to_the_context_by_themselves(trace):
    settings = replace(SETTINGS, trace=trace, length_scale=None)
    shapes, left_out = choose_shapes(settings, context=200)
    assert [s.input_tokens for s in shapes] == [20, 6, 120]
    assert left_out == 0


def test_one_model_of_a_trace_can_be_chosen(trace):
    settings = replace(SETTINGS, trace=trace, trace_model="b")
    shapes, _ = choose_shapes(settings, context=200)
    assert [(s.input_tokens, s.arrival_s) for s in shapes] == [(30, 0.0)]


def test_an_infinite_rate_sends_a_trace_at_once(trace):
    settings = replace(SETTINGS, trace=trace, request_rate=math.inf)
    shapes, _ = choose_shapes(settings, context=2000)
    assert [s.arrival_s for s in shapes] == [0.0, 0.0, 0.0]


def test_a_rate_replaces_the_arrivals_of_a_trace(trace):
    settings = replace(SETTINGS, trace=trace, request_rate=1000.0)
    shapes, _ = choose_shapes(settings, context=2000)
    assert 0.0 < shapes[-1].arrival_s < 1.0


def test_a_trace_with_nothing_to_send_is_refused(trace):
    with pytest.raises(WorkloadError, match="no request to send"):
        choose_shapes(replace(SETTINGS, trace=trace, trace_model="c"), context=200)
    with pytest.raises(WorkloadError, match="no request fits the context of 20"):
        choose_shapes(replace(SETTINGS, trace=trace), context=20)


@pytest.mark.parametrize(
    "wrong",
    [
        {"num_requests": 0},
        {"max_concurrency": 0},
        {"request_rate": 0.0},
        {"length_scale": float("nan")},
        {"time_scale": -1.0},
        {"time_scale": math.inf},
    ],
)
def test_settings_out_of_range_are_refused_by_name(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ServingSettings(engine=EngineConfig(), **wrong)


def test_a_server_is_measured_over_grpc(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("the quick brown fox")
    tokenizer = write_letters_tokenizer(tmp_path)

    async def scenario() -> None:
        async with serving() as harness:
            settings = ServingSettings(
                engine=EngineConfig(),
                address=harness.address,
                num_requests=6,
                input_tokens=5,
                output_tokens=4,
                max_concurrency=3,
            )
            for chosen in (settings, replace(settings, text=text, tokenizer=tokenizer)):
                report = await asyncio.to_thread(run_serving, chosen, progress=False)
                assert report.results["completed"] == 6
                assert report.results["failed"] == 0
                assert report.results["model"] == "letters"
                assert "Output token throughput" in report.text
            await harness.idle()

    run(scenario)


@pytest.mark.slow
def test_an_engine_in_this_process_is_measured_and_written(
    tiny_directory, tmp_path, capsys
):
    path = tmp_path / "out.json"
    status = main(
        [
            "mell-bench",
            f"--model={tiny_directory}",
            "--num_requests=5",
            "--input_tokens=20",
            "--output_tokens=6",
            "--request_rate=500",
            "--max_rows=4",
            "--token_budget=32",
            "--noprogress",
            f"--output_json={path}",
        ]
    )
    assert status == 0
    assert (
        "Successful requests:                             5" in capsys.readouterr().out
    )
    document = json.loads(path.read_text())
    assert document["suite"] == "serving"
    assert document["settings"]["request_rate"] == 500.0
    assert document["machine"]["versions"]["jax"]
    assert len(document["machine"]["load_average"]) == 3
    assert document["results"]["completed"] == 5
    assert len(document["results"]["requests"]) == 5
