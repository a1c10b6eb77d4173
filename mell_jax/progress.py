"""Progress is shown as a bar in a terminal, and told in lines of the log elsewhere.

    compiling: 3 of 12 steps

A line comes at the start and every `LINE_S`, also while nothing gets done.
"""

import logging
import threading
from types import TracebackType
from typing import NoReturn, Self, final

from tqdm import tqdm

from mell_jax.events import Event, is_told, tell

LINE_S = 10.0
_SCALES = ((10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "k"))


@final
class Progress:
    """Shows how much is done of something, inside a `with`.

    Args:
      doing: what, such as "compiling".
      total: how much there is to do.
      unit: of the total, such as "steps"; "B" is counted in kB, MB and so on.
      has_bar: shows a bar; otherwise lines are told, to a log that wants them.
      line_s: between two lines.
    """

    def __init__(
        self,
        doing: str,
        *,
        total: int,
        unit: str,
        has_bar: bool,
        line_s: float = LINE_S,
    ) -> None:
        self._doing, self._total, self._unit = doing, total, unit
        self._done = 0
        self._line_s = line_s
        self._is_over = threading.Event()
        self._thread: threading.Thread | None = None
        self._bar: tqdm[NoReturn] = tqdm(
            total=total,
            desc=doing,
            unit=unit,
            unit_scale=unit == "B",
            disable=not has_bar,
        )
        self._has_bar = has_bar

    def __enter__(self) -> Self:
        if not self._has_bar and is_told(Event.PROGRESS):
            self._tell()
            self._thread = threading.Thread(
                target=self._tell_now_and_then, name="mell-progress", daemon=True
            )
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.close()
        self._is_over.set()
        if self._thread is not None:
            self._thread.join()

    def advance(self, count: int = 1, *, note: str = "") -> None:
        """Counts what was done; a bar shows the note beside it."""
        self._done += count
        if note:
            self._bar.set_postfix_str(note)
        self._bar.update(count)

    def _tell_now_and_then(self) -> None:
        while not self._is_over.wait(self._line_s):
            self._tell()

    def _tell(self) -> None:
        tell(
            Event.PROGRESS,
            text=f"{self._doing}: {self._counted()}",
            level=logging.INFO,
            doing=self._doing,
            done=self._done,
            total=self._total,
        )

    def _counted(self) -> str:
        if self._unit != "B":
            return f"{self._done} of {self._total} {self._unit}"
        scale, letter = next((one for one in _SCALES if self._total >= one[0]), (1, ""))
        done, total = self._done / scale, self._total / scale
        return f"{done:.1f} of {total:.1f} {letter}B"
