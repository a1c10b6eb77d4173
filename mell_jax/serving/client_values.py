"""Clients of every protocol send these values; each protocol reads them alike."""

import re
from collections.abc import Mapping

from mell_jax.engine.params import InvalidRequestError

_REQUEST_ID = re.compile(r"[!-~]{0,256}")  # printable, without space


def checked_request_id(request_id: str) -> str:
    """Returns the caller's name for a request, perhaps empty, as it is.

    Raises:
      InvalidRequestError: it is too long or not printable.
    """
    if not _REQUEST_ID.fullmatch(request_id):
        raise InvalidRequestError(
            "request_id",
            "must be at most 256 printable ASCII characters without spaces, got "
            f"{request_id!r:.100}",
        )
    return request_id


def known_request_id(headers: Mapping[str, str]) -> str:
    """Returns the id that a client gave over HTTP if it can be repeated, else ""."""
    request_id = headers.get("x-request-id", "")
    return request_id if _REQUEST_ID.fullmatch(request_id) else ""


def known_top_k(top_k: int) -> int:
    """Returns `top_k` as `SamplingParams` has it: clients of vLLM write -1 for all."""
    return 0 if top_k == -1 else top_k
