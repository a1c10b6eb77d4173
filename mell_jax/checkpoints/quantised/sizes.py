"""Sizes of groups and blocks in configurations, checked."""

from mell_jax.checkpoints.json_file import Fields

MAX_SIZE = 1 << 31


def read_group_size(fields: Fields, key: str, *, default: int | None) -> int | None:
    """Returns how many inputs share a scale; None for all (-1 in files).

    Raises:
      CheckpointError: the value is no size.
    """
    if not fields.has(key):
        return default
    size = fields.integer(key)
    if not (size == -1 or 0 < size < MAX_SIZE):
        fields.fail(
            key, f"must be positive, or -1 for all inputs, found {str(size)[:20]}"
        )
    return None if size == -1 else size


def read_block(fields: Fields, key: str) -> tuple[int, int] | None:
    """Returns rows and columns of a block, of a list or of text such as "128x128"; None
    where it is absent.

    Raises:
      CheckpointError: the value is no pair of sizes.
    """
    value = fields.values.get(key)
    if isinstance(value, str) and value.count("x") == 1:
        sides = tuple(int(side) if _is_number(side) else 0 for side in value.split("x"))
    else:
        sides = fields.integers(key)
    if not sides:
        return None
    if len(sides) != 2 or not all(0 < side < MAX_SIZE for side in sides):
        fields.fail(key, f"must be two sizes, found {str(value)[:60]}")
    return sides[0], sides[1]


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 10
