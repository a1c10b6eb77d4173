"""Flags of `mell-serve` about who may ask for how much, and over which wires.

Apart from `launch.py` only for their number; it alone calls what is here.
"""

from absl import flags

from mell_jax.frontend import Limits
from mell_jax.serving.config import SERVER_LIMITS, ServerConfig
from mell_jax.serving.security import SecurityConfig

_TLS_CERT = flags.DEFINE_string("tls_cert", "", "Certificate chain (PEM); means TLS.")
_TLS_KEY = flags.DEFINE_string("tls_key", "", "The certificate's private key (PEM).")
_TLS_CLIENT_CA = flags.DEFINE_string(
    "tls_client_ca", "", "Clients must show a certificate that one of these signed."
)
_TOKENS_FILE = flags.DEFINE_string(
    "tokens_file",
    "",
    'Clients must show a token of this file: {"tokens": [{"token": ..., "tenant": ..., '
    '"rights": ["generate"]}]}.',
)
_MAX_QUEUED = flags.DEFINE_integer(
    "max_queued", SERVER_LIMITS.max_queued, "Samples that may wait for a first token."
)
_MAX_QUEUED_TOKENS = flags.DEFINE_integer(
    "max_queued_tokens", SERVER_LIMITS.max_queued_tokens, "Prompt tokens that may wait."
)
_TENANT_MAX_OPEN = flags.DEFINE_integer(
    "tenant_max_open", None, "Samples that one tenant may have open; no bound."
)
_TENANT_MAX_QUEUED_TOKENS = flags.DEFINE_integer(
    "tenant_max_queued_tokens", None, "Prompt tokens of one tenant that may wait."
)
_QUEUE_TIMEOUT_S = flags.DEFINE_float(
    "queue_timeout_s", SERVER_LIMITS.queue_timeout_s, "Longest wait for a first token."
)
_REQUEST_TIMEOUT_S = flags.DEFINE_float(
    "request_timeout_s", SERVER_LIMITS.request_timeout_s, "Longest time for a request."
)
_MAX_OUTPUT_TOKENS = flags.DEFINE_integer(
    "max_output_tokens", None, "Tokens that a sample may get; what the context leaves."
)
_MAX_OPEN = flags.DEFINE_integer(
    "max_open", ServerConfig().max_open, "Requests that may be open, also with tokens."
)
_STALL_TIMEOUT_S = flags.DEFINE_float(
    "stall_timeout_s", 60.0, "How long a stream waits for a reader that takes nothing."
)
_MAX_CONNECTION_AGE_S = flags.DEFINE_float(
    "max_connection_age_s",
    None,
    "gRPC clients are asked to connect again after so long; streams go on. Never.",
)
_GRACE_S = flags.DEFINE_float(
    "grace_s",
    0.0,
    "How long requests are still taken after a stop signal, for load balancers to see "
    "that health says NOT_SERVING.",
)


def limits_from_flags() -> Limits:
    """What the server lets in.

    Raises:
      ValueError: a flag is out of range.
    """
    return Limits(
        max_queued=_MAX_QUEUED.value,
        max_queued_tokens=_MAX_QUEUED_TOKENS.value,
        max_tenant_open=_TENANT_MAX_OPEN.value,
        max_tenant_queued_tokens=_TENANT_MAX_QUEUED_TOKENS.value,
        queue_timeout_s=_QUEUE_TIMEOUT_S.value,
        request_timeout_s=_REQUEST_TIMEOUT_S.value,
        max_output_tokens=_MAX_OUTPUT_TOKENS.value,
    )


def security_from_flags() -> SecurityConfig:
    """TLS and tokens.

    Raises:
      ValueError: some files are no use without others.
    """
    return SecurityConfig(
        tls_cert=_TLS_CERT.value,
        tls_key=_TLS_KEY.value,
        tls_client_ca=_TLS_CLIENT_CA.value,
        tokens_file=_TOKENS_FILE.value,
    )


def grace_from_flags() -> float:
    """Seconds."""
    return float(_GRACE_S.value)


def max_connection_age_from_flags() -> float | None:
    """Seconds; None for no bound."""
    age_s = _MAX_CONNECTION_AGE_S.value
    return None if age_s is None else float(age_s)


def max_open_from_flags() -> int:
    """Requests."""
    return int(_MAX_OPEN.value)


def stall_timeout_from_flags() -> float:
    """Seconds."""
    return float(_STALL_TIMEOUT_S.value)
