"""The controls are what every door of the administration works with.

    a door --begin--> engine's thread, between two steps
                  --> a thread that loads weights, then the engine's

What they begin is a future: a door waits for it as it can, and cancels it when its
caller has gone. Updates of weights take turns on a thread of their own, so neither the
engine nor a door stands still while files are read.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar, final, get_args

from mell_jax.engine.admin import (
    Answer,
    Command,
    OpenRequests,
    Pause,
    RequestsAborted,
    Sleep,
    WeightsUpdated,
    check_version,
)
from mell_jax.engine.params import InvalidRequestError
from mell_jax.frontend import Caller, OverloadedError
from mell_jax.scheduler.placement.operator import NotPossibleError
from mell_jax.serving.admin.weights_path import find_weights
from mell_jax.serving.problem import NotAnsweredError

Administer = Callable[[Command], Future[Answer]]
T = TypeVar("T")
Abort = Callable[[Sequence[str]], None]
_PATIENCE_S = 60.0
_MAX_UPDATES = 4  # one loads, the others wait for their turn


class WeightsLoader(Protocol):
    """A loader brings weights of a path into the running engine."""

    def update(
        self,
        path: Path,
        *,
        version: str | None,
        open_requests: OpenRequests,
        model: str | None,
        streamed: bool,
    ) -> WeightsUpdated:
        """Loads, checks and swaps weights; blocks until the engine has them.

        Raises:
          ValueError: the files cannot be used, or are another model's.
          OSError: a file cannot be read.
          UnknownTargetError: no such model is served.
          NotPossibleError: the engine cannot take them as things are.
          InvalidRequestError: a value is out of range.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class PathUpdate:
    """An update by path asks for the weights that lie somewhere.

    Attributes:
      path: on the server's machine.
      version: how these weights are called; None for the loader's choice.
      open_requests: what becomes of them, as `UpdateWeights` has it.
      model: None for the first one.
      streamed: loads array by array while streams wait, in place of all beside those
        that are served.

    Raises:
      ValueError: a value is out of range, the first word of the message.
    """

    path: str
    version: str | None = None
    open_requests: OpenRequests = "keep"
    model: str | None = None
    streamed: bool = False

    def __post_init__(self) -> None:
        if self.open_requests not in get_args(OpenRequests):
            raise ValueError(
                f"open_requests must be one of {', '.join(get_args(OpenRequests))}, "
                f"got {self.open_requests!r:.100}"
            )
        if self.version is not None:
            check_version(self.version)


@dataclass(frozen=True, slots=True, kw_only=True)
class AbortIds:
    """This ends the requests of these ids, as the same caller chose them."""

    request_ids: tuple[str, ...]


Asked = Command | PathUpdate | AbortIds


def checked(make: Callable[[], T]) -> T:
    """Makes a value, whose own complaint becomes a caller's mistake.

    Raises:
      InvalidRequestError: a field of it is out of range.
    """
    try:
        return make()
    except ValueError as error:  # "max_results must be ..."
        field, _, rule = str(error).partition(" ")
        raise InvalidRequestError(field, rule) from error


def not_answered(answer: Future[Answer], *, waited_s: float) -> NotAnsweredError:
    """Gives an answer up, and returns what to tell its caller."""
    done = "nothing was done" if answer.cancel() else "it may yet be done"
    return NotAnsweredError(f"the engine has not answered in {waited_s:.1f} s; {done}")


@final
class Controls:
    """Takes what operators ask to where it is done; from any thread."""

    def __init__(
        self,
        ask: Administer,
        *,
        loader: WeightsLoader | None = None,
        weights_dirs: Sequence[str] = (),
        abort: Abort = lambda _: None,
        devices: int = 1,
        instances: int = 1,
        patience_s: float = _PATIENCE_S,
        no_updates: str = "",
    ) -> None:
        """Begins nothing yet.

        Args:
          ask: takes commands to the engine without blocking.
          loader: None where no weights can be loaded.
          weights_dirs: folders from which they may come.
          abort: ends requests by the ids that clients chose.
          devices: that the engine has.
          instances: among which they are divided.
          patience_s: that doors have with an engine that should answer at once.
          no_updates: why none are taken, and what to do instead; empty: they are.
        """
        assert loader is not None or not weights_dirs, "what lies there is loaded"
        self._patience_s = patience_s
        self._no_updates = no_updates
        self._ask = ask
        self._abort = abort
        self.devices = devices
        self.instances = instances
        self._loader = loader
        self._weights_dirs = tuple(weights_dirs)
        self._updates = ThreadPoolExecutor(1, thread_name_prefix="mell-weights")
        self._open: set[Future[Answer]] = set()

    def begin(self, asked: Asked, *, caller: Caller) -> Future[Answer]:
        """Begins what a caller asks, without blocking.

        Raises:
          OverloadedError: too many updates wait already.
          NotPossibleError: none are taken here.
        """
        match asked:
            case PathUpdate():
                return self._update(asked)
            case AbortIds():
                self._abort([caller.scoped(each) for each in asked.request_ids])
                done: Future[Answer] = Future()
                done.set_result(RequestsAborted(aborted=None))
                return done
            case _:
                return self._ask(asked)

    def patience_s(self, asked: Asked) -> float | None:
        """Returns how long a door waits for an answer; None: as long as it takes."""
        match asked:
            case PathUpdate() | Pause(mode="wait") | Sleep(mode="wait"):
                return None
            case _:
                return self._patience_s

    def close(self) -> None:
        """Drops updates that wait, and leaves one that loads to itself."""
        self._updates.shutdown(wait=False, cancel_futures=True)

    def _update(self, asked: PathUpdate) -> Future[Answer]:
        """Begins an update, or files it behind those that were asked for before."""
        if self._no_updates:
            raise NotPossibleError(self._no_updates)
        if not (len(self._open) < _MAX_UPDATES):
            raise OverloadedError(
                f"{len(self._open)} updates of weights load or wait already; ask again "
                "when one is done",
                retry_after_s=1.0,
            )
        update = self._updates.submit(self._load, asked)
        self._open.add(update)
        update.add_done_callback(self._open.discard)
        return update

    def _load(self, asked: PathUpdate) -> Answer:
        place = find_weights(asked.path, roots=self._weights_dirs)  # a disk may hang
        assert self._loader is not None, "no folder is named without a loader"
        try:
            return self._loader.update(
                place,
                version=asked.version,
                open_requests=asked.open_requests,
                model=asked.model,
                streamed=asked.streamed,
            )
        except InvalidRequestError:
            raise
        except (ValueError, OSError) as error:  # a CheckpointError is a ValueError
            raise InvalidRequestError("path", f"cannot be used: {error}") from error
