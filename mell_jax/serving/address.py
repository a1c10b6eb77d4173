"""Addresses are found out early, and kept while front ends come and go."""

import resource
import socket
from dataclasses import dataclass

from mell_jax.serving.config import ServerConfig


class BindError(OSError):
    """The address cannot be listened on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Addresses:
    """A server listens at these addresses, each as host:port."""

    grpc: str
    http: str | None = None
    health: str | None = None  # on a port of its own


def allow_many_sockets() -> None:
    """Lets this process and its children have as many files as they may ask for."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def check_addresses(config: ServerConfig) -> None:
    """Finds out early whether a server could listen.

    Raises:
      BindError: an address is taken or not this machine's.
    """
    listen(config.host, port=config.port, flag="--port").close()
    for port, flag in (
        (config.http_port, "--http_port"),
        (config.health_port, "--health_port"),
    ):
        if port is not None:
            listen(config.host, port=port, flag=flag).close()


def listen(
    host: str,
    *,
    port: int,
    flag: str,
    is_shared: bool = False,
    is_host_fixed: bool = False,
) -> socket.socket:
    """Returns a socket that listens.

    Args:
      host: interface.
      port: 0 for any free one; `getsockname` tells which.
      flag: what chose the port.
      is_shared: others of ours listen there, too.
      is_host_fixed: no flag chooses another interface.

    Raises:
      BindError: the address is taken or not this machine's.
    """
    try:
        return socket.create_server(
            (host, port), family=_family(host), reuse_port=is_shared
        )
    except OSError as error:
        choice = flag if is_host_fixed else f"--host or {flag}"
        raise _refused(host, port, choice, error) from error


def reserve(host: str, *, port: int, flag: str) -> socket.socket:
    """Returns a socket that keeps the port for our own front ends, which share it.

    It takes no connections. No other server can have the port meanwhile: sharing needs
    the consent of all that share, and other servers of ours do not ask for it.

    Args:
      host: interface.
      port: 0 for any free one; `getsockname` tells which.
      flag: what chose the port.

    Raises:
      BindError: the address is taken or not this machine's.
    """
    listen(host, port=port, flag=flag).close()
    sock = socket.socket(_family(host), socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        raise _refused(host, port, f"--host or {flag}", error) from error
    return sock


def join_address(host: str, *, port: int) -> str:
    """Returns host and port as gRPC wants them."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _refused(host: str, port: int, choice: str, error: OSError) -> BindError:
    return BindError(
        f"cannot listen on {join_address(host, port=port)}: {error.strerror}; "
        f"choose another {choice}"
    )
