"""Measures methods of live objects from outside, without a trace in their code.

clock = StepClock()
with clock.watch(engine, "step"), clock.watch(batcher, "plan"):
    ...
clock.laps["plan"]    # seconds of every call
"""

import contextlib
import functools
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any, final


@final
class StepClock:
    """Collects how long watched methods take, by the names they are given."""

    def __init__(self) -> None:
        self.laps: defaultdict[str, list[float]] = defaultdict(list)

    def reset(self) -> None:
        """Forgets everything."""
        self.laps.clear()

    def timed(self, function: Callable[..., Any], *, name: str) -> Callable[..., Any]:
        """Returns `function`, noting the seconds of each call under `name`."""

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            start_s = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.laps[name].append(time.perf_counter() - start_s)

        return call

    @contextlib.contextmanager
    def watch(self, owner: object, method: str, *, name: str = "") -> Iterator[None]:
        """Times `owner.method` within the block; `owner` is an object or a class."""
        timed = self.timed(getattr(owner, method), name=name or method)
        with replaced(owner, method, timed):
            yield


@contextlib.contextmanager
def replaced(owner: object, name: str, value: object) -> Iterator[None]:
    """Puts `value` in the place of an attribute within the block."""
    missing = object()
    own = vars(owner).get(name, missing)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if own is missing:
            delattr(owner, name)
        else:
            setattr(owner, name, own)
