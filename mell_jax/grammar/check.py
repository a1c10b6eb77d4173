"""Grammars are compiled where they can do no harm before anything else sees them.

    check -> [socket] -> check_child -> [socket] -> "", or what is wrong
                 closed: it took too long or too much; another one is started at once

What is hostile (`(a+)+b`, a thousand levels, a million states) ends with its process.
Several processes, so that what is hostile holds up half of the others at most; whose
turn it is, is the front end's business.
"""

import contextlib
import queue
from collections.abc import Iterator
from typing import final

from mell_jax.contained.process import ContainedProcess
from mell_jax.grammar.check_wire import MAX_MEMORY_BYTES, Begin, Check, Checked
from mell_jax.grammar.grammar import Grammar, GrammarError

MAX_CHECK_S = 0.25
"""Of a processor, for one grammar."""
NUM_PROCESSES = 2
_CHILD = "mell_jax.grammar.check_child"


@final
class GrammarCheck:
    """Says whether grammars can be used; any thread may call it.

    Args:
        limit_s: of a processor, for one grammar.
        count: of processes; each starts when it is first needed.
    """

    def __init__(
        self, *, limit_s: float = MAX_CHECK_S, count: int = NUM_PROCESSES
    ) -> None:
        self._limit_s = limit_s
        self._is_closed = False
        self._idle = queue.LifoQueue[ContainedProcess | None]()
        self._count = count
        for _ in range(count):
            self._idle.put(None)

    def check(self, grammar: Grammar) -> None:
        """Compiles a grammar, in another process; waits while all of them work.

        Raises:
            GrammarError: it cannot be used, or takes too much; says what to change.
        """
        with self._process() as process:
            answer = process.ask(Check(source=grammar.source), kind=Checked)
        error = answer if isinstance(answer, str) else answer.error
        if isinstance(answer, str):
            error = f"takes {answer} to compile; make it smaller, or ask for less"
        if error:
            raise GrammarError(error)

    def close(self) -> None:
        """Ends the processes, each when it has answered; a later check starts one."""
        self._is_closed = True
        for process in [self._idle.get() for _ in range(self._count)]:
            if process is not None:
                process.end()
            self._idle.put(None)

    @contextlib.contextmanager
    def _process(self) -> Iterator[ContainedProcess]:
        process = self._idle.get() or self._start()
        try:
            yield process
        finally:
            self._idle.put(self._kept(process))

    def _kept(self, process: ContainedProcess) -> ContainedProcess | None:
        """Returns a process that can be asked, so that the next one need not wait."""
        if not process.has_ended:
            return process
        return None if self._is_closed else self._start()

    def _start(self) -> ContainedProcess:
        return ContainedProcess(
            _CHILD,
            first=Begin(limit_s=self._limit_s),
            limit_s=self._limit_s,
            memory_bytes=MAX_MEMORY_BYTES,
        )
