"""Salts that differ anywhere share no page, however much of them is alike."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mell_jax.scheduler.prefix_cache import DIGEST_BYTES, page_keys, root_key

TOKENS = np.arange(8, dtype=np.int32)


def first_key(salt: bytes) -> bytes:
    return page_keys(TOKENS, page_tokens=4, salt=salt)[0]


def test_names_of_customers_that_begin_alike_are_different_salts() -> None:
    names = [f"customer-{n}".encode() for n in range(100)]
    names += [b"x" * length for length in range(200)]
    names += [b"x" * 199 + b"y", b"y" + b"x" * 199]
    assert len({first_key(name) for name in names}) == len(names)
    assert len(root_key(b"customer-1")) == DIGEST_BYTES == 16


@given(st.binary(max_size=80), st.binary(max_size=80), st.binary(max_size=80))
def test_a_salt_counts_to_its_last_byte(front: bytes, one: bytes, two: bytes) -> None:
    alike = one == two
    assert (first_key(front + one) == first_key(front + two)) == alike
    assert (first_key(one + front) == first_key(two + front)) == alike
