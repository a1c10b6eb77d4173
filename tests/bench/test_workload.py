import gzip

import numpy as np
import pytest

from mell_jax.bench import workload
from mell_jax.bench.workload import LoadShape, WorkloadError


def shape(input_tokens: int, output_tokens: int, **more) -> LoadShape:
    return LoadShape(input_tokens=input_tokens, output_tokens=output_tokens, **more)


def test_pairs_of_lengths_are_read(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_text("input_tokens,output_tokens\n5,7\n100,1\n")
    assert workload.read_trace(path) == [shape(5, 7), shape(100, 1)]


def test_a_zipped_trace_with_arrivals_and_models_is_read(tmp_path):
    path = tmp_path / "trace.csv.gz"
    lines = b"arrival_s,input_tokens,output_tokens,model\n0,389,55,conv\n.3,1317,0,code"
    path.write_bytes(gzip.compress(lines))
    assert workload.read_trace(path) == [
        shape(389, 55, arrival_s=0.0, model="conv"),
        shape(1317, 1, arrival_s=0.3, model="code"),  # nothing generated: one token
    ]


def test_a_missing_trace_is_refused(tmp_path):
    with pytest.raises(WorkloadError, match="cannot be read"):
        workload.read_trace(tmp_path / "nowhere.csv")


def test_a_file_that_is_not_zipped_is_refused(tmp_path):
    path = tmp_path / "trace.csv.gz"
    path.write_text("input_tokens,output_tokens\n")
    with pytest.raises(WorkloadError, match="cannot be read"):
        workload.read_trace(path)


def test_a_trace_without_the_columns_is_refused_with_what_it_has(tmp_path):
    path = tmp_path / "trace.csv"
    path.write_text("in,out\n1,2\n")
    with pytest.raises(WorkloadError, match=r"must name the columns.*'in', 'out'"):
        workload.read_trace(path)


@pytest.mark.parametrize("row", ["1,x", "1", "0,5", "3,-1"])
def test_a_damaged_row_is_refused_by_its_line(tmp_path, row):
    path = tmp_path / "trace.csv"
    path.write_text(f"input_tokens,output_tokens\n1,2\n{row}\n")
    with pytest.raises(WorkloadError, match=r"trace\.csv:3"):
        workload.read_trace(path)


def test_drawn_lengths_have_the_medians_asked_for_and_fit_the_context():
    shapes = workload.draw_shapes(
        2001, input_tokens=200, output_tokens=50, context=600, seed=1
    )
    inputs = sorted(one.input_tokens for one in shapes)
    outputs = sorted(one.output_tokens for one in shapes)
    assert 185 <= inputs[1000] <= 215
    assert 45 <= outputs[1000] <= 55
    assert inputs[-1] == 300
    assert inputs[0] >= 1
    assert workload.keep_fitting(shapes, context=600) == shapes


def test_the_same_seed_draws_the_same_lengths():
    def draw(seed: int) -> list[LoadShape]:
        return workload.draw_shapes(
            5, input_tokens=9, output_tokens=9, context=99, seed=seed
        )

    assert draw(3) == draw(3)
    assert draw(3) != draw(4)


def test_lengths_are_scaled_and_never_vanish():
    shapes = workload.scale_lengths([shape(1000, 3), shape(15, 200)], factor=0.1)
    assert shapes == [shape(100, 1), shape(2, 20)]


def test_the_automatic_scale_fits_99_of_100_requests():
    shapes = [shape(100, 100)] * 99 + [shape(1_000_000, 1)]
    factor = workload.auto_factor(shapes, context=50)
    assert factor == 0.25
    scaled = workload.scale_lengths(shapes, factor=factor)
    assert len(workload.keep_fitting(scaled, context=50)) == 99


def test_the_automatic_scale_never_makes_requests_longer():
    assert workload.auto_factor([shape(1, 1)], context=500) == 1.0


def test_poisson_arrivals_start_at_zero_and_keep_their_rate():
    shapes = workload.poisson_arrivals([shape(1, 1)] * 1001, requests_per_s=4.0, seed=0)
    times = [one.arrival_s for one in shapes]
    assert times[0] == 0.0
    assert times == sorted(times)
    assert times[-1] == pytest.approx(250, rel=0.1)


def test_arrivals_of_a_trace_start_at_zero_and_are_scaled_and_sorted():
    shapes = [shape(1, 1, arrival_s=14.0), shape(2, 2, arrival_s=10.0)]
    assert workload.trace_arrivals(shapes, time_scale=0.5) == [
        shape(2, 2, arrival_s=0.0),
        shape(1, 1, arrival_s=2.0),
    ]


def test_without_arrivals_all_come_at_once_and_in_order():
    shapes = workload.trace_arrivals([shape(2, 2), shape(1, 1)], time_scale=1.0)
    assert shapes == [shape(2, 2, arrival_s=0.0), shape(1, 1, arrival_s=0.0)]


def test_random_prompts_have_their_lengths_and_avoid_the_end_of_sequence():
    prompts = workload.random_prompts(
        [shape(300, 1), shape(1, 1)], vocab_size=5, avoid=[0, 3], seed=0
    )
    assert [len(prompt) for prompt in prompts] == [300, 1]
    assert set(prompts[0].tolist()) == {1, 2, 4}
    assert prompts[0].dtype == np.int32


def test_prompts_from_a_text_are_runs_of_it_that_go_round():
    (prompt,) = workload.text_prompts([shape(7, 1)], ids=[10, 11, 12], seed=0)
    start = prompt[0] - 10
    assert prompt.tolist() == [10 + (start + i) % 3 for i in range(7)]


def test_an_empty_text_makes_no_prompts():
    with pytest.raises(WorkloadError, match="no token"):
        workload.text_prompts([shape(1, 1)], ids=[], seed=0)


def test_a_wave_of_arrivals_rises_and_falls_around_its_rate():
    shapes = [LoadShape(input_tokens=1, output_tokens=1)] * 4000
    times = [
        shape.arrival_s
        for shape in workload.wave_arrivals(
            shapes, requests_per_s=10.0, period_s=20.0, seed=0
        )
    ]
    assert times[0] == 0.0
    assert times == sorted(times)
    assert 370.0 < times[-1] < 430.0
    rising = sum(time % 20.0 < 10.0 for time in times)
    assert 0.68 < rising / 4000 < 0.76  # 1/2 + 0.7/pi
