"""Tools that a client offers, and which of them may be called, as checked values."""

import enum
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mell_jax.engine.params import InvalidRequestError
from mell_jax.serving.openai.wire import ChatRequest, TokenizeRequest

MAX_TOOLS = 128
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A function that the model may call.

    Attributes:
      name: 1 to 64 letters, digits, _ and -; no two tools have the same.
      description: for the model.
      parameters: a JSON schema of the arguments; None when nothing is said of them.
      is_strict: arguments must be as the schema says.
      source: the whole description as the client sent it, which templates read.
    """

    name: str
    description: str = ""
    parameters: Mapping[str, Any] | None = None
    is_strict: bool = False
    source: Mapping[str, Any]


class Choice(enum.Enum):
    """A client chooses whether tools are called."""

    NONE = "none"
    AUTO = "auto"
    REQUIRED = "required"
    NAMED = "function"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tooling:
    """The tools of a request.

    Attributes:
      tools: that the client offers.
      choice: whether they are called; NONE when there are none.
      name: of the tool that must be called, with `Choice.NAMED` only.
      is_parallel: one answer may have several calls.
    """

    tools: Sequence[Tool] = field(default=())
    choice: Choice = Choice.NONE
    name: str = ""
    is_parallel: bool = True

    def for_template(self) -> list[Mapping[str, Any]] | None:
        """Returns what the chat template sees: None when no tool may be called."""
        if not self.tools or self.choice is Choice.NONE:
            return None
        return [tool.source for tool in self.tools]


def tooling_of(request: ChatRequest | TokenizeRequest) -> Tooling:
    """Reads tools and the choice among them.

    Raises:
      InvalidRequestError: one is not as it should be; says which.
    """
    offered = request.tools or []
    if not (len(offered) <= MAX_TOOLS):
        raise InvalidRequestError(
            "tools", f"may be at most {MAX_TOOLS}, got {len(offered)}"
        )
    tools = [_tool(each, where=f"[{i}]") for i, each in enumerate(offered)]
    names = [tool.name for tool in tools]
    for i, name in enumerate(names):
        if name in names[:i]:
            raise InvalidRequestError(
                "tools", f"[{i}] has the name of [{names.index(name)}], {name!r}"
            )
    choice, name = _choice(request.tool_choice, names=names)
    return Tooling(
        tools=tuple(tools),
        choice=choice,
        name=name,
        is_parallel=request.parallel_tool_calls is not False,
    )


def _tool(value: Mapping[str, Any], *, where: str) -> Tool:
    if value.get("type") != "function":
        raise _wrong(f"{where}.type", 'must be "function"', value.get("type"))
    function = value.get("function")
    if not isinstance(function, dict):
        raise _wrong(f"{where}.function", "must be an object", function)
    where = f"{where}.function"
    name = function.get("name")
    if not (isinstance(name, str) and _NAME.fullmatch(name)):
        raise _wrong(f"{where}.name", "must be 1 to 64 of a-z, A-Z, 0-9, _ and -", name)
    description = function.get("description")
    if not isinstance(description, str | None):
        raise _wrong(f"{where}.description", "must be a text", description)
    parameters = function.get("parameters")
    if not isinstance(parameters, dict | None):
        raise _wrong(
            f"{where}.parameters", "must be a JSON schema, an object", parameters
        )
    is_strict = function.get("strict")
    if not isinstance(is_strict, bool | None):
        raise _wrong(f"{where}.strict", "must be true or false", is_strict)
    return Tool(
        name=name,
        description=description or "",
        parameters=parameters,
        is_strict=bool(is_strict),
        source=value,
    )


def _choice(
    value: str | Mapping[str, Any] | None, *, names: Sequence[str]
) -> tuple[Choice, str]:
    if value is None:
        return (Choice.AUTO if names else Choice.NONE), ""
    if isinstance(value, Mapping):
        return Choice.NAMED, _chosen_name(value, names=names)
    if value not in ("none", "auto", "required"):
        raise InvalidRequestError(
            "tool_choice",
            'must be "none", "auto", "required" or {"type": "function", "function": '
            f'{{"name": ...}}}}, got {value!r:.100}',
        )
    choice = Choice(value)
    if choice is Choice.REQUIRED and not names:
        raise InvalidRequestError(
            "tool_choice", "'required' needs tools to choose from"
        )
    return (choice if names else Choice.NONE), ""


def _chosen_name(value: Mapping[str, Any], *, names: Sequence[str]) -> str:
    function = value.get("function")
    name = function.get("name") if isinstance(function, dict) else None
    if value.get("type") != "function" or not isinstance(name, str):
        raise InvalidRequestError(
            "tool_choice",
            'must be {"type": "function", "function": {"name": ...}} to name a tool',
        )
    if name not in names:
        raise InvalidRequestError(
            "tool_choice", f"names {name!r:.100}, which is none of tools"
        )
    return name


def _wrong(where: str, rule: str, value: object) -> InvalidRequestError:
    return InvalidRequestError("tools", f"{where} {rule}, got {value!r:.100}")
