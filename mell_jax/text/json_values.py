"""Values of JSON are walked from string to string, keys as well as values."""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

JsonValue: TypeAlias = (
    "bool | int | float | str | Sequence[JsonValue] | Mapping[str, JsonValue] | None"
)

MAX_DEPTH = 64
"""Of lists and objects in each other."""


def collect_strings(value: JsonValue) -> list[str]:
    """Returns all strings in a value, keys too, in the order in which they stand.

    Raises:
      ValueError: the value is nested too deeply.
    """
    found: list[str] = []

    def keep(text: str) -> str:
        found.append(text)
        return text

    map_strings(value, keep)
    return found


def map_strings(
    value: JsonValue, change: Callable[[str], str], *, depth: int = MAX_DEPTH
) -> JsonValue:
    """Returns a copy of a value in which every string is changed, keys too.

    Args:
      value: of JSON.
      change: never makes one key out of two.
      depth: that the value may have.

    Raises:
      ValueError: the value is nested too deeply.
    """
    if isinstance(value, str):
        return change(value)
    if not isinstance(value, Sequence | Mapping):
        return value
    if not (depth > 0):
        raise ValueError(f"nests lists and objects more than {MAX_DEPTH} deep")
    if isinstance(value, Mapping):
        return {
            change(key): map_strings(inner, change, depth=depth - 1)
            for key, inner in value.items()
        }
    return [map_strings(inner, change, depth=depth - 1) for inner in value]
