"""A step is over when all of its results are here, log probabilities too."""

from typing import Any

import pytest

from mell_jax.worker.device import Pending
from mell_jax.worker.sampling import TokenLogprobs


class Coming:
    """An array on its way."""

    def __init__(self) -> None:
        self.is_here = False

    def copy_to_host_async(self) -> None: ...

    def is_ready(self) -> bool:
        return self.is_here

    def block_until_ready(self) -> "Coming":
        self.is_here = True
        return self


def made(*arrays: Any) -> TokenLogprobs:
    return TokenLogprobs(*arrays)


@pytest.mark.parametrize("late", range(7))
def test_a_step_is_over_when_the_last_result_is_here(late: int) -> None:
    results: list[Any] = [Coming() for _ in range(7)]
    pending = Pending(
        results[0], logprobs=made(*results[1:4]), prompt={0: made(*results[4:])}
    )
    for index, result in enumerate(results):
        result.is_here = index != late
    assert not pending.is_ready
    pending.wait()
    assert pending.is_ready
    assert all(result.is_here for result in results)
