"""A bearer token belongs to a tenant and has rights.

    {"tokens": [{"token": "...", "tenant": "alice", "rights": ["generate"],
                 "weight": 2}]}

A token is looked up by a keyed hash whose key nobody outside this process has, and then
compared in constant time: how long it takes tells nothing about other tokens.
"""

import hashlib
import hmac
import math
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import final

import msgspec

TENANT = re.compile(r"[A-Za-z0-9._:-]{1,128}")
RIGHTS = ("generate", "metrics", "special_tokens", "act_for_tenants", "admin")
MEANING_SPECIAL = ("special_tokens", "act_for_tenants")  # gateways write chats as ids
_TOKEN = re.compile(r"[!-~]{16,512}")
_MAX_FILE_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """A token stands for this tenant, with these rights.

    Attributes:
      tenant: whose requests these are.
      rights: "generate", "metrics", "special_tokens" (prompts may have them),
        "act_for_tenants" (may name any tenant, as a gateway does, and send special
        tokens) and "admin".
      weight: of the tenant's part where several tenants wait.
    """

    tenant: str
    rights: frozenset[str]
    weight: float = 1.0


class _Entry(msgspec.Struct, forbid_unknown_fields=True):
    token: str
    tenant: str
    rights: tuple[str, ...] = ("generate",)
    weight: float | None = None


class _File(msgspec.Struct, forbid_unknown_fields=True):
    tokens: list[_Entry]


@final
class TokenTable:
    """Holds all tokens and does not change."""

    def __init__(self, holders: Iterable[tuple[str, Holder]]) -> None:
        self._key = secrets.token_bytes(32)
        self._holders = {self._hash(token): (token, who) for token, who in holders}
        found = (holder for _, holder in self._holders.values())
        self._weights = {holder.tenant: holder.weight for holder in found}

    def __len__(self) -> int:
        return len(self._holders)

    def find(self, token: str) -> Holder | None:
        """Returns the holder of a token, or None."""
        stored, holder = self._holders.get(self._hash(token), ("", None))
        is_same = hmac.compare_digest(stored.encode(), token.encode("utf-8", "replace"))
        return holder if is_same else None

    def weight_of(self, tenant: str) -> float:
        """Returns the weight of a tenant, 1 for one without a token."""
        return self._weights.get(tenant, 1.0)

    def _hash(self, token: str) -> bytes:
        data = token.encode("utf-8", "replace")
        return hashlib.blake2b(data, key=self._key, digest_size=32).digest()


def read_tokens(path: Path) -> TokenTable:
    """Reads the tokens of a file.

    Raises:
      ValueError: the file is not as it should be; never quotes a token.
      OSError: it cannot be read.
    """
    with path.open("rb") as file:
        data = file.read(_MAX_FILE_BYTES + 1)
    if not (len(data) <= _MAX_FILE_BYTES):
        raise ValueError(f"{path} has more than {_MAX_FILE_BYTES} bytes")
    try:
        entries = msgspec.json.decode(data, type=_File).tokens
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} holds no tokens: {error}") from error
    for number, entry in enumerate(entries):
        _check(entry, where=f"{path}: tokens[{number}]")
    if len({entry.token for entry in entries}) < len(entries):
        raise ValueError(f"{path}: a token is there twice; each has one tenant")
    weights = _weights(entries, where=str(path))
    return TokenTable(
        (
            entry.token,
            Holder(
                tenant=entry.tenant,
                rights=frozenset(entry.rights),
                weight=weights.get(entry.tenant, 1.0),
            ),
        )
        for entry in entries
    )


def _weights(entries: Iterable[_Entry], *, where: str) -> dict[str, float]:
    """Returns the weights of tenants that have one: each has one, whatever its token.

    Raises:
      ValueError: two tokens of a tenant have different ones.
    """
    weights: dict[str, float] = {}
    for entry in entries:
        if entry.weight is None:
            continue
        if weights.setdefault(entry.tenant, entry.weight) != entry.weight:
            raise ValueError(
                f"{where}: the tenant {entry.tenant!r} has the weights "
                f"{weights[entry.tenant]:g} and {entry.weight:g}; give it one"
            )
    return weights


def _check(entry: _Entry, *, where: str) -> None:
    if not _TOKEN.fullmatch(entry.token):
        raise ValueError(
            f"{where}.token must be 16 to 512 printable ASCII characters without spaces"
        )
    if not TENANT.fullmatch(entry.tenant):
        raise ValueError(
            f"{where}.tenant must be 1 to 128 characters of [A-Za-z0-9._:-], got "
            f"{entry.tenant!r:.100}"
        )
    if entry.weight is not None and not (0 < entry.weight < math.inf):
        raise ValueError(
            f"{where}.weight must be a number above 0, got {entry.weight:g}"
        )
    if unknown := set(entry.rights) - set(RIGHTS):
        raise ValueError(
            f"{where}.rights may be {', '.join(RIGHTS)}, got "
            f"{sorted(unknown)[0]!r:.100}"
        )
