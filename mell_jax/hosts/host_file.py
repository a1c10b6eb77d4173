"""A file names the hosts of a fleet, one in a line.

# name     where            flags of mell-serve there
left       local            --mesh=2x1 --cpu_devices=2
right      ops@10.0.0.7     --mesh=8x1 --model=/models/llama
"""

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

LOCAL = "local"


@dataclass(frozen=True, slots=True, kw_only=True)
class HostLine:
    """One host is to be started there, with these flags."""

    name: str
    where: str  # LOCAL, or what ssh takes
    flags: tuple[str, ...]

    @property
    def is_local(self) -> bool:
        """Returns whether it is this machine's."""
        return self.where == LOCAL


def read_hosts(path: Path) -> tuple[HostLine, ...]:
    """Returns the hosts of a file.

    Raises:
      ValueError: a line cannot be read, or two hosts have the same name.
      OSError: the file cannot be read.
    """
    lines = tuple(_lines(path))
    names = [line.name for line in lines]
    if not lines:
        raise ValueError(f"{path} names no host: write one in a line, as in 'a local'")
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{path} names two hosts {name!r}: give each its own name")
    return lines


def _lines(path: Path) -> Iterator[HostLine]:
    for number, text in enumerate(path.read_text("utf-8").splitlines(), 1):
        try:
            words = shlex.split(text, comments=True)
        except ValueError as error:
            raise ValueError(f"{path}:{number}: {error}") from error
        if not words:
            continue
        if len(words) == 1:
            raise ValueError(
                f"{path}:{number}: {words[0]!r} is nowhere: say local, or an ssh target"
            )
        name, where, *flags = words
        if where.startswith("-"):
            raise ValueError(
                f"{path}:{number}: {where!r} is no place: say local, or an ssh target"
            )
        yield HostLine(name=name, where=where, flags=tuple(flags))
