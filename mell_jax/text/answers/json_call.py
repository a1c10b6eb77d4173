"""Reads a call that is one JSON object: its name, and its arguments as they come.

    {"name": "f", "arguments": {"a": 1}}

They may be called "parameters", and "id" and "type" may be there; nothing else.
"""

from mell_jax.text.answers.calls import Calls
from mell_jax.text.answers.literals import JSON, read_text, read_value
from mell_jax.text.answers.reader import NotACallError, Reader, Steps, Waits

_NAME, _ARGUMENTS, _OTHER = range(3)
_ROLES = {
    "name": _NAME,
    "arguments": _ARGUMENTS,
    "parameters": _ARGUMENTS,
    "id": _OTHER,
    "type": _OTHER,
}


def json_call(calls: Calls) -> Steps[None]:
    """Reads a call, from its brace to its brace.

    Arguments that come before the name wait for it.

    Raises:
        NotACallError: it is none.
    """
    reader = calls.reader
    yield from reader.expect("{")
    name, held, seen = "", list[str](), set[str]()
    while True:
        role = yield from _key(reader, seen)
        if role == _NAME:
            name = calls.find((yield from read_text(reader))).name
        elif role == _ARGUMENTS and name:
            yield from begin_call(calls, name)
        elif role == _ARGUMENTS:
            yield from _arguments(reader, held)
        else:
            yield from read_value(reader, [], JSON)
        yield from reader.space()
        if (yield from reader.take("}")):
            break
        yield from reader.expect(",")
    if not calls.is_open:
        yield calls.open(name)
        calls.out += held or ("{}",)
        yield from calls.flush()
    calls.close()


def begin_call(calls: Calls, name: str) -> Steps[None]:
    """Begins a call and reads its arguments, which come next as a JSON object.

    Raises:
        NotACallError: they do not, or no tool is called that.
    """
    calls.find(name)
    if (yield from calls.reader.peek()) != "{":
        raise NotACallError
    yield calls.open(name)
    yield from calls.stream(read_value(calls.reader, calls.out, JSON))


def _arguments(reader: Reader, out: list[str]) -> Waits[None]:
    if (yield from reader.peek()) != "{":
        raise NotACallError
    yield from read_value(reader, out, JSON)


def _key(reader: Reader, seen: set[str]) -> Waits[int]:
    """Takes a key and its colon; returns what it is for."""
    yield from reader.space()
    key = yield from read_text(reader)
    role = _ROLES.get(key)
    is_again = key in seen or {key, *seen} >= {"arguments", "parameters"}
    if role is None or is_again:
        raise NotACallError
    seen.add(key)
    yield from reader.space()
    yield from reader.expect(":")
    yield from reader.space()
    return role
