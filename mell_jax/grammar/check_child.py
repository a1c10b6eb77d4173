"""The process that finds out whether grammars can be used.

    Begin                     once
    Check -> Checked          again and again, until the other side closes

It compiles on a thread with a small stack: what is deep enough to end a thread of the
engine ends this process before.
"""

import re
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

from llguidance import LLMatcher, LLTokenizer

from mell_jax.contained.child import deadline, run
from mell_jax.contained.wire import receive, send
from mell_jax.grammar.check_wire import MAX_MEMORY_BYTES, Begin, Check, Checked
from mell_jax.grammar.explain import as_grammar_error
from mell_jax.grammar.limits import limits
from mell_jax.grammar.schema_rules import find_unkept
from mell_jax.grammar.token_table import TokenTable

MAX_FORCED_BYTES = 1 << 14
_OF_TOKENS = re.compile(r"unknown special token|Token range|token.*out of range")
STACK_BYTES = 1 << 20
"""A half or less of what threads of the engine have."""


def serve(sock: socket.socket) -> None:
    """Answers until the other side closes."""
    begin = receive(sock, Begin)
    assert begin is not None, "the parent sends the limit first"
    tokenizer = bytes_table().compiled()
    threading.stack_size(STACK_BYTES)
    with ThreadPoolExecutor(1) as compiling:
        while (asked := receive(sock, Check)) is not None:
            with deadline(begin.limit_s):
                error = compiling.submit(find_error, asked.source, tokenizer).result()
            send(sock, Checked(error=error))


def find_error(source: str, tokenizer: LLTokenizer) -> str:
    """Returns why a grammar cannot be used, "" if it can.

    Args:
        source: as `Grammar.source` has it.
        tokenizer: of any model.
    """
    if unkept := find_unkept(source):
        return unkept
    matcher = LLMatcher(tokenizer, source, limits=limits(), log_level=0)
    if _OF_TOKENS.search(matcher.get_error()):
        return _find_error_without_tokens(source)
    forced = matcher.compute_ff_tokens()
    if len(forced) > MAX_FORCED_BYTES:
        return (
            f"begins with {len(forced)} bytes that leave no choice; at most "
            f"{MAX_FORCED_BYTES} in a row can be followed"
        )
    matcher.consume_tokens(forced)
    if not (matcher.is_stopped() or matcher.is_error()):
        matcher.compute_bitmask()  # what may come next has its limits, too
    return str(as_grammar_error(matcher.get_error())) if matcher.is_error() else ""


def _find_error_without_tokens(source: str) -> str:
    """Checks what names tokens: which of them there are, is known to the engine."""
    is_error, messages = LLMatcher.validate_grammar_with_warnings(
        source, limits=limits()
    )
    return str(as_grammar_error(messages[0])) if is_error else ""


def bytes_table() -> TokenTable:
    """Returns a tokenizer whose tokens are the bytes."""
    return TokenTable(
        token_bytes=[*(bytes([byte]) for byte in range(256)), b""],
        special_ids=frozenset({256}),
        end_ids=(256,),
        vocab_size=257,
        encode=lambda text: list(text.encode()),
    )


if __name__ == "__main__":
    run(serve, memory_bytes=MAX_MEMORY_BYTES)
