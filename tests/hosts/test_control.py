"""A controller in which something has failed tells whoever runs it."""

import asyncio
from typing import Any

from mell_jax.hosts.control import Control, ControlConfig
from mell_jax.hosts.link import LinkConfig

LINKS = LinkConfig(secret=b"a test's", beat_s=0.01)


class Broken:
    """Fails at its first beat."""

    def beat(self, *, now_s: float) -> Any:
        raise ZeroDivisionError("a bug")


def test_a_bug_in_a_beat_is_told_for_nobody_else_would_notice() -> None:
    failures: list[BaseException] = []

    async def run() -> None:
        config = ControlConfig(address="127.0.0.1:0")
        control = Control(config, links=LINKS, on_failed=failures.append)
        control.coordinator = Broken()  # type: ignore[assignment]
        control._epochs = forever  # type: ignore[method-assign]
        await control.start()
        while not failures:
            await asyncio.sleep(0.01)
        await control.stop()

    async def forever() -> None:
        await asyncio.Event().wait()

    asyncio.run(asyncio.wait_for(run(), 20.0))
    assert isinstance(failures[0], ZeroDivisionError)
