import numpy as np


def prompts(*lengths: int) -> list[np.ndarray]:
    return [np.arange(1, length + 1, dtype=np.int32) for length in lengths]


def test_a_request_gets_as_many_tokens_as_asked_for(harness):
    first, second = harness.submit(prompts(5, 40), new_tokens=6)
    counts = {first: 0, second: 0}
    for frame in harness.run():
        for handle in frame.handles:
            counts[handle] += 1
    assert counts == {first: 6, second: 6}


def test_clearing_leaves_no_work_and_no_pages_in_use(harness):
    harness.submit(prompts(5, 40), new_tokens=50)
    next(iter(harness.run()))
    harness.clear()
    assert not harness.engine.has_work
    assert harness.engine.load().used_pages == 0


def test_replayed_steps_are_the_ones_that_the_engine_sent(harness):
    with harness.recording() as sent:
        harness.submit(prompts(5, 20), new_tokens=6)
        for _ in harness.run():
            pass
    assert len(sent) == 5  # the first token came with the prompt
    assert all(step.bucket.is_decode for step in sent)
    assert "dispatch" not in vars(harness.worker)
    before = [step.vector.copy() for step in sent]
    times_s = harness.replay(sent)
    assert len(times_s) == 4
    assert min(times_s) > 0.0
    for step, vector in zip(sent, before, strict=True):
        np.testing.assert_array_equal(step.vector, vector)


def test_a_replay_leaves_the_engine_as_good_as_before(harness):
    def answer() -> list[int]:
        harness.submit(prompts(7), new_tokens=5)
        return [token for frame in harness.run() for token in frame.tokens]

    with harness.recording() as sent:
        first = answer()
    harness.replay(sent)
    assert answer() == first
