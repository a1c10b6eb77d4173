"""A browser shows a token as the password of HTTP's Basic scheme (RFC 7617).

It asks its user for it by itself, and shows it again wherever the page asks for more;
the name that goes with it says nothing.
"""

import base64
import binascii
from collections.abc import Mapping

BASIC_CHALLENGE = 'Basic realm="mell_jax: a token as the password", charset="UTF-8"'


def with_basic(headers: Mapping[str, str]) -> Mapping[str, str]:
    """Returns headers with the password as a bearer token, if they are of that kind."""
    scheme, _, coded = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return headers
    try:
        pair = base64.b64decode(coded.strip(), validate=True).decode("utf-8")
    except (binascii.Error, UnicodeDecodeError):
        return headers  # which no gate takes
    _, _, token = pair.partition(":")
    return {**headers, "authorization": f"Bearer {token}"}
