"""The process that compiles and renders one chat template.

    Source -> Compiled        once
    Render -> Rendered        again and again, until the other side closes

Its limits are those of `mell_jax.contained`.
"""

import socket

from mell_jax.contained.child import deadline, run
from mell_jax.contained.wire import receive, send
from mell_jax.text.chat_template import ChatTemplate, ChatTemplateError
from mell_jax.text.template_wire import (
    MAX_MEMORY_BYTES,
    Compiled,
    Render,
    Rendered,
    Source,
)


def serve(sock: socket.socket) -> None:
    """Serves one template until the other side closes."""
    source = receive(sock, Source)
    assert source is not None, "the parent sends the template first"
    try:
        with deadline(source.limit_s):
            template = ChatTemplate(source.text, special=source.special)
    except ValueError as error:
        send(sock, Compiled(error=str(error)))
        return
    send(sock, Compiled())
    while (asked := receive(sock, Render)) is not None:
        with deadline(source.limit_s):
            answer = _render(template, asked)
        send(sock, answer)


def _render(template: ChatTemplate, asked: Render) -> Rendered:
    try:
        text = template.render(asked.variables, max_chars=asked.max_chars)
    except ChatTemplateError as error:
        if isinstance(error.__cause__, MemoryError):
            raise error.__cause__ from None
        return Rendered(error=str(error))
    return Rendered(text=text)


if __name__ == "__main__":
    run(serve, memory_bytes=MAX_MEMORY_BYTES)
