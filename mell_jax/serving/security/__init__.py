"""Who may ask, and over which wires: tokens, tenants, TLS; files reloaded on change."""

from mell_jax.serving.security.callers import Caller, Gate
from mell_jax.serving.security.config import SecurityConfig
from mell_jax.serving.security.tls import TlsFiles

__all__ = ["Caller", "Gate", "SecurityConfig", "TlsFiles", "check_security"]


def check_security(config: SecurityConfig) -> None:
    """Finds out early whether the files can be used.

    Raises:
      ValueError: a file is not as it should be.
      OSError: a file cannot be read.
    """
    Gate(config.tokens_file)
    if config.tls_cert:
        TlsFiles(config)
