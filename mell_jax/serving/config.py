"""Where and how to serve, as the operator wants it."""

from dataclasses import dataclass

from mell_jax.frontend import AdmissionLimits
from mell_jax.serving.observe.logs import LogFormat
from mell_jax.serving.security.config import SecurityConfig

SERVER_LIMITS = AdmissionLimits(
    max_queued=4096,
    max_queued_tokens=4_000_000,
    queue_timeout_s=600.0,
    request_timeout_s=7200.0,
)
NO_SECURITY = SecurityConfig()
_SCHEMES = ("http://", "https://")
_RANGES = {
    "grace_s": (0, 86400),
    "drain_s": (0, 86400),
    "stall_s": (1, 86400),
    "keep_alive_s": (1, 86400),
    "sse_comment_s": (0.01, 86400),
    "max_connection_age_s": (1, 86400),
    "frontends": (0, 64),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """Plain values only: it is sent to front ends in other processes.

    Attributes:
      host: interface to listen on; 0.0.0.0 for all.
      port: 0 for any free one.
      grace_s: how long requests are still taken after a stop signal, while health says
        NOT_SERVING and load balancers turn away.
      drain_s: how long open requests may go on after that.
      max_open: open requests above which new ones are refused.
      max_connection_age_s: after which gRPC clients are asked to connect again, so that
        a load balancer spreads them anew; streams go on. None for never.
      is_reflection_on: whether tools may ask what the server speaks.
      http_port: for OpenAI's API, health and metrics; 0 for any free one, None for
        no HTTP.
      shows_vllm_names: whether metrics also have the names that vLLM gives them.
      frontends: processes that talk to clients; 0 for a thread of the engine's.
      health_port: of a second server, for health alone; 0 for any free one.
      limits: for what waits and for how long.
      stall_timeout_s: that a stream may wait for its reader.
      keep_alive_s: that an HTTP connection may idle between two requests; longer than
        proxies and clients keep one, or they would use it as it closes.
      sse_comment_s: after so long without an event an HTTP stream gets a comment, for
        proxies that close what is silent.
      cors_origins: web pages of these origins may call over HTTP; "*" for all.
      security: TLS and tokens.
      chat_templates: files of the operator; "file" for all models, "name=file" for one.
      log_format: of the log of every process.
      otlp_endpoint: of the collector of traces, http://host:port; empty for none.
      stall_s: health turns to NOT_SERVING when the engine makes no progress so long.

    Raises:
      ValueError: a value is out of range.
    """

    host: str = "127.0.0.1"
    port: int = 50051
    grace_s: float = 0.0
    drain_s: float = 30.0
    max_open: int = 4096
    max_connection_age_s: float | None = None
    is_reflection_on: bool = True
    http_port: int | None = None
    shows_vllm_names: bool = False
    frontends: int = 0
    health_port: int | None = None
    stall_s: float = 60.0
    limits: AdmissionLimits = SERVER_LIMITS
    stall_timeout_s: float = 60.0
    keep_alive_s: float = 75.0
    sse_comment_s: float = 15.0
    cors_origins: tuple[str, ...] = ()
    security: SecurityConfig = NO_SECURITY
    chat_templates: tuple[str, ...] = ()
    log_format: LogFormat = "text"
    otlp_endpoint: str = ""

    def __post_init__(self) -> None:
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if value is not None and not (low <= value <= high):
                raise ValueError(f"{name} must be from {low} to {high}, got {value}")
        if not (0.0 < self.stall_timeout_s <= 86400.0):
            raise ValueError(
                f"stall_timeout_s must be above 0 and at most 86400, got "
                f"{self.stall_timeout_s}"
            )
        if not (self.max_open >= 1):
            raise ValueError(f"max_open must be at least 1, got {self.max_open}")
        if self.otlp_endpoint and not self.otlp_endpoint.startswith(_SCHEMES):
            raise ValueError(
                "otlp_endpoint must be http://host:port, or https:// for TLS, got "
                f"{self.otlp_endpoint!r}"
            )
        self._check_ports()

    def _check_ports(self) -> None:
        seen: dict[int, str] = {}
        for name in ("port", "http_port", "health_port"):
            port = getattr(self, name)
            if not (port is None or 0 <= port <= 65535):
                raise ValueError(f"{name} must be from 0 to 65535, got {port}")
            if port and port in seen:
                raise ValueError(f"{name} must not be {seen[port]}, both are {port}")
            seen[port] = name
