"""Serves with a real engine that can tell how soon it frees the pages of an abort.

    python -m benchmarks.service.engine_server FRONTENDS CONFIG [watched|open]

CONFIG is an `EngineConfig` as JSON; its model may be `random:SHAPE`. The first line of
output is the address, the last one JSON: how many pages are in use at the end, and if
it was watched what became of every abort. A tenant may have `MAX_TENANT_OPEN` samples
open, or as many as it wants where it is "open".
"""

import dataclasses
import json
import sys
import time
from collections.abc import Callable
from typing import Any, final

from benchmarks.service.measured import serve
from mell_jax.bench.shapes import model_directory
from mell_jax.engine.build import BuiltEngine, build_engine
from mell_jax.engine.config import EngineConfig
from mell_jax.engine.frames import Abort, Handle, StepFrame, Submit

MAX_TENANT_OPEN = 8


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Freed:
    """A sequence was aborted while it had pages."""

    steps: int  # that ended between the abort's arrival and its pages being free
    waited_ms: float  # between these two
    at_s: float  # when they were free, on the monotonic clock
    pages: int


@final
class AbortLog:
    """Watches a live engine from outside."""

    def __init__(self, built: BuiltEngine) -> None:
        self.freed: list[Freed] = []
        self._engine = built.engine
        self._steps = 0
        self._arrived: dict[Handle, tuple[int, float]] = {}
        self._send, self._step = built.thread.send, built.engine.step
        self._abort = built.engine.abort
        _replace(built.thread, "send", self._on_send)
        _replace(built.engine, "step", self._on_step)
        _replace(built.engine, "abort", self._on_abort)

    def _on_send(self, message: Submit | Abort) -> None:
        """On a thread of a front end's link."""
        if isinstance(message, Abort):
            for handle in message.handles:
                self._arrived[handle] = self._steps, time.monotonic()
        self._send(message)

    def _on_step(self) -> StepFrame | None:
        frame = self._step()
        self._steps += 1
        return frame

    def _on_abort(self, abort: Abort) -> None:
        for handle in abort.handles:
            before = self._engine.load().used_pages
            self._abort(Abort(handles=(handle,)))
            pages, now_s = before - self._engine.load().used_pages, time.monotonic()
            arrival = self._arrived.pop(handle, None)
            if arrival is None or not pages:
                continue  # a second abort, or it had ended by itself or not begun
            steps, since_s = arrival
            self.freed.append(
                Freed(
                    steps=self._steps - steps,
                    waited_ms=1e3 * (now_s - since_s),
                    at_s=now_s,
                    pages=pages,
                )
            )


def _replace(owner: object, name: str, function: Callable[..., Any]) -> None:
    setattr(owner, name, function)


def dump_config(config: EngineConfig) -> str:
    """Returns JSON for `load_config`."""
    return json.dumps(dataclasses.asdict(config), default=str)


def load_config(text: str) -> EngineConfig:
    """Returns what `dump_config` was given."""
    fields = json.loads(text)
    for name in ("device_ids", "decode_rows"):
        fields[name] = None if fields[name] is None else tuple(fields[name])
    return EngineConfig(**fields)


def main(
    frontends: int, config: EngineConfig, *, is_watched: bool, most: int | None
) -> int:
    """Serves until SIGTERM."""
    with model_directory(config.model) as directory:
        built = build_engine(dataclasses.replace(config, model=str(directory)))
    freed = AbortLog(built).freed if is_watched else []
    names = [model.name for model in built.models]
    cause = serve(built.thread, names=names, frontends=frontends, most=most)
    used_pages = built.engine.load().used_pages
    told = {"freed": [dataclasses.asdict(f) for f in freed], "used_pages": used_pages}
    print(json.dumps(told))
    return 1 if cause else 0


if __name__ == "__main__":
    sys.exit(
        main(
            int(sys.argv[1]),
            load_config(sys.argv[2]),
            is_watched="watched" in sys.argv[3:],
            most=None if "open" in sys.argv[3:] else MAX_TENANT_OPEN,
        )
    )
