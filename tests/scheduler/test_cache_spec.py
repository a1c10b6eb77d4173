"""What sequences hold: it only grows, and is enough for what a step sees."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mell_jax.scheduler.cache_spec import MIN_CHUNK_TOKENS, CacheSpec, PageGroup

windows = st.lists(st.none() | st.integers(1, 5000), min_size=1, max_size=5)
specs = st.builds(
    CacheSpec.of_windows,
    windows,
    page_tokens=st.sampled_from([1, 4, 16]),
    most_chunk_tokens=st.integers(1, 4096),
)


@given(spec=specs, pages=st.integers(0, 10_000))
def test_what_is_held_never_shrinks_and_is_at_most_everything(
    spec: CacheSpec, pages: int
) -> None:
    held = spec.held(pages)
    assert held <= spec.held(pages + 1) <= held + spec.num_groups
    assert held <= pages * spec.num_groups


@given(spec=specs, pages=st.integers(0, 3000), most=st.integers(0, 3000))
def test_what_is_held_reaches_as_far_as_it_can(
    spec: CacheSpec, pages: int, most: int
) -> None:
    held = spec.held(pages)
    reach = spec.reach(held, most=most)
    assert reach <= most
    assert spec.held(reach) <= held
    assert reach == most or spec.held(reach + 1) > held


@given(spec=specs, start=st.integers(0, 50_000), data=st.data())
def test_a_ring_has_room_for_what_any_step_sees(
    spec: CacheSpec, start: int, data: st.DataObject
) -> None:
    most = spec.chunk_tokens or 100
    end = start + data.draw(st.integers(1, most))
    for group, each in enumerate(spec.groups):
        if each.ring is not None:
            seen = spec.pages(end) - spec.first_seen(group, position=start)
            assert seen <= each.ring


def test_a_model_without_windows_keeps_everything_and_bounds_no_chunk() -> None:
    spec = CacheSpec.of_windows([None], most_chunk_tokens=512)
    assert spec.is_plain
    assert spec.chunk_tokens is None
    assert (spec.held_by(100), spec.reach(7, most=100)) == (7, 7)
    assert spec.first_seen(0, position=1000) == 0


def test_a_group_with_a_window_holds_its_ring() -> None:
    spec = CacheSpec.of_windows([None, 1024], most_chunk_tokens=2048)
    assert spec.chunk_tokens == 1024
    assert spec.groups[1] == PageGroup(window=1024, ring=129)
    assert spec.held_by(16 * 1000) == 1000 + 129
    assert spec.first_seen(1, position=2000) == 977 // 16
    small = CacheSpec.of_windows([16], most_chunk_tokens=2048)
    assert small.chunk_tokens == MIN_CHUNK_TOKENS


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        ({"window": 5}, "a window needs a ring"),
        ({"ring": 5}, "a ring a window"),
        ({"window": 0, "ring": 2}, "window must be >= 1"),
        ({"window": 1, "ring": 1}, "ring must be >= 2"),
    ],
)
def test_a_group_that_cannot_be_is_refused(
    given_: dict[str, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        PageGroup(**given_)
