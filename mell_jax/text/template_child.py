"""The process that compiles and renders one chat template.

    Source -> Compiled        once
    Render -> Rendered        again and again, until the other side closes

A timer of the kernel ends the process in the middle of whatever hangs, whether or not
its parent still lives; it counts processor time: a busy machine raises no alarm. A
limit of the kernel keeps its memory small. Both show as the end of the process, and the
parent starts another one.
"""

import resource
import signal
import socket
import sys

from mell_jax.text.chat_template import ChatTemplate, ChatTemplateError
from mell_jax.text.template_wire import (
    MAX_MEMORY_BYTES,
    Compiled,
    Render,
    Rendered,
    Source,
    receive,
    send,
)

OUT_OF_MEMORY = 3  # status


def main(sock: socket.socket) -> int:
    """Serves one template; returns the exit status."""
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    try:
        return _serve(sock)
    except MemoryError:
        return OUT_OF_MEMORY
    except (BrokenPipeError, ConnectionResetError):
        return 0  # the parent has gone


def _serve(sock: socket.socket) -> int:
    source = receive(sock, Source)
    assert source is not None, "the parent sends the template first"
    signal.setitimer(signal.ITIMER_PROF, source.limit_s)
    try:
        template = ChatTemplate(source.text, special=source.special)
    except ValueError as error:
        send(sock, Compiled(error=str(error)))
        return 0
    signal.setitimer(signal.ITIMER_PROF, 0.0)
    send(sock, Compiled())
    while (asked := receive(sock, Render)) is not None:
        signal.setitimer(signal.ITIMER_PROF, source.limit_s)
        answer = _render(template, asked)
        signal.setitimer(signal.ITIMER_PROF, 0.0)
        send(sock, answer)
    return 0


def _render(template: ChatTemplate, asked: Render) -> Rendered:
    try:
        text = template.render(asked.variables, max_chars=asked.max_chars)
    except ChatTemplateError as error:
        if isinstance(error.__cause__, MemoryError):
            raise error.__cause__ from None
        return Rendered(error=str(error))
    return Rendered(text=text)


if __name__ == "__main__":
    sys.exit(main(socket.socket(fileno=int(sys.argv[1]))))
