"""The choices of an operator about security."""

from dataclasses import dataclass

from mell_jax.settings.setting import setting


@dataclass(frozen=True, slots=True, kw_only=True)
class SecurityConfig:
    """Files are named by plain values, which can be sent to other processes.

    Raises:
      ValueError: some of the files are no use without others.
    """

    tls_cert: str = setting(
        "",
        is_flag=True,
        help="This file holds the server's certificate chain (PEM) and turns TLS on; "
        "an empty text leaves it off.",
    )
    tls_key: str = setting(
        "", is_flag=True, help="This file holds the certificate's private key (PEM)."
    )
    tls_client_ca: str = setting(
        "",
        help="Clients must show a certificate that an authority in this file (PEM) has "
        "signed; an empty text wants none.",
    )
    tokens_file: str = setting(
        "",
        is_flag=True,
        help='Clients must show a token of this file, which holds {"tokens": '
        '[{"token": ..., "tenant": ..., "rights": ["generate"]}]}; an empty text '
        "wants none.",
    )

    def __post_init__(self) -> None:
        if bool(self.tls_cert) != bool(self.tls_key):
            raise ValueError("tls_cert and tls_key need each other: give both")
        if self.tls_client_ca and not self.tls_cert:
            raise ValueError("tls_client_ca needs tls_cert and tls_key too")
