"""Messages with blocks become messages of a conversation; pure functions."""

from collections.abc import Sequence

import msgspec

from mell_jax.engine.params import InvalidRequestError
from mell_jax.serving.anthropic.wire import Block, Message, TextBlock
from mell_jax.serving.chat.turns import MAX_PARTS, Turns, UnknownCallError
from mell_jax.serving.chat.wish import Json

_ROLES = ("user", "assistant", "system")


def messages_of(
    messages: Sequence[Message], *, system: str | Sequence[TextBlock] | None
) -> tuple[Json, ...]:
    """Returns messages as /v1/chat/completions has them.

    Raises:
      InvalidRequestError: there is none, or a block is of a kind that is not here or
        lacks something, or there are too many.
    """
    num_blocks = sum(
        1 if isinstance(message.content, str) else len(message.content)
        for message in messages
    )
    if not (num_blocks <= MAX_PARTS):
        raise InvalidRequestError(
            "messages", f"may have at most {MAX_PARTS} blocks, got {num_blocks}"
        )
    if not messages:
        raise InvalidRequestError("messages", "must have at least one")
    turns = Turns()
    if system is not None:
        turns.say(_texts(system, field="system", where=""), role="system")
    for index, message in enumerate(messages):
        where = f"[{index}]"
        if message.role not in _ROLES:
            raise InvalidRequestError(
                "messages",
                f"{where}.role must be one of {', '.join(_ROLES)}, got "
                f"{message.role!r:.100}",
            )
        for run, at in _runs(message.content):
            _add(run, role=message.role, where=f"{where}.content[{at}]", turns=turns)
        turns.close()
    return turns.messages()


def _runs(content: str | Sequence[Block]) -> list[tuple[list[Block], int]]:
    """Returns blocks with their places, those of text that follow each other as one."""
    if isinstance(content, str):
        return [([Block(type="text", text=content)], 0)]
    runs: list[tuple[list[Block], int]] = []
    for at, block in enumerate(content):
        if runs and block.type == "text" and runs[-1][0][-1].type == "text":
            runs[-1][0].append(block)
        else:
            runs.append(([block], at))
    return runs


def _add(run: Sequence[Block], *, role: str, where: str, turns: Turns) -> None:
    block = run[0]
    match role, block.type:
        case "assistant", "text":
            turns.answer(_joined(run, where=where))
        case _, "text":
            turns.say(_joined(run, where=where), role=role)
        case "assistant", "thinking":
            turns.think(_needed(block.thinking, name="thinking", where=where))
        case "assistant", "tool_use":
            used = {} if block.input is None else block.input
            turns.call(
                id=_needed(block.id, name="id", where=where),
                name=_needed(block.name, name="name", where=where),
                arguments=msgspec.json.encode(used).decode(),
            )
        case "user", "tool_result":
            _add_result(block, where=where, turns=turns)
        case _, other:
            raise InvalidRequestError(
                "messages",
                f"{where} is of the type {other!r:.100}, which is not supported here "
                f"in a message of the {role}; there are text, thinking and tool_use of "
                "the assistant, and text and tool_result of the user",
            )


def _add_result(block: Block, *, where: str, turns: Turns) -> None:
    """Adds a result; templates know no mark of an error, so that its text says so."""
    use_id = _needed(block.tool_use_id, name="tool_use_id", where=where)
    text = _result(block.content, where=f"{where}.content")
    try:
        turns.result(f"Error: {text}" if block.is_error else text, id=use_id)
    except UnknownCallError as error:
        raise InvalidRequestError(
            "messages",
            f"{where}.tool_use_id must be that of a tool_use before it, got "
            f"{use_id!r:.100}",
        ) from error


def _result(content: object, *, where: str) -> str:
    if content is None:
        return ""
    try:
        known = msgspec.convert(content, str | list[TextBlock])
    except msgspec.ValidationError as error:
        raise InvalidRequestError(
            "messages", f"{where} must be a text or a list of text blocks: {error}"
        ) from error
    return _texts(known, field="messages", where=where)


def _texts(content: str | Sequence[TextBlock], *, field: str, where: str) -> str:
    if isinstance(content, str):
        return content
    texts = []
    for index, block in enumerate(content):
        if block.type != "text" or block.text is None:
            raise InvalidRequestError(
                field,
                f"{where}[{index}] may be a text only, got the type "
                f"{block.type!r:.100}",
            )
        texts.append(block.text)
    return "\n".join(texts)


def _joined(run: Sequence[Block], *, where: str) -> str:
    return "\n".join(_needed(block.text, name="text", where=where) for block in run)


def _needed(value: str | None, *, name: str, where: str) -> str:
    if value is None:
        raise InvalidRequestError("messages", f"{where}.{name} is required")
    return value
