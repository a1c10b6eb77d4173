"""Whoever looks for a controller in vain says so, ever more seldom, and looks on.

a miss  ->  a line     1 s later  ->  a line     2 s, 4 s, ... 60 s later  ->  a line
"""

import socket
import ssl
import time
from collections.abc import Callable
from typing import final

from absl import logging

from mell_jax.hosts.link import Link, LinkConfig, connect
from mell_jax.hosts.wire import Hello

FIRST_S, MOST_S = 1.0, 60.0
"""Between two lines."""


def why(error: Exception) -> str:
    """Returns why there is no link, and what may help."""
    match error:
        case ssl.SSLError():
            return _why_no_tls(error)
        case socket.gaierror():
            return f"there is no machine of that name ({error.strerror})"
        case ConnectionRefusedError():
            return "nobody listens there"
        case TimeoutError():
            return (
                "nobody answers in time: is it the right address, with TLS at both "
                "ends or at none?"
            )
        case _:
            return str(error) or type(error).__name__


def _why_no_tls(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            "whoever listens there shows no certificate that the authority of "
            f"fleet_tls_ca has signed ({error.verify_message})"
        )
    if "ALERT" in (error.reason or ""):
        return (
            "whoever listens there does not take our certificate (tls_cert): has the "
            f"authority of its fleet_tls_ca signed it? ({error.reason})"
        )
    return (
        "whoever listens there does not speak TLS: give fleet_tls_ca at both ends, or "
        f"at none ({error.reason})"
    )


@final
class Seeking:
    """The seeking is for one address.

    Args:
      address: of a controller.
      clock: seconds, never backwards.
    """

    def __init__(
        self, address: str, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.address = address
        self._clock = clock
        self._tries = 0
        self._since_s = self._next_s = 0.0
        self._pause_s = FIRST_S

    async def seek(self, *, hello: Hello, config: LinkConfig) -> Link | None:
        """Returns a link to the controller; None if there is none, which is told."""
        try:
            link = await connect(self.address, hello=hello, config=config)
        except (OSError, TimeoutError) as error:
            self.missed(error)
            return None
        self.found()
        return link

    def missed(self, error: Exception) -> None:
        """There was no link."""
        now_s = self._clock()
        if self._tries == 0:
            self._since_s = self._next_s = now_s
            self._pause_s = FIRST_S
        self._tries += 1
        if now_s < self._next_s:
            return
        so_far = f" ({self._tries} tries in {now_s - self._since_s:.0f} s)"
        logging.warning(
            "no link to the controller at %s: %s; it is tried until there is one%s",
            self.address,
            why(error),
            so_far if self._tries > 1 else "",
        )
        self._next_s = now_s + self._pause_s
        self._pause_s = min(2 * self._pause_s, MOST_S)

    def found(self) -> None:
        """There is a link."""
        self._tries = 0
