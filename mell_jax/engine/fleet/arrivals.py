"""Results arrive from several devices; the engine's thread waits for the first of them.

A thread per device waits for that device's results and rings a bell; so does whoever
leaves a message. The engine's thread sleeps until then, and only when every instance
that could start a step has one under way.
"""

import queue
import threading
import time
import weakref
from collections.abc import Iterable, Mapping
from typing import Protocol, final

from absl import logging

from mell_jax.scheduler.ids import DeviceGroupId


class Result(Protocol):
    """A result is on its way from a device."""

    @property
    def is_ready(self) -> bool:
        """Returns whether it is here; never blocks."""

    def wait(self) -> None:
        """Blocks until it is here; raises what the device did."""


class Arrivals(Protocol):
    """This is how a fleet waits."""

    def wait(self, results: Mapping[DeviceGroupId, Result], *, most_s: float) -> None:
        """Returns when one of `results` is here, after `ring`, or after `most_s`."""

    def ring(self) -> None:
        """Ends the `wait` under way, or the next one; from any thread."""

    def end(self, *, most_s: float) -> None:
        """Waits at most so long until no thread of its own waits for a device.

        A thread that comes back from the runtime while Python is taken apart would
        abort the process.
        """


def wait_for(
    arrivals: Arrivals, result: Result, *, device: DeviceGroupId, most_s: float
) -> bool:
    """Returns whether one result is here, or comes within `most_s`."""
    end_s = time.monotonic() + most_s
    while not (is_here := result.is_ready) and (left_s := end_s - time.monotonic()) > 0:
        arrivals.wait({device: result}, most_s=left_s)
    return is_here


_Asked = queue.SimpleQueue[Result | None]


@final
class WatchedArrivals:
    """Threads watch the devices, one each, made when first needed."""

    def __init__(self) -> None:
        self._bell = _Bell()
        self._watchers: dict[DeviceGroupId, _Watcher] = {}
        weakref.finalize(self, _dismiss, self._watchers)

    def wait(self, results: Mapping[DeviceGroupId, Result], *, most_s: float) -> None:
        if _any_ready(results.values()):
            return
        for device, result in results.items():
            self._watch(device, result)
        end_s = time.monotonic() + most_s
        while self._bell.sleep(end_s - time.monotonic()):
            if self._bell.take_nudge() or _any_ready(results.values()):
                return

    def ring(self) -> None:
        self._bell.nudge()

    def end(self, *, most_s: float) -> None:
        _dismiss(self._watchers)
        end_s = time.monotonic() + most_s
        for watcher in self._watchers.values():
            watcher.thread.join(max(0.0, end_s - time.monotonic()))
        self._watchers.clear()

    def _watch(self, device: DeviceGroupId, result: Result) -> None:
        watcher = self._watchers.get(device)
        if watcher is None:
            watcher = self._watchers[device] = _Watcher(self._bell)
        watcher.watch(result)


@final
class _Bell:
    """A bell wakes one thread, for a nudge or to look at results."""

    def __init__(self) -> None:
        self._rung = queue.SimpleQueue[None]()
        self._is_nudged = False

    def ring(self) -> None:
        if self._rung.empty():  # more than one or two would tell nothing
            self._rung.put(None)

    def nudge(self) -> None:
        self._is_nudged = True
        self.ring()

    def take_nudge(self) -> bool:
        was_nudged, self._is_nudged = self._is_nudged, False
        return was_nudged

    def sleep(self, most_s: float) -> bool:
        """Returns whether it was rung within `most_s`, or since the last sleep."""
        if most_s <= 0:
            return False
        try:
            self._rung.get(timeout=most_s)
        except queue.Empty:
            return False
        return True


@final
class _Watcher:
    """A thread waits for the results of one device, which come in their order."""

    def __init__(self, bell: _Bell) -> None:
        self.asked: _Asked = queue.SimpleQueue()
        self._last: Result | None = None
        self.thread = threading.Thread(
            target=_watch_all, args=(self.asked, bell), name="mell-watch", daemon=True
        )
        self.thread.start()

    def watch(self, result: Result) -> None:
        if result is not self._last:
            self._last = result
            self.asked.put(result)


def _watch_all(asked: _Asked, bell: _Bell) -> None:
    while (result := asked.get()) is not None:
        try:
            result.wait()
        except Exception as error:  # whoever reads the result meets it again
            logging.debug("a result has come as an error: %s", error)
        finally:
            del result  # it keeps what a step made
            bell.ring()


def _dismiss(watchers: Mapping[DeviceGroupId, _Watcher]) -> None:
    """Has threads end when they have nothing more to wait for."""
    for watcher in watchers.values():
        watcher.asked.put(None)


def _any_ready(results: Iterable[Result]) -> bool:
    return any(result.is_ready for result in results)
