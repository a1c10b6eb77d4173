"""Reads what XLA writes down of an executable: the thunks that its host starts.

    000: kCommandBuffer [source | sink]           one launch: a whole graph
        001: kCustomKernel [...] fusion           inside of it, no launch of its own
    002: kConditional [...]                       the host waits here for a predicate

Only lines without an indent are started by the host. `--xla_dump_to` makes the files; a
CPU writes none.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

LAST, FIRST = "thunk_sequence_after_thunk_passes.txt", "thunk_sequence.txt"
WAITING = ("kConditional", "kWhile")
TOP = re.compile(r"\d+: (k\w+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class ThunkDump:
    """A dump is of one executable."""

    name: str  # "module_0012.jit_forward"
    top: tuple[str, ...]  # kinds that the host starts, in order

    @property
    def waits(self) -> int:
        """Returns at how many of them the host waits for the device."""
        return sum(kind in WAITING for kind in self.top)

    @property
    def summary(self) -> str:
        """Returns a line such as "1 kCommandBuffer, 2 kCopy"."""
        counts = Counter(self.top)
        return ", ".join(f"{n} {kind}" for kind, n in sorted(counts.items()))


def read_thunks(text: str) -> tuple[str, ...]:
    """Returns the kinds of the thunks that are in no other one."""
    found = (TOP.match(line) for line in text.splitlines())
    return tuple(match.group(1) for match in found if match)


def read_folder(folder: Path) -> Iterator[ThunkDump]:
    """Yields a dump for each executable of a folder, by name.

    Where XLA wrote both, it is what was left after its passes, which is what runs.
    """
    for name in sorted({path.name.rpartition(".thunk_")[0] for path in _files(folder)}):
        last = folder / f"{name}.{LAST}"
        path = last if last.exists() else folder / f"{name}.{FIRST}"
        yield ThunkDump(name=name, top=read_thunks(path.read_text()))


def _files(folder: Path) -> Iterator[Path]:
    for ending in (LAST, FIRST):
        yield from folder.glob(f"*.{ending}")
