"""The controller's process runs `python -m mell_jax.hosts.controller_main`.

It reads one line of JSON from its standard input (`Orders`), writes the address where
it listens, and ends when its input does: nobody needs it then. It loads no jax.
"""

import asyncio
import sys
from dataclasses import dataclass

import msgspec

from mell_jax.console import leave, say
from mell_jax.hosts.control import Control, ControlConfig
from mell_jax.hosts.link import LinkConfig
from mell_jax.hosts.tls import TlsPaths, contexts
from mell_jax.scheduler.ids import Epoch
from mell_jax.scheduler.placement.policy import PolicyConfig
from mell_jax.serving.observe.logs import LogFormat, Place, set_up_logging


@dataclass(frozen=True, slots=True, kw_only=True)
class Orders:
    """This is what a controller's process is told."""

    address: str
    secret: str  # in hexadecimal digits
    beat_s: float
    patience: int
    policy: str
    policies: PolicyConfig
    least_hosts: int
    tls: TlsPaths | None
    log_format: LogFormat
    verbosity: int


def new_control(orders: Orders) -> Control:
    """Returns a controller that does what it is told, once it is started.

    It sets up the log of its process, whose lines name it, and ends that by a bug.
    """
    place = Place("controller")
    set_up_logging(
        orders.log_format,
        verbosity=orders.verbosity,
        process=place.name,
        place=place,
    )

    def enter(epoch: Epoch) -> None:
        place.epoch = epoch

    server, client = contexts(orders.tls)
    return Control(
        ControlConfig(
            address=orders.address,
            policy=orders.policy,
            policies=orders.policies,
            least_hosts=orders.least_hosts,
        ),
        links=LinkConfig(
            secret=bytes.fromhex(orders.secret),
            patience=orders.patience,
            beat_s=orders.beat_s,
            server=server,
            client=client,
        ),
        on_epoch=enter,
        on_failed=lambda _: leave(1),
    )


async def control(orders: Orders) -> None:
    """Runs a controller until the standard input ends."""
    made = new_control(orders)
    print(await made.start(), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await made.stop()


def main() -> int:
    """Reads orders and obeys; returns the exit status."""
    orders = msgspec.json.decode(sys.stdin.readline(), type=Orders)
    try:
        asyncio.run(control(orders))
    except OSError as error:
        say(f"mell-serve: the controller: {error}", to_error=True)
        return 1
    except KeyboardInterrupt:
        pass  # Ctrl-C is for all processes of the terminal
    return 0


if __name__ == "__main__":
    sys.exit(main())
