"""SIGTERM and SIGINT end a program that starts, and tell one that serves."""

import asyncio
import os
import signal
from typing import NoReturn, final

NUMBERS = (signal.SIGTERM, signal.SIGINT)


def end_at_once_when_told() -> None:
    """Makes SIGTERM and Ctrl-C end this process; a shell sees status 143 or 130.

    An exception could be lost in a callback of the runtime. The first process of a
    container does not hear signals that it leaves to the system.
    """
    for number in NUMBERS:
        signal.signal(number, _leave if os.getpid() == 1 else signal.SIG_DFL)


def _leave(number: int, _: object) -> NoReturn:
    os._exit(128 + number)


@final
class StopSignals:
    """Turns signals into events from now on.

    Attributes:
      told: set by the first signal.
      hurry: set by the second one.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Listens for signals; call it in the loop, on the main thread."""
        self.told, self.hurry = asyncio.Event(), asyncio.Event()
        self._loop = loop
        self._first: signal.Signals | None = None
        self._before = {number: signal.getsignal(number) for number in NUMBERS}
        for number in NUMBERS:
            loop.add_signal_handler(number, self._on_signal, number)

    def pass_on(self) -> None:
        """Gives signals, and the first that came, back to their earlier handlers."""
        for number, handler in self._before.items():
            self._loop.remove_signal_handler(number)
            signal.signal(number, handler)
        if self._first is not None:
            signal.raise_signal(self._first)

    def _on_signal(self, number: signal.Signals) -> None:
        self._first = self._first or number
        (self.hurry if self.told.is_set() else self.told).set()
