"""An engine's answers to operators, and a loader of weights, done in your head.

It has two models, "letters" and "digits"; the n-th update of one is called n unless its
caller says otherwise, has 1000 * n bytes, restarts 3 requests with "restart" and aborts
2 with "abort".
"""

import contextlib
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

import httpx2

from mell_jax.checkpoints import CheckpointError
from mell_jax.engine.admin import (
    AbortOpen,
    Answer,
    AskServing,
    Command,
    NameWeights,
    OpenRequests,
    Pause,
    PrefixCacheReset,
    RequestsAborted,
    ResetPrefixCache,
    Resume,
    ServingState,
    Sleep,
    Wake,
    WeightsInfo,
    WeightsUpdated,
)
from mell_jax.scheduler.placement.operator import NotPossibleError, UnknownTargetError
from mell_jax.serving.admin.controls import Controls
from mell_jax.serving.admin.trainer.port import serving_trainers
from mell_jax.serving.config import ServerConfig


class FakeAdministration:
    """Takes commands like `EngineThread.ask`, and updates like a loader."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Makes it as good as new."""
        self.asked: list[Command] = []
        self.aborted: list[str] = []
        self.is_silent = False  # answers nothing
        self.has_host_memory = True
        self.state = ServingState(
            is_paused=False,
            sleep_level=0,
            weights=tuple(
                WeightsInfo(model=name, version="0", updates=0, nbytes=1000)
                for name in ("letters", "digits")
            ),
        )
        self.loads: list[tuple[str, int]] = []  # names of folders, and how many at once
        self.is_streamed = False  # the latest update
        self.may_load = threading.Event()
        self.may_load.set()
        self._loading = 0

    def ask(self, command: Command) -> Future[Answer]:
        self.asked.append(command)
        answer: Future[Answer] = Future()
        if self.is_silent:
            return answer
        try:
            answer.set_result(self._answer(command))
        except (UnknownTargetError, NotPossibleError) as error:
            answer.set_exception(error)
        return answer

    def abort(self, request_ids: Sequence[str]) -> None:
        self.aborted += request_ids

    def update(
        self,
        path: Path,
        *,
        version: str | None,
        open_requests: OpenRequests,
        model: str | None,
        streamed: bool,
    ) -> WeightsUpdated:
        self._loading += 1
        self.loads.append((path.name, self._loading))
        self.is_streamed = streamed
        assert self.may_load.wait(20)
        self._loading -= 1
        match path.name:
            case "bad":
                raise CheckpointError(f"{path}: there is no model")
            case "other":
                raise ValueError("model.embed has the shape (3, 4), and not (3, 5)")
            case "broken":
                raise RuntimeError("a secret")
            case "unreadable":
                raise PermissionError(13, "Permission denied", str(path))
        index = self._index(model)
        found = list(self.state.weights)
        updates = found[index].updates + 1
        found[index] = replace(
            found[index],
            updates=updates,
            version=version or str(updates),
            nbytes=1000 * updates,
        )
        self.state = replace(self.state, weights=tuple(found))
        return WeightsUpdated(
            model=found[index].model,
            version=found[index].version,
            nbytes=found[index].nbytes,
            restarted=3 if open_requests == "restart" else 0,
            aborted=2 if open_requests == "abort" else 0,
        )

    def _answer(self, command: Command) -> Answer:
        match command:
            case AbortOpen():
                return RequestsAborted(aborted=5)
            case ResetPrefixCache(model=model):
                self._index(model)
                return PrefixCacheReset(pages=7)
            case Pause():
                self.state = replace(self.state, is_paused=True)
            case Resume():
                self.state = replace(self.state, is_paused=False)
            case Sleep(level=level, keeps=keeps):
                self._sleep(level, is_dropped=level == 2 and keeps == "drop")
            case Wake():
                if any(each.is_dropped for each in self.state.weights):
                    raise NotPossibleError("weights were dropped; give new ones first")
                self.state = replace(self.state, sleep_level=0, freed_bytes=0)
            case NameWeights(version=version, model=model):
                found = list(self.state.weights)
                index = self._index(model)
                found[index] = replace(found[index], version=version)
                self.state = replace(self.state, weights=tuple(found))
            case AskServing():
                pass
            case _:
                raise AssertionError(command)
        return self.state

    def _sleep(self, level: int, *, is_dropped: bool) -> None:
        if level == 2 and not (is_dropped or self.has_host_memory):
            raise NotPossibleError("no pinned memory; drop the weights instead")
        self.state = replace(
            self.state,
            sleep_level=level,
            freed_bytes=4000 * level,
            weights=tuple(
                replace(each, is_dropped=is_dropped) for each in self.state.weights
            ),
        )

    def _index(self, model: str | None) -> int:
        names = [each.model for each in self.state.weights]
        if model is not None and model not in names:
            raise UnknownTargetError(f"no model {model!r} is served here")
        return 0 if model is None else names.index(model)


@contextlib.contextmanager
def trainers(
    fake: FakeAdministration,
    *,
    weights_dirs: tuple[str, ...] = (),
    patience_s: float = 60.0,
    **config: object,
) -> Iterator[httpx2.Client]:
    """A client of the routes, on a real socket."""
    settings = ServerConfig(**{"admin_http_port": 0, **config})  # type: ignore[arg-type]
    controls = Controls(
        fake.ask,
        loader=fake,
        weights_dirs=weights_dirs,
        abort=fake.abort,
        devices=6,
        instances=3,
        patience_s=patience_s,
    )
    with (
        contextlib.closing(controls),
        serving_trainers(controls, config=settings) as address,
        httpx2.Client(base_url=f"http://{address}", timeout=30) as client,
    ):
        yield client
