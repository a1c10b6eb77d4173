"""A path of new weights is looked up before anything below it is opened.

Whoever may administer could otherwise make the server open any file that its user may
read, and learn from the errors what lies where. Only folders that the settings name
(`weights_dirs`) are open, and nothing is told of what lies outside of them.
"""

from collections.abc import Sequence
from pathlib import Path

from mell_jax.engine.params import InvalidRequestError


def find_weights(path: str, *, roots: Sequence[str]) -> Path:
    """Returns the place that a path means, its links followed.

    Args:
      path: as a caller gave it.
      roots: folders from which weights may come.

    Raises:
      InvalidRequestError: it is not absolute, lies outside of `roots` or is not there.
    """
    if not roots:
        raise InvalidRequestError(
            "path",
            "cannot be used: no weights are loaded from a path here; name folders "
            "that they may come from in [server] weights_dirs",
        )
    if "\0" in path or not path.startswith("/"):
        raise InvalidRequestError(
            "path", f"must be absolute, as this server sees it, got {path!r:.200}"
        )
    try:
        place = Path(path).resolve()
        allowed = [Path(root).resolve() for root in roots]
        is_there = place.exists()
    except (OSError, RuntimeError) as error:  # links in a circle, a name too long
        raise InvalidRequestError("path", f"cannot be followed: {path!r:.200}") from (
            error
        )
    if not any(place.is_relative_to(root) for root in allowed):
        raise InvalidRequestError(
            "path",
            f"must lie in a folder of [server] weights_dirs, {path!r:.200} does not",
        )
    if not is_there:
        raise InvalidRequestError("path", f"does not exist here: {path!r:.200}")
    return place
