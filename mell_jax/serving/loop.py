"""Front ends run in this event loop: uvloop's where it is installed."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from importlib.util import find_spec
from typing import Any, TypeVar

T = TypeVar("T")
_logger = logging.getLogger(__name__)


def run_loop(work: Coroutine[Any, Any, T]) -> T:
    """Runs `work` to its end in a new event loop."""
    with asyncio.Runner(loop_factory=_factory()) as runner:
        return runner.run(work)


def _factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    if find_spec("uvloop") is None:
        return None
    try:
        import uvloop  # noqa: PLC0415 an optional extra
    except ImportError as error:  # made for another Python, or another libc
        _logger.warning("uvloop is installed and cannot be used: %s", error)
        return None
    return uvloop.new_event_loop
