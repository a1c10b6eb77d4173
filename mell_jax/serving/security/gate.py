"""The gate finds out who calls, before anything else; the same for every door."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import final

from mell_jax.engine.params import InvalidRequestError
from mell_jax.frontend import Caller
from mell_jax.serving.problem import ForbiddenError, UnauthenticatedError
from mell_jax.serving.security.tokens import (
    MEANING_SPECIAL,
    TENANT,
    Holder,
    TokenTable,
    read_tokens,
)
from mell_jax.serving.security.watched import Watched

Headers = Mapping[str, str | bytes]
"""Metadata of gRPC or headers of HTTP, by names in small letters."""


@final
class Gate:
    """Tells callers apart; without tokens everybody may do everything."""

    def __init__(
        self, tokens_file: str, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Reads the tokens.

        Args:
          tokens_file: empty where clients need no token.
          clock: seconds, for looking at the file again.

        Raises:
          ValueError: the file is not as it should be.
          OSError: it cannot be read.
        """
        self._tokens: Watched[TokenTable] | None = None
        if tokens_file:
            path = Path(tokens_file)
            self._tokens = Watched([path], load=lambda: read_tokens(path), clock=clock)

    def identify(self, headers: Headers, *, right: str = "generate") -> Caller:
        """Returns the caller of a request that needs a right.

        Raises:
          UnauthenticatedError: no known token.
          ForbiddenError: the token lacks the right, or is another tenant's.
          InvalidRequestError: the tenant has strange characters or is too long.
        """
        named = _tenant_of(headers)
        if self._tokens is None:
            return Caller(tenant=named, scope="", may_send_special_tokens=True)
        table = self._tokens.get()
        holder = table.find(_token_of(headers))
        if holder is None:
            raise UnauthenticatedError("this token is not known here")
        if right not in holder.rights:
            raise ForbiddenError(f"this token lacks the right {right!r}")
        tenant = _acting(holder, named=named)
        return Caller(
            tenant=tenant,
            scope=holder.tenant,
            may_send_special_tokens=not holder.rights.isdisjoint(MEANING_SPECIAL),
            weight=table.weight_of(tenant),
        )


def _acting(holder: Holder, *, named: str) -> str:
    if named in ("", holder.tenant):
        return holder.tenant
    if "act_for_tenants" not in holder.rights:
        raise ForbiddenError(
            "x-mell-tenant names another tenant than the token's; leave it out"
        )
    return named


def _token_of(headers: Headers) -> str:
    """Returns the bearer token, which Anthropic's clients send as x-api-key."""
    key = headers.get("x-api-key")
    value = headers.get("authorization", f"Bearer {key!s}" if key else "")
    scheme, _, token = str(value).partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise UnauthenticatedError(
            "a token is needed: send the header 'authorization: Bearer TOKEN'"
        )
    return token.strip()


def _tenant_of(headers: Headers) -> str:
    tenant = headers.get("x-mell-tenant")
    if tenant is None:
        return ""
    if not (isinstance(tenant, str) and TENANT.fullmatch(tenant)):
        raise InvalidRequestError(
            "x-mell-tenant",
            f"must be 1 to 128 characters of [A-Za-z0-9._:-], got {tenant!r:.100}",
        )
    return tenant
