import pytest

from mell_jax.bench.metrics import Record, gaps_s, measure, render, tpot_s, ttft_s


def record(*chunks: tuple[float, int], sent_s: float = 0.0, **more) -> Record:
    return Record(
        **({"input_tokens": 10, "due_s": sent_s, "sent_s": sent_s} | more),
        chunks=chunks,
    )


def test_a_request_of_three_chunks_done_by_hand():
    one = record((1.5, 1), (1.75, 1), (2.5, 1), sent_s=1.0)
    assert ttft_s(one) == 0.5
    assert gaps_s(one) == [0.25, 0.75]
    assert tpot_s(one) == 0.5  # (1.5 - 0.5) / 2


def test_a_chunk_of_several_tokens_ends_one_gap_but_counts_each_token():
    one = record((1.0, 1), (2.0, 4))
    assert gaps_s(one) == [1.0]
    assert tpot_s(one) == 0.25
    assert measure([one], duration_s=2.0).tokens_per_chunk == 2.5


def test_throughput_counts_successes_only():
    records = [
        record((1.0, 1), (2.0, 3)),
        record((4.0, 6), cached_tokens=4),
        record((1.0, 1), error="UNAVAILABLE: gone"),
    ]
    metrics = measure(records, duration_s=4.0)
    assert (metrics.completed, metrics.failed) == (2, 1)
    assert (metrics.total_input_tokens, metrics.total_output_tokens) == (20, 10)
    assert metrics.cached_input_tokens == 4
    assert metrics.request_throughput == 0.5
    assert metrics.output_throughput == 2.5
    assert metrics.total_token_throughput == 7.5
    assert metrics.errors == ("UNAVAILABLE: gone",)


def test_latencies_are_in_milliseconds():
    metrics = measure([record((0.25, 1), (0.5, 1))], duration_s=1.0)
    assert metrics.ttft_ms.mean == 250.0
    assert metrics.itl_ms.median == 250.0
    assert metrics.e2el_ms.p99 == 500.0


def test_a_single_token_has_no_time_per_output_token():
    metrics = measure([record((0.25, 1))], duration_s=1.0)
    assert metrics.tpot_ms.count == 0
    assert metrics.itl_ms.count == 0
    assert metrics.ttft_ms.count == 1


def test_the_worst_delay_between_due_and_sent_is_told():
    late = record((2.0, 1), sent_s=1.5, due_s=1.0)
    assert measure([late, record((1.0, 1))], duration_s=2.0).max_send_lag_ms == 500.0


def test_a_run_where_all_failed_has_no_latencies():
    metrics = measure([record(error="no")], duration_s=1.0)
    assert metrics.completed == 0
    assert metrics.tokens_per_chunk == 0.0
    assert "failed: no" in render(metrics)


@pytest.mark.parametrize("duration_s", [0.0, -1.0, float("nan")])
def test_a_run_that_took_no_time_is_refused(duration_s):
    with pytest.raises(ValueError, match="duration_s must be positive"):
        measure([], duration_s=duration_s)


def test_the_table_has_the_lines_that_vllm_users_look_for():
    text = render(measure([record((0.25, 1), (0.5, 1))], duration_s=1.0))
    for expected in (
        "Successful requests:                             1",
        "Benchmark duration (s):                      1.000",
        "Total input tokens:                             10",
        "Total generated tokens:                          2",
        "Request throughput (req/s):                  1.000",
        "Output token throughput (tok/s):             2.000",
        "Total token throughput (tok/s):              12.00",
        "Mean TTFT (ms):                             250.00",
        "Median TPOT (ms):                           250.00",
        "P99 ITL (ms):                               250.00",
        "P99 E2EL (ms):                              500.00",
    ):
        assert expected in text.splitlines()
