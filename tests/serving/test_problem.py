"""What callers are told of a failure, whatever they have said themselves."""

import base64
from urllib.parse import quote

import pytest

from mell_jax.engine.params import InvalidRequestError
from mell_jax.serving.problem import problem_of
from mell_jax.serving.status import status_of

SAFE_METADATA_BYTES = 8 * 1024  # gRPC's clients refuse some of what is longer


@pytest.mark.parametrize(
    "said", ["x" * 60_000, "\U0001f600" * 15_000, "é" * 60_000, "\n" * 60_000]
)
def test_no_message_is_longer_than_metadata_may_be(said: str) -> None:
    status = status_of(InvalidRequestError("prompt", said))
    assert 900 < len(status.message.encode()) <= 1000
    assert status.message.startswith(f"prompt {said[:9]}")
    on_the_wire = quote(status.message) + base64.b64encode(
        status.SerializeToString()
    ).decode("ascii")
    assert len(on_the_wire) < SAFE_METADATA_BYTES


def test_a_message_is_cut_between_letters() -> None:
    message = problem_of(InvalidRequestError("prompt", "\U0001f600" * 300)).message
    assert message == "prompt " + "\U0001f600" * 248


def test_an_unpaired_surrogate_breaks_no_message() -> None:
    status = status_of(InvalidRequestError("prompt", "has \ud800"))
    assert status.message == "prompt has ?"
