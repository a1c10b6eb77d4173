"""Every token once, in order, from the owner alone."""

import pytest

from mell_jax.scheduler.ids import CopyId
from mell_jax.scheduler.migration.stream import TokenStream


def opened() -> TokenStream:
    """Three tokens have come from copy 7."""
    stream = TokenStream()
    stream.fence(CopyId(7))
    stream.accept(CopyId(7), start=0, tokens=[10, 11, 12])
    return stream


def test_tokens_come_once_in_order() -> None:
    stream = opened()
    assert stream.accept(CopyId(7), start=1, tokens=[11, 12, 13]) == [13]
    assert stream.accept(CopyId(7), start=0, tokens=[10]) == []
    assert stream.count == 4


def test_a_gap_waits_until_it_is_filled() -> None:
    stream = opened()
    assert stream.accept(CopyId(7), start=4, tokens=[14]) == []
    assert stream.accept(CopyId(7), start=3, tokens=[13, 14]) == [13, 14]


def test_tokens_of_a_former_owner_are_refused() -> None:
    stream = opened()
    stream.fence(CopyId(9))
    assert stream.accept(CopyId(7), start=3, tokens=[666]) == []
    assert stream.accept(CopyId(9), start=3, tokens=[13]) == [13]


def test_tokens_of_a_later_owner_are_refused_until_it_owns_the_request() -> None:
    stream = opened()
    assert stream.accept(CopyId(9), start=3, tokens=[13]) == []
    stream.fence(CopyId(9))
    assert stream.accept(CopyId(9), start=3, tokens=[13]) == [13]


def test_a_fence_does_not_go_back() -> None:
    with pytest.raises(AssertionError, match="copy_id 5 after 7"):
        opened().fence(CopyId(5))
