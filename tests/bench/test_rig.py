import numpy as np


def prompts(*lengths: int) -> list[np.ndarray]:
    return [np.arange(1, length + 1, dtype=np.int32) for length in lengths]


def test_a_request_gets_as_many_tokens_as_asked_for(rig):
    first, second = rig.submit(prompts(5, 40), new_tokens=6)
    counts = {first: 0, second: 0}
    for frame in rig.run():
        for handle in frame.handles:
            counts[handle] += 1
    assert counts == {first: 6, second: 6}


def test_clearing_leaves_no_work_and_no_pages_in_use(rig):
    rig.submit(prompts(5, 40), new_tokens=50)
    next(iter(rig.run()))
    rig.clear()
    assert not rig.engine.has_work
    assert rig.engine.load().used_pages == 0


def test_replayed_steps_are_the_ones_that_the_engine_sent(rig):
    with rig.recording() as sent:
        rig.submit(prompts(5, 20), new_tokens=6)
        for _ in rig.run():
            pass
    assert len(sent) == 5  # the first token came with the prompt
    assert all(step.bucket.is_decode for step in sent)
    assert "dispatch" not in vars(rig.worker)
    before = [step.vector.copy() for step in sent]
    times_s = rig.replay(sent)
    assert len(times_s) == 4
    assert min(times_s) > 0.0
    for step, vector in zip(sent, before, strict=True):
        np.testing.assert_array_equal(step.vector, vector)


def test_a_replay_leaves_the_engine_as_good_as_before(rig):
    def answer() -> list[int]:
        rig.submit(prompts(7), new_tokens=5)
        return [token for frame in rig.run() for token in frame.tokens]

    with rig.recording() as sent:
        first = answer()
    rig.replay(sent)
    assert answer() == first
