"""Tools that a model may call, and which of them it should."""

import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from types import MappingProxyType
from typing import Any, Self

MAX_TOOLS = 128
"""Of one request."""
NAME_LETTERS = string.ascii_letters + string.digits + "_-"
"""Of a tool's name."""
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_OPEN = ("additionalProperties", "allOf", "anyOf", "oneOf", "$ref", "patternProperties")
"""With these a schema has more to say of its properties."""
_NO_PARAMETERS: Mapping[str, Any] = MappingProxyType(
    {"type": "object", "properties": {}, "additionalProperties": False}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A tool is a function of the client's that a model may ask to be called.

    Attributes:
        name: of 1 to 64 letters, digits, underscores and hyphens.
        description: what it does, for the model.
        parameters: JSON schema of an object, its arguments by name; none by default.
        strict: whether the client wants the schema kept to. A grammar keeps to it
            either way.

    Raises:
        ValueError: the name has other characters, or the schema is of no object.
    """

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=lambda: _NO_PARAMETERS)
    strict: bool = False

    def __post_init__(self) -> None:
        if not (isinstance(self.name, str) and _NAME.fullmatch(self.name)):
            raise ValueError(
                "a tool's name must have 1 to 64 of the characters a-z, A-Z, 0-9, _ "
                f"and -, got {self.name!r:.100}"
            )
        kind = self.parameters if isinstance(self.parameters, Mapping) else {"type": 0}
        if kind.get("type", "object") != "object":
            raise ValueError(
                f"parameters of the tool {self.name} must be a JSON schema with "
                f'"type": "object", got {self.parameters!r:.100}'
            )

    @property
    def schema(self) -> Mapping[str, Any]:
        """Returns the schema of the arguments: an object with no others than it names.

        Where it says nothing of others, a small model would go on inventing them.
        """
        schema = {"type": "object", **self.parameters}
        if "properties" in schema and schema.keys().isdisjoint(_OPEN):
            schema["additionalProperties"] = False
        return schema


class Choice(Enum):
    """A choice says whether tools are called."""

    NONE = "none"
    AUTO = "auto"
    REQUIRED = "required"
    NAMED = "named"


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolChoice:
    """The client chooses whether tools are called; a named one must be.

    Raises:
        ValueError: a name is there and not wanted, or the other way round.
    """

    kind: Choice
    name: str = ""

    def __post_init__(self) -> None:
        if (self.kind is Choice.NAMED) != bool(self.name):
            raise ValueError(
                f"a choice of tools has a name if it is named and only then, got "
                f"{self.kind.value} and {self.name!r:.100}"
            )

    @classmethod
    def named(cls, name: str) -> Self:
        """Returns the choice of one tool."""
        return cls(kind=Choice.NAMED, name=name)


AUTO = ToolChoice(kind=Choice.AUTO)


@dataclass(frozen=True, slots=True, kw_only=True)
class Toolbox:
    """A toolbox is all that one request says of tools.

    Attributes:
        tools: by different names.
        choice: whether and which.
        is_parallel: whether one answer may have several calls, unless one is named.

    Raises:
        ValueError: there are too many, two have one name, or the choice is of none.
    """

    tools: Sequence[Tool]
    choice: ToolChoice = AUTO
    is_parallel: bool = True

    def __post_init__(self) -> None:
        names = [tool.name for tool in self.tools]
        if not (len(names) <= MAX_TOOLS):
            raise ValueError(f"tools must be at most {MAX_TOOLS}, got {len(names)}")
        repeated = next((name for name in names if names.count(name) > 1), None)
        if repeated is not None:
            raise ValueError(f"tools must have different names; two are {repeated}")
        if self.choice.kind is Choice.REQUIRED and not names:
            raise ValueError("a tool is required and there is none; send tools")
        if self.choice.name and self.choice.name not in names:
            raise ValueError(
                f"the chosen tool {self.choice.name!r:.100} is none of {names!r:.200}"
            )

    def requiring_one(self) -> "Toolbox":
        """Returns the toolbox of which something must be called."""
        return replace(self, choice=ToolChoice(kind=Choice.REQUIRED))

    @property
    def may_repeat(self) -> bool:
        """Returns whether an answer may have several calls; a named tool has one."""
        return self.is_parallel and self.choice.kind is not Choice.NAMED

    @property
    def callable(self) -> Mapping[str, Tool]:
        """Returns tools that this answer may call, by name."""
        if self.choice.kind is Choice.NONE:
            return {}
        chosen = self.choice.name
        return {tool.name: tool for tool in self.tools if chosen in ("", tool.name)}
