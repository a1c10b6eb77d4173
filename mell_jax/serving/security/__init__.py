"""Tokens, tenants and TLS say who may ask; their files are read again on change.

Names are loaded when they are first used, so that `config` needs no gRPC.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mell_jax.serving.security.callers import Caller, Gate
    from mell_jax.serving.security.check import check_security
    from mell_jax.serving.security.config import SecurityConfig
    from mell_jax.serving.security.tls import TlsFiles

_HOME = {
    "Caller": "callers",
    "Gate": "callers",
    "SecurityConfig": "config",
    "TlsFiles": "tls",
    "check_security": "check",
}

__all__ = [
    "Caller",
    "Gate",
    "SecurityConfig",
    "TlsFiles",
    "check_security",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
