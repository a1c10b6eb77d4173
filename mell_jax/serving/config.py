"""The choices of an operator about the server."""

from dataclasses import dataclass

from mell_jax.frontend.limits import AdmissionLimits
from mell_jax.serving.observe.logs import LogFormat
from mell_jax.serving.security.config import SecurityConfig
from mell_jax.settings.setting import setting

SERVER_LIMITS = AdmissionLimits(
    max_queued=4096,
    max_queued_tokens=4_000_000,
    queue_timeout_s=600.0,
    request_timeout_s=7200.0,
)
NO_SECURITY = SecurityConfig()
LOOPBACK = "127.0.0.1"
_LOOPBACKS = (LOOPBACK, "::1")
_MAX_SOCKET_BYTES = 100  # that systems take for the path of a socket
_PORTS = ("port", "http_port", "health_port", "admin_port", "admin_http_port")
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
    """A server is described by plain values, which go to front ends in other processes.

    Attributes:
      limits: bounds of what waits and for how long.
      security: TLS and tokens.

    Raises:
      ValueError: a value is out of range.
    """

    host: str = setting(
        "127.0.0.1",
        is_flag=True,
        help="The server listens on this interface; 0.0.0.0 is all of them.",
    )
    port: int = setting(
        50051, is_flag=True, help="gRPC has this port; 0 takes any free one."
    )
    http_port: int | None = setting(
        None,
        is_flag=True,
        help="OpenAI's API at /v1, /health and /metrics have this port; 0 takes any "
        "free one. By default there is no HTTP.",
    )
    health_port: int | None = setting(
        None,
        is_flag=True,
        help="Health has this port of its own, which always answers; 0 takes any free "
        "one. By default it has none.",
    )
    admin_port: int | None = setting(
        None,
        is_flag=True,
        help="mell.v1.Admin (placements, migration, drains, policy, weights) has this "
        "port of 127.0.0.1; 0 takes any free one. By default there is none.",
    )
    admin_http_port: int | None = setting(
        None,
        help="Routes for trainers (/pause, /sleep, /update_weights, ...) have this "
        "port; 0 takes any free one. By default there are none.",
    )
    admin_http_host: str = setting(
        LOOPBACK,
        help="They listen on this interface; another one than 127.0.0.1 or ::1 needs "
        "tokens_file.",
    )
    weights_dirs: tuple[str, ...] = setting(
        (),
        help="New weights may be loaded from below these folders. By default there are "
        "none, and no weights are loaded from a path.",
    )
    frontends: int = setting(
        0,
        is_flag=True,
        help="This many processes talk to clients; 0 makes it a thread of the engine's "
        "process.",
    )
    chat_templates: tuple[str, ...] = setting(
        (),
        is_flag=True,
        name="chat_template",
        help="This file holds the chat template of all models; NAME=FILE holds that of "
        "one.",
    )
    tool_formats: tuple[str, ...] = setting(
        (),
        is_flag=True,
        name="tool_format",
        help="All models write calls of tools in this format; NAME=FORMAT says it of "
        "one. By default it is found from the chat template.",
    )
    log_format: LogFormat = setting(
        "text",
        is_flag=True,
        help="The log is text for people, or JSON with one object in a line.",
    )
    verbose: bool = setting(
        False, is_flag=True, help="The log tells more, and errors have their traceback."
    )
    grace_s: float = setting(
        0.0,
        help="Requests are still taken for so long after a stop signal, while health "
        "says NOT_SERVING and load balancers turn away.",
    )
    drain_s: float = setting(
        30.0, help="Open requests may go on for so long after a stop signal."
    )
    max_open: int = setting(
        4096,
        help="At most this many requests are open, with tokens or without; more are "
        "refused.",
    )
    unix_socket: str | None = setting(
        None,
        help="gRPC listens on this file, which is its owner's alone, in place of a "
        "port; clients call it unix:/its/path.",
    )
    http_unix_socket: str | None = setting(
        None, help="HTTP listens on this file, likewise, in place of a port."
    )
    max_connection_age_s: float | None = setting(
        None,
        help="gRPC clients are asked to connect again after so long, so that a load "
        "balancer spreads them anew; streams go on. By default they never are.",
    )
    stall_s: float = setting(
        60.0,
        help="Health turns to NOT_SERVING when the engine makes no progress for so "
        "long; a device of several that gives no result for so long is left out.",
    )
    stall_timeout_s: float = setting(
        60.0, help="A stream ends when its reader takes nothing for so long."
    )
    keep_alive_s: float = setting(
        75.0,
        help="An HTTP connection may idle this long between two requests; clients and "
        "proxies keep theirs for less, and would else use one as it closes.",
    )
    sse_comment_s: float = setting(
        15.0,
        help="An HTTP stream gets a comment after so long without an event, since "
        "proxies close what is silent.",
    )
    cors_origins: tuple[str, ...] = setting(
        (), help='Web pages of these origins may call over HTTP; "*" stands for all.'
    )
    is_reflection_on: bool = setting(
        True, name="reflection", help="Tools may ask the server which services it has."
    )
    shows_vllm_names: bool = setting(
        False,
        help="Metrics are also shown by the names that vLLM gives them, for dashboards "
        "that know these.",
    )
    otlp_endpoint: str = setting(
        "",
        help="This collector gets a span per request over OTLP, such as "
        "http://127.0.0.1:4317; an empty text makes no spans.",
    )
    limits: AdmissionLimits = SERVER_LIMITS
    security: SecurityConfig = NO_SECURITY

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
        self._check_files()
        self._check_admin()

    @property
    def is_admin_local(self) -> bool:
        """Returns whether trainers' routes are for this machine alone."""
        return self.admin_http_host in _LOOPBACKS

    @property
    def has_http(self) -> bool:
        return self.http_port is not None or self.http_unix_socket is not None

    def _check_files(self) -> None:
        files = [
            (name, getattr(self, name))
            for name in ("unix_socket", "http_unix_socket")
            if getattr(self, name) is not None
        ]
        for name, path in files:
            if not (path.startswith("/") and len(path.encode()) <= _MAX_SOCKET_BYTES):
                raise ValueError(
                    f"{name} must be an absolute path of at most {_MAX_SOCKET_BYTES} "
                    f"bytes, got {path!r}"
                )
            if self.frontends > 1:
                raise ValueError(
                    f"{name} is a file, on which one process listens: set frontends to "
                    f"1 or 0, got {self.frontends}"
                )
        if len(files) == 2 and files[0][1] == files[1][1]:
            raise ValueError(
                f"http_unix_socket must not be unix_socket, both are {files[0][1]}"
            )
        if self.http_unix_socket is not None and self.http_port is not None:
            raise ValueError(
                "http_port and http_unix_socket exclude each other: HTTP listens in "
                f"one place, got {self.http_port} and {self.http_unix_socket}"
            )

    def _check_admin(self) -> None:
        if not (self.is_admin_local or self.security.tokens_file):
            raise ValueError(
                f"admin_http_host must be {' or '.join(_LOOPBACKS)} without a "
                "tokens_file: who reaches these routes may change the weights, got "
                f"{self.admin_http_host!r}"
            )
        for folder in self.weights_dirs:
            if not folder.startswith("/"):
                raise ValueError(f"weights_dirs must be absolute, got {folder!r}")

    def _check_ports(self) -> None:
        seen: dict[int, str] = {}
        for name in _PORTS:
            port = getattr(self, name)
            if not (port is None or 0 <= port <= 65535):
                raise ValueError(f"{name} must be from 0 to 65535, got {port}")
            if port and port in seen:
                raise ValueError(f"{name} must not be {seen[port]}, both are {port}")
            seen[port] = name
