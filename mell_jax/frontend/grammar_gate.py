"""No grammar reaches the engine that was not compiled elsewhere before.

    Grammar --> known? --> a turn, tenant by tenant --> GrammarCheck, on a thread

What was found out is kept, errors too, so that a known grammar costs a digest.
"""

import asyncio
import hashlib
from collections import OrderedDict
from functools import partial
from typing import final

from mell_jax.frontend.executors import Executors, Job
from mell_jax.frontend.turns import Turns
from mell_jax.grammar import Grammar, GrammarCheck, GrammarError
from mell_jax.grammar.check import NUM_PROCESSES

MAX_KNOWN = 4096
"""Grammars of which is kept whether they can be used; the least recently used go."""


@final
class GrammarGate:
    """Lets grammars pass that can be used; one event loop calls it.

    Args:
      executors: where one waits for the check.
      checker: what finds out; closed with the gate.
    """

    def __init__(
        self, executors: Executors, *, checker: GrammarCheck | None = None
    ) -> None:
        self._executors = executors
        self._checker = checker or GrammarCheck()
        self._turns = Turns(NUM_PROCESSES)
        self._known: OrderedDict[bytes, str] = OrderedDict()

    async def check(self, grammar: Grammar, *, tenant: str) -> None:
        """Returns when it is known that a grammar can be used.

        Args:
          grammar: what somebody asks for.
          tenant: who; one that asks for much waits for itself.

        Raises:
          GrammarError: it cannot be used; says what to change.
        """
        key = _digest(grammar)
        error = self._recall(key)
        if error is None:
            error = await self._find_out(key, grammar, tenant=tenant)
        if error:
            raise GrammarError(error)

    def close(self) -> None:
        """Ends the processes, if there are any."""
        self._checker.close()

    def _recall(self, key: bytes) -> str | None:
        if key in self._known:
            self._known.move_to_end(key)
        return self._known.get(key)

    async def _find_out(self, key: bytes, grammar: Grammar, *, tenant: str) -> str:
        await self._turns.take(tenant)
        error = self._recall(key)
        if error is not None:  # found out by whoever had the turn before
            self._turns.give_back(tenant)
            return error
        work = partial(_error_of, self._checker, grammar)
        finding = asyncio.ensure_future(self._executors.run(Job.GRAMMAR, work))
        finding.add_done_callback(partial(self._keep, key, tenant))
        # Its turn lasts, even if nobody waits any more.
        return await asyncio.shield(finding)

    def _keep(self, key: bytes, tenant: str, found: asyncio.Future[str]) -> None:
        self._turns.give_back(tenant)
        if not found.cancelled() and found.exception() is None:
            self._known[key] = found.result()
            if len(self._known) > MAX_KNOWN:
                self._known.popitem(last=False)


def _error_of(checker: GrammarCheck, grammar: Grammar) -> str:
    try:
        checker.check(grammar)
    except GrammarError as error:
        return str(error)
    return ""


def _digest(grammar: Grammar) -> bytes:
    """Returns what two grammars share only if they are equal."""
    digest = hashlib.sha256()
    for text in (grammar.lark, *(text for part in grammar.parts for text in part)):
        data = text.encode("utf-8", errors="surrogatepass")
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.digest()
