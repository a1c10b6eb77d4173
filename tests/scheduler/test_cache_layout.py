"""Layers in groups: published shapes, and what is true of any shape."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mell_jax.scheduler.cache_layout import MAX_GROUPS, CacheLayout, lay_out

PAGE_TOKENS = 16


def every(turn: int, layers: int, *, window: int) -> list[int | None]:
    """Layers with a window but for each `turn`-th, which sees everything."""
    return [window if (at + 1) % turn else None for at in range(layers)]


def held_layers(layout: CacheLayout, *, context: int) -> int:
    """Pages of one layer that a sequence of the full context takes."""
    spec = layout.spec(page_tokens=PAGE_TOKENS, token_budget=context)
    return spec.held_by(context) * layout.layers_per_page


@pytest.mark.parametrize(
    ("windows", "context", "layers_per_page", "groups"),
    [
        # Gemma 3 1B, 4B and 27B: 4, 5 and 10 layers see everything
        (every(6, 26, window=512), 32768, 4, (None, *[512] * 6)),
        (every(6, 34, window=1024), 131072, 5, (None, *[1024] * 6)),
        (every(6, 62, window=1024), 131072, 10, (None, *[1024] * 6)),
        # GPT-OSS 20B: 12 and 12
        ([128, None] * 12, 131072, 12, (None, 128)),
        # Command R7B: 8 and 24
        (every(4, 32, window=4096), 132096, 8, (None, 4096, 4096, 4096)),
        # Mistral 7B v0.1
        ([4096] * 32, 32768, 32, (4096,)),
        # Llama: every layer sees everything
        ([None] * 32, 131072, 32, (None,)),
        # three kinds, the widest first
        ([128, None, 1024] * 4, 8192, 4, (None, 1024, 128)),
    ],
)
def test_layers_of_published_models_are_grouped(
    windows: list[int | None],
    context: int,
    layers_per_page: int,
    groups: tuple[int | None, ...],
) -> None:
    layout = lay_out(windows, context=context)
    assert (layout.layers_per_page, layout.windows) == (layers_per_page, groups)


def test_layers_go_to_their_groups_in_order() -> None:
    layout = lay_out(every(4, 8, window=512), context=32768)
    assert layout.windows == (None, 512, 512, 512)
    assert layout.places == (
        *((1, 0), (1, 1), (2, 0), (0, 0)),
        *((2, 1), (3, 0), (3, 1), (0, 1)),
    )


@pytest.mark.parametrize("window", [4096, 9000])
def test_a_window_as_long_as_the_context_sees_everything(window: int) -> None:
    layout = lay_out([window, None] * 13, context=4096)
    assert layout.windows == (None,)
    assert layout.places == tuple((0, layer) for layer in range(26))


def test_windows_that_save_too_little_leave_one_group() -> None:
    # a ring of 4096 - 1 + 4096 tokens in a context of 8192
    assert lay_out([4096, None] * 13, context=8192).windows == (None,)


def test_a_long_sequence_of_gemma_3_27b_holds_less_than_a_fifth() -> None:
    layout = lay_out(every(6, 62, window=1024), context=131072)
    # 8192 pages of the group that sees all, 129 of each of six others, by 10 layers
    assert held_layers(layout, context=131072) == (8192 + 6 * 129) * 10
    assert (8192 + 6 * 129) * 10 / (8192 * 62) < 0.18


@pytest.mark.parametrize(
    ("windows", "context", "rule"),
    [
        ([], 100, "at least one layer"),
        ([None, 0], 100, "the window of layer 1 must be >= 1 token, got 0"),
        ([None], 0, "the context must be >= 1 token, got 0"),
    ],
)
def test_what_is_no_model_is_refused(
    windows: list[int | None], context: int, rule: str
) -> None:
    with pytest.raises(ValueError, match=rule):
        lay_out(windows, context=context)


WINDOWS = st.lists(
    st.sampled_from([None, 1, 2, 100, 128, 512, 1024]), min_size=1, max_size=90
)


@given(windows=WINDOWS, context=st.integers(1, 20_000))
def test_every_layer_has_a_place_of_its_own_in_a_group_of_its_window(
    windows: list[int | None], context: int
) -> None:
    layout = lay_out(windows, context=context)
    assert len(layout.places) == len(windows)
    assert len(set(layout.places)) == len(windows)
    assert len(layout.windows) <= MAX_GROUPS
    for window, (group, index) in zip(windows, layout.places, strict=True):
        assert 0 <= index < layout.layers_per_page
        sees_all = window is None or window >= context
        if len(layout.windows) > 1:
            assert layout.windows[group] == (None if sees_all else window)
        else:  # one group keeps what the widest needs
            kept = layout.windows[0]
            assert kept is None or (window is not None and window <= kept)


@given(windows=WINDOWS, context=st.integers(1, 20_000))
def test_groups_never_take_more_memory_than_one_alone(
    windows: list[int | None], context: int
) -> None:
    layout = lay_out(windows, context=context)
    alone = len(windows) * -(-context // PAGE_TOKENS)
    assert held_layers(layout, context=context) <= alone
