"""What the operator says about security."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class SecurityConfig:
    """Paths of files; plain values, so that they can be sent to other processes.

    Attributes:
      tls_cert: chain of certificates in PEM; empty for no TLS.
      tls_key: its private key.
      tls_client_ca: clients must show a certificate that one of these has signed;
        empty where they need none.
      tokens_file: bearer tokens, see `TokenFile`; empty where clients need none.

    Raises:
      ValueError: some of the files are no use without others.
    """

    tls_cert: str = ""
    tls_key: str = ""
    tls_client_ca: str = ""
    tokens_file: str = ""

    def __post_init__(self) -> None:
        if bool(self.tls_cert) != bool(self.tls_key):
            raise ValueError("tls_cert and tls_key need each other: give both")
        if self.tls_client_ca and not self.tls_cert:
            raise ValueError("tls_client_ca needs tls_cert and tls_key too")
