"""TLS between processes of a fleet: both ends show a certificate of one authority."""

import ssl
from dataclasses import dataclass


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
    return _context(paths, ssl.PROTOCOL_TLS_SERVER), _context(
        paths, ssl.PROTOCOL_TLS_CLIENT
    )


def _context(paths: TlsPaths, protocol: int) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(paths.cert, paths.key)
    context.load_verify_locations(paths.ca)
    context.check_hostname = False  # hosts move; the authority is the fleet's own
    context.verify_mode = ssl.CERT_REQUIRED
    return context
