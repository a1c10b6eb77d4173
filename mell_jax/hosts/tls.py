"""TLS between processes of a fleet: both ends show a certificate of one authority."""

import ssl
from dataclasses import dataclass

from mell_jax.hosts.refusals import Refusals


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsPaths:
    """These files have a process's certificate, its key and the authority."""

    cert: str
    key: str
    ca: str


def contexts(
    paths: TlsPaths | None,
) -> tuple[ssl.SSLContext | None, ssl.SSLContext | None]:
    """Returns the contexts of those who listen and of those who connect.

    Raises:
      OSError: a file cannot be read, or is no such file.
    """
    if paths is None:
        return None, None
    server = _context(paths, ssl.PROTOCOL_TLS_SERVER)
    server.sslobject_class = _telling(Refusals())
    return server, _context(paths, ssl.PROTOCOL_TLS_CLIENT)


def _telling(refusals: Refusals) -> type[ssl.SSLObject]:
    """Returns ends of connections that say why a handshake has failed.

    asyncio passes such an end by in silence, since nobody waits for it.
    """

    class TellingObject(ssl.SSLObject):
        def do_handshake(self) -> None:
            try:
                super().do_handshake()
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                raise
            except ssl.SSLError as error:
                refusals.tell(None, error=_explained(error))
                raise

    return TellingObject


def _explained(error: ssl.SSLError) -> Exception:
    """Returns what the failure of a handshake means at the end that listens."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return ConnectionError(
            "its certificate is not signed by the authority of fleet_tls_ca "
            f"({error.verify_message})"
        )
    if "ALERT" in (error.reason or ""):
        return ConnectionError(
            "it does not take our certificate (tls_cert): has the authority of its "
            f"fleet_tls_ca signed it? ({error.reason})"
        )
    if error.reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
        return ConnectionError("it shows no certificate: give it tls_cert and tls_key")
    return ConnectionError(
        "it does not speak TLS as we do: give fleet_tls_ca at both ends, or at none "
        f"({error.reason})"
    )


def _context(paths: TlsPaths, protocol: int) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(paths.cert, paths.key)
    context.load_verify_locations(paths.ca)
    context.check_hostname = False  # hosts move; the authority is the fleet's own
    context.verify_mode = ssl.CERT_REQUIRED
    return context
