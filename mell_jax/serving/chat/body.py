"""Bodies of requests are read as typed values, and their mistakes told by name."""

import re
from collections.abc import Mapping
from typing import TypeVar

import msgspec

from mell_jax.engine.params import InvalidRequestError
from mell_jax.serving.chat.fields import Fields
from mell_jax.serving.problem import MalformedMessageError

T = TypeVar("T", bound=msgspec.Struct)
_BOM = b"\xef\xbb\xbf"
_INTEGRAL = re.compile(rb"(-?[0-9]+)\.0+")
_PATH = re.compile(r"^(?P<rule>.*) - at (?:`key` in )?`\$\.?(?P<path>[^`]*)`$", re.S)


def read_body(
    body: bytes, kind: type[T], *, fields: Fields
) -> tuple[T, tuple[str, ...]]:
    """Reads a request from a body in JSON, and the names of fields nobody knows.

    Whole numbers may be written as floats (2.0), and a byte order mark may come first.

    Args:
      body: of the request.
      kind: of the request; it has all fields that are honoured, and no others.
      fields: that the route knows.

    Raises:
      InvalidRequestError: a field is missing, has a wrong type, or asks for what this
        server does not have; names it.
      MalformedMessageError: the body is no JSON object.
    """
    try:
        said = msgspec.json.decode(body.removeprefix(_BOM), type=dict[str, msgspec.Raw])
        unknown = {name for name in said if not fields.knows(name)}
        for name in said.keys() - fields.honoured:
            fields.check(name, msgspec.json.decode(said[name]))
        for name in said.keys() & fields.inside.keys():
            unknown |= fields.look_inside(name, msgspec.json.decode(said[name]))
        for name, raw in said.items():
            if whole := _INTEGRAL.fullmatch(bytes(raw).strip()):
                said[name] = msgspec.Raw(whole[1])
        honoured = {name: raw for name, raw in said.items() if name in fields.honoured}
        request = msgspec.json.decode(msgspec.json.encode(honoured), type=kind)
    except msgspec.ValidationError as error:
        raise _invalid(str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedMessageError(
            f"the body is not usable JSON: {str(error)[:200]}"
        ) from error
    return request, tuple(sorted(unknown))


def renamed(error: Exception, names: Mapping[str, str]) -> Exception:
    """Returns an error that names the field as the client knows it."""
    if not (isinstance(error, InvalidRequestError) and error.field in names):
        return error
    rule = str(error).removeprefix(f"{error.field} ")
    return InvalidRequestError(names[error.field], rule)


def _invalid(message: str) -> InvalidRequestError:
    """Expected `int | null`, got `str` - at `$.n`  ->  n: expected `int | null`, ..."""
    if match := _PATH.match(message):
        rule, path = match["rule"], match["path"]
        field = re.split(r"[.\[]", path, maxsplit=1)[0]
        where = "" if path == field else f" at {path}"
        return InvalidRequestError(
            field or "body", f"has a wrong type{where}: {rule[:1].lower()}{rule[1:]}"
        )
    if missing := re.search(r"missing required field `(\w+)`", message):
        return InvalidRequestError(missing[1], "is required")
    return InvalidRequestError("body", f"must be an object: {message}")
