"""The security files are tried before minutes of loading."""

from mell_jax.serving.security.config import SecurityConfig
from mell_jax.serving.security.gate import Gate
from mell_jax.serving.security.tls import TlsFiles


def check_security(config: SecurityConfig) -> None:
    """Finds out early whether the files can be used.

    Raises:
      ValueError: a file is not as it should be.
      OSError: a file cannot be read.
    """
    Gate(config.tokens_file)
    if config.tls_cert:
        TlsFiles(config)
