"""Items of the input become messages of a conversation; pure functions."""

import base64
import binascii
from collections.abc import Sequence

from mell_jax.engine.params import InvalidRequestError
from mell_jax.serving.chat.turns import MAX_PARTS, Turns, UnknownCallError
from mell_jax.serving.chat.wish import Json
from mell_jax.serving.openai.responses.wire import Item, Part

_SEALED = "mell:"
_ROLES = ("user", "system", "developer", "assistant")
_TEXTS = ("input_text", "output_text", "text", "summary_text", "reasoning_text")


def messages_of(
    items: str | Sequence[Item], *, instructions: str | None
) -> tuple[Json, ...]:
    """Returns messages as /v1/chat/completions has them.

    What the system says at the beginning is one message with the instructions: many
    templates know one message of the system only.

    Raises:
      InvalidRequestError: an item is of a kind that is not here, or lacks something,
        or there are too many.
    """
    turns = Turns()
    if isinstance(items, str):
        turns.say(items, role="user")
    elif not (len(items) <= MAX_PARTS):
        raise InvalidRequestError(
            "input", f"may have at most {MAX_PARTS} items, got {len(items)}"
        )
    else:
        for index, item in enumerate(items):
            _add(item, where=f"[{index}]", turns=turns)
    messages = list(turns.messages())
    if instructions is not None:
        messages.insert(0, {"role": "system", "content": instructions})
    head = 0
    while head < len(messages) and messages[head]["role"] in ("system", "developer"):
        head += 1
    if head > 1:
        text = "\n\n".join(message["content"] for message in messages[:head])
        messages[:head] = [{"role": "system", "content": text}]
    return tuple(messages)


def seal(thought: str) -> str:
    """Returns a thought as `encrypted_content`, for clients that return only that."""
    return _SEALED + base64.b64encode(thought.encode()).decode("ascii")


def _add(item: Item, *, where: str, turns: Turns) -> None:
    match item.type:
        case None | "message":
            _add_message(item, where=where, turns=turns)
        case "reasoning":
            thought = _thought(item, where=where)
            if thought:
                turns.think(thought)
        case "function_call":
            turns.call(
                id=_needed(item.call_id, name="call_id", where=where),
                name=_needed(item.name, name="name", where=where),
                arguments=_needed(item.arguments, name="arguments", where=where),
            )
        case "function_call_output":
            call_id = _needed(item.call_id, name="call_id", where=where)
            text = _text(item.output, where=f"{where}.output")
            try:
                turns.result(text, id=call_id)
            except UnknownCallError as error:
                raise InvalidRequestError(
                    "input",
                    f"{where}.call_id must be that of a function_call before it, got "
                    f"{call_id!r:.100}",
                ) from error
        case "item_reference":
            raise InvalidRequestError(
                "input",
                f"{where} refers to an item and nothing is kept here: send the item "
                "itself, as clients do where store is false",
            )
        case other:
            raise InvalidRequestError(
                "input",
                f"{where} is of the type {other!r:.100}, which is not supported here; "
                "there are message, function_call, function_call_output and reasoning",
            )


def _add_message(item: Item, *, where: str, turns: Turns) -> None:
    if item.role not in _ROLES:
        raise InvalidRequestError(
            "input",
            f"{where}.role must be one of {', '.join(_ROLES)}, got {item.role!r:.100}",
        )
    if item.content is None and item.role != "assistant":
        raise InvalidRequestError("input", f"{where}.content is required")
    text = _text(item.content or "", where=f"{where}.content")
    if item.role == "assistant":
        turns.answer(text)
    else:
        turns.say(text, role=item.role)


def _thought(item: Item, *, where: str) -> str:
    """Returns a thought's own text, else what was sealed, else its summary."""
    if item.content:
        return _text(item.content, where=f"{where}.content")
    sealed = item.encrypted_content
    if not sealed:
        return _text(item.summary or "", where=f"{where}.summary")
    try:
        if not sealed.startswith(_SEALED):
            raise ValueError("it is somebody else's")
        data = sealed.removeprefix(_SEALED).encode()
        return base64.b64decode(data, validate=True).decode()
    except (binascii.Error, ValueError) as error:
        raise InvalidRequestError(
            "input",
            f"{where}.encrypted_content was not written by this server; leave the item "
            "out, or send its content",
        ) from error


def _needed(value: str | None, *, name: str, where: str) -> str:
    if value is None:
        raise InvalidRequestError("input", f"{where}.{name} is required")
    return value


def _text(content: str | Sequence[Part] | None, *, where: str) -> str:
    if content is None:
        raise InvalidRequestError("input", f"{where} is required")
    if isinstance(content, str):
        return content
    return "\n".join(
        _part(part, where=f"{where}[{index}]") for index, part in enumerate(content)
    )


def _part(part: Part, *, where: str) -> str:
    text = part.refusal if part.type == "refusal" else part.text
    if part.type not in (*_TEXTS, "refusal"):
        raise InvalidRequestError(
            "input",
            f"{where} is of the type {part.type!r:.100}; models here read text: send "
            "input_text or output_text",
        )
    return _needed(text, name="text", where=where)
