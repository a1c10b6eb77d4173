"""Addresses are found out early, and kept while front ends come and go."""

import contextlib
import logging
import os
import resource
import socket
import stat
from dataclasses import dataclass

from mell_jax.serving.config import ServerConfig

OWNERS_MODE = 0o600  # of a socket's file
_logger = logging.getLogger(__name__)


class BindError(OSError):
    """The address cannot be listened on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Addresses:
    """A server listens at these addresses, each as host:port or unix:/path."""

    grpc: str
    http: str | None = None
    health: str | None = None  # on a port of its own


def allow_many_sockets() -> None:
    """Lets this process and its children have as many files as they may ask for."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    except (ValueError, OSError) as error:  # the kernel's own bound is lower
        _logger.warning("this process cannot have %d files: %s", most, error)


def check_addresses(config: ServerConfig) -> None:
    """Finds out early whether a server could listen.

    Raises:
      BindError: an address is taken or not this machine's.
    """
    for path, name in (
        (config.unix_socket, "unix_socket"),
        (config.http_unix_socket, "http_unix_socket"),
    ):
        if path is not None:
            clear_file(path, name=name)
    for port, flag in (
        (None if config.unix_socket is not None else config.port, "--port"),
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


def clear_file(path: str, *, name: str) -> None:
    """Removes a socket on which nobody listens, so that a server can.

    Args:
      path: where it lies, if it does.
      name: of the setting that chose it.

    Raises:
      BindError: somebody listens there, it is no socket, or its folder cannot be used.
    """
    choice = f"; choose another {name}"
    folder = os.path.dirname(path)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise BindError(f"cannot listen on {path}: no folder to write to{choice}")
    if not os.path.lexists(path):
        return
    if not stat.S_ISSOCK(os.lstat(path).st_mode):
        raise BindError(f"cannot listen on {path}: there is another file{choice}")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        try:
            sock.connect(path)
        except ConnectionRefusedError:  # its server has gone without a last word
            remove_file(path)
            return
        except OSError as error:
            raise BindError(
                f"cannot listen on {path}: {error.strerror}{choice}"
            ) from error
    raise BindError(f"cannot listen on {path}: Address already in use{choice}")


def listen_on_file(path: str, *, name: str) -> socket.socket:
    """Returns a socket that listens on a file, its owner's alone; see `clear_file`.

    Raises:
      BindError: the file cannot be listened on.
    """
    clear_file(path, name=name)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(path)
        os.chmod(path, OWNERS_MODE)
        sock.listen()
    except OSError as error:
        sock.close()
        raise BindError(
            f"cannot listen on {path}: {error.strerror}; choose another {name}"
        ) from error
    return sock


def remove_file(path: str) -> None:
    """Removes a socket's file, if it is still there."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


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
