"""Whether JSON fits a schema, by `jsonschema`, formats included."""

import datetime
import ipaddress
import json
import re
import uuid
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import jsonschema
from jsonschema.validators import validator_for

_LABEL = r"[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?"
_DURATION = re.compile(
    r"P(?!$)(\d+W|(\d+Y)?(\d+M)?(\d+D)?(T(?=\d)(\d+H)?(\d+M)?(\d+S)?)?)"
)
_TIME = re.compile(
    r"([01]\d|2[0-3]):[0-5]\d:([0-5]\d|60)(\.\d+)?(z|[+-]([01]\d|2[0-3]):[0-5]\d)",
    re.IGNORECASE,
)
_URI = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*:[!-~]*")


def _is_date(text: str) -> bool:
    """Whether it is a day of RFC 3339, which has a year 0 that Python has not."""
    day = "2000" + text.removeprefix("0000") if text.startswith("0000") else text
    return len(day) == 10 and bool(datetime.date.fromisoformat(day))


def _is_date_time(text: str) -> bool:
    day, between, time = text[:10], text[10:11], text[11:]
    return between in set("Tt ") and _is_date(day) and bool(_TIME.fullmatch(time))


FORMATS: dict[str, Callable[[str], object]] = {
    "date-time": _is_date_time,
    "date": _is_date,
    "time": _TIME.fullmatch,
    "duration": _DURATION.fullmatch,
    "email": re.compile(r"[^@\s]+@[^@\s]+|\"[^\"]*\"@[^@\s]+").fullmatch,
    "hostname": re.compile(rf"{_LABEL}(\.{_LABEL})*").fullmatch,
    "ipv4": ipaddress.IPv4Address,
    "ipv6": ipaddress.IPv6Address,
    "uuid": lambda text: len(text) == 36 and uuid.UUID(text),
    "uri": _URI.fullmatch,
}
CHECKER = jsonschema.FormatChecker(formats=())
for _name, _check in FORMATS.items():
    CHECKER.checks(_name, raises=ValueError)(
        lambda value, check=_check: not isinstance(value, str) or bool(check(value))
    )


def fault_of(text: str, *, schema: Any) -> str:
    """Says why a text is no JSON of that schema, "" if it is.

    Numbers are decimal, so that 0.3 is three times 0.1.
    """
    try:
        value = json.loads(text, parse_float=Decimal)
    except ValueError as error:
        return f"is no JSON: {error}"
    exact = json.loads(json.dumps(schema), parse_float=Decimal)
    kind = validator_for(exact, default=jsonschema.Draft202012Validator)
    errors = kind(exact, format_checker=CHECKER).iter_errors(value)
    return next((error.message for error in errors), "")
