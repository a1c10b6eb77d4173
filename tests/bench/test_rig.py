import numpy as np
import pytest

from mell_jax.bench.rig import NEWEST_TOKEN, bare_vector
from mell_jax.worker.layout import Bucket, part_shapes


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


def test_bare_steps_give_a_time_each(rig):
    times = rig.time_bare_steps(5, rows=3, length=40)
    assert len(times) == 5
    assert min(times) > 0.0


def test_bare_steps_need_room_for_their_rows(rig):
    with pytest.raises(ValueError, match="need 401 pages"):
        rig.time_bare_steps(1, rows=4, length=1600)


def test_a_bare_step_decodes_every_row_on_its_own_pages():
    bucket = Bucket(tokens=4, rows=4, pages=3, is_decode=True)
    vector = bare_vector(bucket, rows=2, length=20, page_tokens=16)
    parts, start = {}, 0
    for name, shape in part_shapes(bucket)._asdict().items():
        end = start + int(np.prod(shape))
        parts[name] = vector[start:end].reshape(shape).tolist()
        start = end
    assert parts["token_ids"] == [NEWEST_TOKEN] * 4
    assert parts["positions"] == [19, 19, 0, 0]
    assert parts["owners"] == [0, 1, 4, 4]
    assert parts["kv_lens"] == [20, 20, 0, 0]
    assert parts["cu_q_lens"] == [0, 1, 2, 2, 2]
    assert parts["page_table"] == [[1, 2, 0], [3, 4, 0], [0, 0, 0], [0, 0, 0]]
