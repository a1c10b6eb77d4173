"""TLS serves both doors from the same files; a connection uses their latest contents.

Certificates change by replacing files. Pairs that do not fit, as between the two
replacements, are not used: connections go on with the old ones.
"""

import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import final

import grpc

from mell_jax.serving.security.config import SecurityConfig
from mell_jax.serving.security.watched import Watched


@dataclass(frozen=True, slots=True, kw_only=True)
class _Material:
    """Holds what the files had, known to fit."""

    certificate: bytes
    key: bytes
    client_ca: bytes | None
    context: ssl.SSLContext


@final
class TlsFiles:
    """Keeps the certificate files of one server."""

    def __init__(
        self, config: SecurityConfig, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Reads the files.

        Raises:
          ValueError: the key is not the certificate's, or a file is no PEM.
          OSError: a file cannot be read.
        """
        self._config = config
        paths = [config.tls_cert, config.tls_key, config.tls_client_ca]
        self._watched = Watched(
            [Path(path) for path in paths if path], load=self._load, clock=clock
        )

    def grpc_credentials(self) -> grpc.ServerCredentials:
        """Returns credentials for `add_secure_port`."""
        given = self._watched.get()

        def fetch() -> grpc.ServerCertificateConfiguration | None:
            """Returns a new configuration before a handshake; None for no change."""
            nonlocal given
            latest = self._watched.get()
            if latest is given:
                return None
            given = latest
            return _grpc_configuration(latest)

        return grpc.dynamic_ssl_server_credentials(
            _grpc_configuration(given),
            fetch,
            require_client_authentication=given.client_ca is not None,
        )

    def ssl_context(self) -> ssl.SSLContext:
        """Returns a context for sockets of asyncio."""
        outer = self._new_context()

        def choose(
            connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext
        ) -> None:
            """Chooses the context of a handshake, also if the client names no host."""
            connection.context = self._watched.get().context

        outer.sni_callback = choose
        return outer

    def _load(self) -> _Material:
        config = self._config
        try:
            context = self._new_context()
        except ssl.SSLError as error:  # is an OSError without a file's name
            raise ValueError(
                f"{config.tls_cert} and {config.tls_key}"
                f"{' and ' if config.tls_client_ca else ''}{config.tls_client_ca} "
                f"cannot be used together: {error}"
            ) from error
        ca = config.tls_client_ca
        return _Material(
            certificate=Path(config.tls_cert).read_bytes(),
            key=Path(config.tls_key).read_bytes(),
            client_ca=Path(ca).read_bytes() if ca else None,
            context=context,
        )

    def _new_context(self) -> ssl.SSLContext:
        config = self._config
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_TICKET  # a resumed session is not checked anew
        context.num_tickets = 0
        context.set_alpn_protocols(["http/1.1"])
        context.load_cert_chain(config.tls_cert, config.tls_key, password=_no_password)
        if config.tls_client_ca:
            context.load_verify_locations(config.tls_client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
        return context


def _no_password() -> str:
    """Answers instead of a question at the terminal."""
    raise ValueError("tls_key is encrypted; give one that is not")


def _grpc_configuration(material: _Material) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(material.key, material.certificate)], root_certificates=material.client_ca
    )
