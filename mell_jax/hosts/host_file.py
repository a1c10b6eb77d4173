"""A file names the hosts of a fleet, one in a line.

# name     where            flags of mell-serve there
left       local            --mesh=2x1 --cpu_devices=2
right      ops@10.0.0.7     --mesh=8x1 --model=/models/llama
"""

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

LOCAL = "local"
_HEADS = ("host_name", "hosts", "join", "orders", "ray")


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
    found: dict[str, tuple[int, HostLine]] = {}
    for number, line in _lines(path):
        if line.name in found:
            raise ValueError(
                f"{path}:{number}: {line.name!r} is the host of line "
                f"{found[line.name][0]}, too: give each its own name"
            )
        found[line.name] = (number, line)
    if not found:
        raise ValueError(f"{path} names no host: write one in a line, as in 'a local'")
    return tuple(line for _, line in found.values())


def _lines(path: Path) -> Iterator[tuple[int, HostLine]]:
    """Yields hosts, with the numbers of their lines."""
    try:
        texts = path.read_text("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8: {error}") from error
    for number, text in enumerate(texts, 1):
        try:
            words = shlex.split(text, comments=True)
            if words:
                yield number, _line(words)
        except ValueError as error:
            raise ValueError(f"{path}:{number}: {error}, got {text!r:.200}") from error


def _line(words: Sequence[str]) -> HostLine:
    """Returns the host of a line.

    Raises:
      ValueError: it names none; the text says what to write.
    """
    if len(words) == 1:
        raise ValueError(f"{words[0]!r} is nowhere: say local, or an ssh target")
    name, where, *flags = words
    if name.startswith("-"):
        raise ValueError(f"{name!r} is no name: write NAME, local or a target, flags")
    if where.startswith("-"):
        raise ValueError(f"{where!r} is no place: say local, or an ssh target")
    for before, flag in pairwise(["=", *flags]):
        if not flag.startswith("-") and ("=" in before or not before.startswith("-")):
            raise ValueError(f"{flag!r} is no flag: write --NAME=VALUE")
        if flag.lstrip("-").partition("=")[0] in _HEADS:
            raise ValueError(f"{flag!r} is for the head to say: leave it out")
    return HostLine(name=name, where=where, flags=tuple(flags))
