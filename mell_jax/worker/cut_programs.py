"""Compiled programs that were cut short on disk are removed, to be written again.

    disk full, or killed while it was written  ->  a beginning of a file, which
                                  JAX finds, cannot read, and never replaces

Every file is read once: those that are older than the last look were whole then.
"""

import contextlib
import os
import time
import zlib
from pathlib import Path

from absl import logging

LOOKED = ".looked"  # a file whose time is that of the last look
_PROGRAMS = "*-cache"  # as JAX names them
_ZLIB = 0x78  # the first byte of what JAX writes without zstandard
_SLACK_S = 60.0  # a file may still be written when it is looked at


def remove_cut_programs(folder: Path) -> int:
    """Removes programs that are no use; returns how many.

    What cannot be looked at or removed stays: JAX says so, and compiles.

    Args:
      folder: of compiled programs, which is this user's alone.
    """
    now_s = time.time()
    stamp = folder / LOOKED
    since_s = stamp.stat().st_mtime if stamp.exists() else 0.0
    removed = 0
    for path in folder.glob(_PROGRAMS):
        with contextlib.suppress(OSError):  # another process has been quicker
            if path.stat().st_mtime >= since_s and is_cut(path.read_bytes()):
                path.unlink()
                removed += 1
    with contextlib.suppress(OSError):  # then all are read again
        stamp.touch(mode=0o600)
        os.utime(stamp, (now_s - _SLACK_S, now_s - _SLACK_S))
    if removed:
        logging.warning("%d compiled programs were cut short, and are gone", removed)
    return removed


def is_cut(program: bytes) -> bool:
    """Tells whether a file is known to be only a beginning of what it should be.

    Of zstandard's files only empty ones are known to be.
    """
    if not program:
        return True
    if program[0] != _ZLIB:
        return False
    stream = zlib.decompressobj()
    try:
        stream.decompress(program)
    except zlib.error:
        return True
    return not stream.eof
