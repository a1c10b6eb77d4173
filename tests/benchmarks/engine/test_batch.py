import pytest

from benchmarks.engine.batch import BatchRun, BatchStep, count_equal, speeds_of


def batch_run(*steps: tuple[float, tuple[int, ...]], batch: int = 2, **more):
    return BatchRun(
        batch=batch,
        prompt_tokens=100,
        steps=tuple(BatchStep(time_s=time_s, rows=rows) for time_s, rows in steps),
        **({"tokens": ()} | more),
    )


def test_speeds_of_a_batch_that_starts_and_ends_together():
    run = batch_run((1.0, (0, 1)), (1.5, (0, 1)), (2.0, (0, 1)))
    speeds = speeds_of(run)
    assert speeds.prefill == 200.0  # 2 x 100 tokens in a second
    assert speeds.decode == 4.0  # two steps of 2 tokens in a second
    assert speeds.overall == 3.0


def test_only_steps_of_all_sequences_count_for_decoding():
    run = batch_run(
        (1.0, (0,)),
        (2.0, (0, 1)),  # all have started
        (2.5, (0, 1)),
        (3.0, (0, 1)),
        (9.0, (1,)),  # the late one ends alone
    )
    speeds = speeds_of(run)
    assert speeds.prefill == 100.0
    assert speeds.decode == 4.0
    assert speeds.overall == pytest.approx(8 / 9)


def test_a_single_full_step_gives_no_decode_speed():
    assert speeds_of(batch_run((1.0, (0,)), (2.0, (0, 1)))).decode is None


def test_a_sequence_without_a_token_is_refused():
    with pytest.raises(ValueError, match=r"\[1\] got no token"):
        speeds_of(batch_run((1.0, (0,)), (2.0, (0,))))


def test_tokens_are_equal_up_to_the_first_that_differs():
    ours = batch_run(tokens=((1, 2, 3), (4, 5, 6)))
    theirs = batch_run(tokens=((1, 2, 3), (4, 9, 6)))
    assert count_equal(ours, theirs) == 4
