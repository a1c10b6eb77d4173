"""Flags of `mell-serve` about where it serves, whom, how much, and how it ends.

Apart from `launch.py` only for their number; it alone calls what is here.
"""

from absl import flags

from mell_jax.frontend import AdmissionLimits
from mell_jax.serving.config import SERVER_LIMITS, ServerConfig
from mell_jax.serving.observe.logs import LogFormat
from mell_jax.serving.security.config import SecurityConfig

_HOST = flags.DEFINE_string("host", "127.0.0.1", "Interface; 0.0.0.0 for all of them.")
_PORT = flags.DEFINE_integer("port", 50051, "Port; 0 for any free one.")
_HTTP_PORT = flags.DEFINE_integer(
    "http_port",
    None,
    "Port for OpenAI's API at /v1, /health and /metrics; 0 for any free one. Off.",
)
_CHAT_TEMPLATE = flags.DEFINE_multi_string(
    "chat_template", [], "File with a model's chat template; name=file for one of them."
)
_METRICS_COMPAT = flags.DEFINE_enum(
    "metrics_compat",
    "",
    ["", "vllm"],
    "Shows metrics also by the names that dashboards for vLLM know.",
)
_DRAIN_S = flags.DEFINE_float(
    "drain_s", 30.0, "How long open requests may go on after a stop signal."
)
_FRONTENDS = flags.DEFINE_integer(
    "frontends", 1, "Processes that talk to clients; 0 for a thread of the engine's."
)
_HEALTH_PORT = flags.DEFINE_integer(
    "health_port", None, "Health on a port of its own, which always answers; 0: any."
)
_STALL_S = flags.DEFINE_float(
    "stall_s", 60.0, "Not ready when the engine makes no progress for so long."
)
_REFLECTION = flags.DEFINE_bool("reflection", True, "Let tools ask what is served.")
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


def server_from_flags(*, log_format: LogFormat, otlp_endpoint: str) -> ServerConfig:
    """Where and how to serve.

    Raises:
      ValueError: a flag is out of range, or files are no use without others.
    """
    return ServerConfig(
        host=_HOST.value,
        port=_PORT.value,
        grace_s=_GRACE_S.value,
        drain_s=_DRAIN_S.value,
        max_connection_age_s=_MAX_CONNECTION_AGE_S.value,
        max_open=_MAX_OPEN.value,
        is_reflection_on=_REFLECTION.value,
        http_port=_HTTP_PORT.value,
        shows_vllm_names=_METRICS_COMPAT.value == "vllm",
        frontends=_FRONTENDS.value,
        health_port=_HEALTH_PORT.value,
        stall_s=_STALL_S.value,
        limits=_limits_from_flags(),
        security=_security_from_flags(),
        stall_timeout_s=_STALL_TIMEOUT_S.value,
        chat_templates=tuple(_CHAT_TEMPLATE.value),
        log_format=log_format,
        otlp_endpoint=otlp_endpoint,
    )


def _limits_from_flags() -> AdmissionLimits:
    return AdmissionLimits(
        max_queued=_MAX_QUEUED.value,
        max_queued_tokens=_MAX_QUEUED_TOKENS.value,
        max_tenant_open=_TENANT_MAX_OPEN.value,
        max_tenant_queued_tokens=_TENANT_MAX_QUEUED_TOKENS.value,
        queue_timeout_s=_QUEUE_TIMEOUT_S.value,
        request_timeout_s=_REQUEST_TIMEOUT_S.value,
        max_output_tokens=_MAX_OUTPUT_TOKENS.value,
    )


def _security_from_flags() -> SecurityConfig:
    return SecurityConfig(
        tls_cert=_TLS_CERT.value,
        tls_key=_TLS_KEY.value,
        tls_client_ca=_TLS_CLIENT_CA.value,
        tokens_file=_TOKENS_FILE.value,
    )
