"""Bytes read as a link reads them."""

from typing import Any

from mell_jax.hosts.intake import Intake
from mell_jax.hosts.wire import MAX_BYTES, HostCodec


def read(data: bytes, *, by: Intake | None = None) -> list[Any]:
    """Returns the messages that bytes complete, however many the socket takes."""
    intake = by if by is not None else Intake(HostCodec(), max_bytes=MAX_BYTES)
    messages, at = [], 0
    while at < len(data):
        room = intake.room()
        part = data[at : at + len(room)]
        room[: len(part)] = part
        messages += intake.filled(len(part))
        at += len(part)
    return messages
