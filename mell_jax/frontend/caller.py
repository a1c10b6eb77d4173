"""A caller is known by a tenant, a scope of request ids, and a right."""

from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """A caller is described as the door that let it in knows it.

    What guards one caller from another has no default: a door that forgot it would open
    to everybody.

    Attributes:
        tenant: whose quota counts and whose cached prompts are used; empty for none.
        scope: whose request ids these are; empty where nobody shows a token.
        may_send_special_tokens: in prompts that no chat template makes. Without it
            the letters of special tokens that a text spells stay letters, and their
            ids are refused.
        weight: of the tenant's part where several tenants wait.
    """

    tenant: str
    scope: str
    may_send_special_tokens: bool
    weight: float = 1.0

    @classmethod
    def of_library(cls) -> Self:
        """Returns the program that runs the engine itself: it may do everything."""
        return cls(tenant="", scope="", may_send_special_tokens=True)

    @property
    def salt(self) -> bytes:
        """Requests share cached prompts only with requests of the same salt."""
        return self.tenant.encode("ascii")

    def scoped(self, request_id: str) -> str:
        """Returns an id that no other holder of a token can name; empty stays empty."""
        if not (self.scope and request_id):
            return request_id
        return f"{self.scope}/{request_id}"
