"""Tools in the flat shape of the Responses API become those of chat completions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mell_jax.engine.params import InvalidRequestError
from mell_jax.serving.chat.wish import Json

_WORDS = ("none", "auto", "required")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tooling:
    """Tooling is what a request says of tools, in the words of chat completions."""

    tools: tuple[Json, ...]
    choice: str | Json


def tooling_of(
    tools: Sequence[Json], *, choice: str | Mapping[str, Any] | None
) -> Tooling:
    """Returns the tools that may be called, and the choice among them.

    A choice of allowed tools leaves those alone.

    Raises:
      InvalidRequestError: a tool or the choice is of a kind that is not here.
    """
    made = tuple(_tool(each, where=f"[{i}]") for i, each in enumerate(tools))
    names = [each["function"]["name"] for each in made]
    match choice:
        case None:
            return Tooling(tools=made, choice="auto")
        case "required" if not made:
            raise InvalidRequestError(
                "tool_choice", "of 'required' needs tools to choose from"
            )
        case str() if choice in _WORDS:
            return Tooling(tools=made, choice=choice)
        case {"type": "function", "name": str(name)}:
            _check_known(name, names=names)
            chosen = {"type": "function", "function": {"name": name}}
            return Tooling(tools=made, choice=chosen)
        case {"type": "allowed_tools", "mode": ("auto" | "required") as mode}:
            allowed = _allowed(choice, names=names)
            kept = (each for each in made if each["function"]["name"] in allowed)
            return Tooling(tools=tuple(kept), choice=mode)
    raise InvalidRequestError(
        "tool_choice",
        f'must be none, auto, required, {{"type": "function", "name": ...}} or allowed '
        f"tools with a mode, got {choice!r:.100}",
    )


def _tool(tool: Json, *, where: str) -> Json:
    kind = tool.get("type")
    if kind != "function":
        raise InvalidRequestError(
            "tools",
            f"{where} is of the type {kind!r:.100}; this server runs no tools of "
            "its own and knows those of the type 'function' only: leave it out",
        )
    if not isinstance(tool.get("name"), str):
        raise InvalidRequestError("tools", f"{where}.name is required, a text")
    if not isinstance(tool.get("parameters"), dict | None):
        raise InvalidRequestError(
            "tools",
            f"{where}.parameters must be a JSON schema, an object, got "
            f"{tool['parameters']!r:.100}",
        )
    said = ("name", "description", "parameters", "strict")
    function = {name: tool[name] for name in said if tool.get(name) is not None}
    return {"type": "function", "function": function}


def _allowed(choice: Json | str, *, names: Sequence[str]) -> set[str]:
    tools = choice.get("tools") if isinstance(choice, Mapping) else None
    if not isinstance(tools, list) or not tools:
        raise InvalidRequestError("tool_choice", "must name the tools that are allowed")
    allowed = set()
    for tool in tools:
        match tool:
            case {"type": "function", "name": str(name)}:
                _check_known(name, names=names)
                allowed.add(name)
            case _:
                raise InvalidRequestError(
                    "tool_choice", f"may allow functions only, got {tool!r:.100}"
                )
    return allowed


def _check_known(name: str, *, names: Sequence[str]) -> None:
    if name not in names:
        raise InvalidRequestError(
            "tool_choice", f"names {name!r:.100}, which is none of the tools"
        )
