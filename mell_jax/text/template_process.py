"""A chat template in a process of its own, with a deadline and a memory limit.

    render -> [socket] -> template_child -> [socket] -> text
                  closed: it took too long or too much; the next call starts another

Renderings of one template run one at a time; each model has its own process, so that a
template that hangs holds up only its own chats, each for two seconds at most.
"""

import threading
from typing import TypeVar, final

from mell_jax.contained.process import ContainedProcess
from mell_jax.text.chat_template import ChatTemplateError, Variables
from mell_jax.text.template_source import TemplateSource
from mell_jax.text.template_wire import (
    MAX_MEMORY_BYTES,
    Compiled,
    Render,
    Rendered,
    Source,
)

MAX_RENDER_S = 2.0
"""For compiling a template, and for one rendering."""
_CHILD = "mell_jax.text.template_child"

AnswerT = TypeVar("AnswerT", Compiled, Rendered)


@final
class TemplateProcess:
    """Renders by one template; any thread may call it."""

    def __init__(
        self, source: TemplateSource, *, limit_s: float = MAX_RENDER_S
    ) -> None:
        """Starts the process, which compiles in the background.

        Args:
          source: the template; nothing of it runs in this process.
          limit_s: for compiling it, and for one rendering.
        """
        self._source = source
        self._limit_s = limit_s
        self._lock = threading.Lock()
        self._is_ready = False  # the template is compiled
        self._child: ContainedProcess | None = self._start()

    def check(self) -> None:
        """Waits until the template is compiled.

        Raises:
          ValueError: it is no template, or takes too much to compile; names the file.
        """
        with self._lock:
            error = self._compile_error()
        if error:
            raise ValueError(f"{self._source.path}: {error}")

    def render(self, variables: Variables, *, max_chars: int) -> str:
        """Returns the text up to where the answer begins.

        Args:
          variables: the conversation.
          max_chars: bound of the text.

        Raises:
          ChatTemplateError: the template refuses the messages, fails, or writes too
            much, for too long or in too much memory.
        """
        asked = Render(variables=variables, max_chars=max_chars)
        with self._lock:
            if error := self._compile_error():
                raise ChatTemplateError(f"cannot be rendered: {error}")
            answer = self._ask(asked, kind=Rendered)
        if isinstance(answer, str):
            raise ChatTemplateError(f"take the chat template {answer}; send less")
        if answer.error:
            raise ChatTemplateError(answer.error)
        return answer.text

    def close(self) -> None:
        """Ends the process; a later rendering would start another one."""
        with self._lock:
            if self._child is not None:
                self._end()

    def _compile_error(self) -> str:
        """Sees to it that there is a process with a template; or says why not."""
        if self._child is None:
            self._child = self._start()
        if self._is_ready:
            return ""
        compiled = self._ask(None, kind=Compiled)
        if isinstance(compiled, str):
            return f"the chat template takes {compiled} to compile"
        if compiled.error:
            self._end()
        self._is_ready = not compiled.error
        return compiled.error

    def _ask(self, message: Render | None, *, kind: type[AnswerT]) -> AnswerT | str:
        """The answer, or what the process took too much of when it ended."""
        assert self._child is not None, "a process is started before it is asked"
        answer = self._child.ask(message, kind=kind)
        if isinstance(answer, str):
            self._child, self._is_ready = None, False
        return answer

    def _start(self) -> ContainedProcess:
        source = self._source
        return ContainedProcess(
            _CHILD,
            first=Source(
                text=source.text,
                special=dict(source.special),
                limit_s=self._limit_s,
            ),
            limit_s=self._limit_s,
            memory_bytes=MAX_MEMORY_BYTES,
        )

    def _end(self) -> None:
        assert self._child is not None, "there is a process to end"
        self._child.end()
        self._child, self._is_ready = None, False
