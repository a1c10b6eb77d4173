"""What clients of agents ask for, and what they must get, whatever they are.

The shape is short and bounded, so that also a model of stories comes to its end.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

MODEL = "demo"
STORY = "Once upon a time"
STORY_TOKENS = 24
SHAPE_TOKENS = 240
TOOL = "get_weather"
SKY = "The sun shines.\nOnce upon a time"


class Weather(BaseModel):
    """Tells the weather of some days."""

    model_config = ConfigDict(extra="forbid")

    city: Literal["Paris", "Oslo"]
    days: Annotated[int, Field(ge=1, le=9)]
    note: Annotated[str, Field(max_length=8)]


def check_story(whole: str | None, parts: Sequence[str | None]) -> None:
    """A story of which the parts are many and add up to the whole."""
    assert whole is not None and len(whole) > 20, whole
    heard = [part for part in parts if part]
    assert "".join(heard) == whole, (whole, heard)
    assert len(heard) > 5, f"{len(heard)} parts are no stream"


def check_call(name: str | None, arguments: str | None) -> Weather:
    """A call of the tool with arguments of its schema."""
    assert name == TOOL and arguments is not None, (name, arguments)
    return Weather.model_validate_json(arguments, strict=True)


def check_parts(whole: str, parts: Sequence[str]) -> None:
    """Arguments, or a shape, that come in parts are those that come in one."""
    assert "".join(parts) == whole, (whole, parts)
    assert len(parts) > 3, f"{len(parts)} parts are no stream"
