"""Tools that a client offers, and which of them may be called, as checked values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mell_jax.engine.params import InvalidRequestError
from mell_jax.text.answers import Choice, Tool, Toolbox, ToolChoice

Json = Mapping[str, Any]
_NO_CHOICE = ToolChoice(kind=Choice.NONE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tooling:
    """The tools of a request.

    Attributes:
      box: the tools, and the choice among them.
      sources: descriptions as the client sent them, which templates read.
    """

    box: Toolbox
    sources: tuple[Json, ...] = ()

    def for_template(self) -> list[Json] | None:
        """Returns what the chat template sees: None when no tool may be called."""
        return list(self.sources) if self.box.callable else None


NO_TOOLS = Tooling(box=Toolbox(tools=(), choice=_NO_CHOICE))


def tooling_of(
    tools: Sequence[Json], *, choice: str | Json | None, is_parallel: bool
) -> Tooling:
    """Reads tools and the choice among them, as chat completions have them.

    A choice of allowed tools leaves those alone.

    Raises:
      InvalidRequestError: one is not as it should be; says which.
    """
    box = _boxed([_tool(each, where=f"[{i}]") for i, each in enumerate(tools)])
    names = [tool.name for tool in box.tools]
    if isinstance(choice, Mapping) and choice.get("type") == "allowed_tools":
        choice, allowed = _allowed(choice.get("allowed_tools"), names=names)
        kept = [i for i, name in enumerate(names) if name in allowed]
        box = replace(box, tools=[box.tools[i] for i in kept])
        tools, names = [tools[i] for i in kept], [names[i] for i in kept]
    chosen = _choice(choice, names=names)
    return Tooling(
        box=replace(box, choice=chosen, is_parallel=is_parallel), sources=tuple(tools)
    )


def _allowed(value: object, *, names: Sequence[str]) -> tuple[str, set[str]]:
    """Returns what is chosen of allowed tools, and their names."""
    match value:
        case {"mode": ("auto" | "required") as mode, "tools": [_, *_] as allowed}:
            return mode, {_chosen_name(each, names=names) for each in allowed}
    raise InvalidRequestError(
        "tool_choice",
        'of the type "allowed_tools" must have in allowed_tools a mode, "auto" or '
        f'"required", and tools by their names, got {value!r:.100}',
    )


def _boxed(tools: Sequence[Tool]) -> Toolbox:
    try:
        return Toolbox(tools=tools, choice=_NO_CHOICE)
    except ValueError as error:
        raise InvalidRequestError("tools", str(error).removeprefix("tools ")) from error


def _tool(value: Json, *, where: str) -> Tool:
    if value.get("type") != "function":
        raise _wrong(f"{where}.type", 'must be "function"', value.get("type"))
    function = value.get("function")
    if not isinstance(function, dict):
        raise _wrong(f"{where}.function", "must be an object", function)
    where = f"{where}.function"
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
    schema = {} if parameters is None else {"parameters": parameters}
    try:
        return Tool(
            name=function.get("name", ""),
            description=description or "",
            strict=bool(is_strict),
            **schema,
        )
    except ValueError as error:
        raise InvalidRequestError("tools", f"{where}: {error}") from error


def _choice(value: str | Json | None, *, names: Sequence[str]) -> ToolChoice:
    if isinstance(value, Mapping):
        return ToolChoice.named(_chosen_name(value, names=names))
    if value not in (None, "none", "auto", "required"):
        raise InvalidRequestError(
            "tool_choice",
            'must be "none", "auto", "required" or {"type": "function", "function": '
            f'{{"name": ...}}}}, got {value!r:.100}',
        )
    choice = Choice(value or "auto")
    if choice is Choice.REQUIRED and not names:
        raise InvalidRequestError(
            "tool_choice", "'required' needs tools to choose from"
        )
    return ToolChoice(kind=choice) if names else _NO_CHOICE


def _chosen_name(value: Json, *, names: Sequence[str]) -> str:
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
