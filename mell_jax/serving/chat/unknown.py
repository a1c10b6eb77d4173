"""Fields that nobody here knows are told of, by name alone: clients mistype them."""

import re
from collections.abc import Sequence

from mell_jax.events import Event, tell

_NAME = re.compile("[A-Za-z0-9_.-]{1,64}")  # others do not go into a header
_MAX_NAMES = 16


def passed_over(unknown: Sequence[str]) -> list[tuple[bytes, bytes]]:
    """Returns the header that names fields which are passed over; the log has them."""
    if not unknown:
        return []
    names = [name for name in unknown if _NAME.fullmatch(name)][:_MAX_NAMES]
    told = ", ".join(names)
    tell(
        Event.FIELDS_UNKNOWN,
        text="a request has fields that are not known here",
        names=told,
        count=len(unknown),
    )
    return [(b"x-mell-unknown-fields", told.encode())] if names else []
