"""A chat template, compiled, turns messages into the text that its model knows.

Templates are code that comes with a model, so they run in Jinja's sandbox, where values
cannot be changed, and in a process of their own (`template_process`), which ends them:
no bound inside Python stops a filter that pads to a gigabyte, or a loop that writes
nothing. The environment is that of transformers. Clients never send a template.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn, final

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

_MAX_PRODUCT = 1_000_000  # of * and ** in a template, characters or size

Message = Mapping[str, str]


class ChatTemplateError(ValueError):
    """The messages and the template do not fit; says what the template says."""


@final
class ChatTemplate:
    """A compiled template."""

    def __init__(self, source: str, *, bos: str = "", eos: str = "") -> None:
        """Compiles a template.

        Args:
            source: of the template.
            bos: what the template calls `bos_token`.
            eos: what the template calls `eos_token`.

        Raises:
            ValueError: the source is no template.
        """
        self._special = {"bos_token": bos, "eos_token": eos}
        try:
            self._template = make_environment().from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise ValueError(
                f"line {error.lineno} of the chat template: {error.message}"
            ) from error
        except Exception as error:  # the edge: constants are computed while compiling
            raise ValueError(f"the chat template fails: {_say(error)}") from error

    def render(
        self,
        messages: Sequence[Message],
        *,
        max_chars: int,
        asks_for_answer: bool = True,
    ) -> str:
        """Returns the text up to where the answer begins.

        Args:
            messages: each with a role and a content.
            max_chars: bound of the text.
            asks_for_answer: False ends the text with the last message.

        Raises:
            ChatTemplateError: the template refuses the messages, fails, or writes too
                much.
        """
        parts, size = [], 0
        try:
            for part in self._template.generate(
                messages=messages,
                tools=None,
                documents=None,
                add_generation_prompt=asks_for_answer,
                **self._special,
            ):
                parts.append(part)
                size += len(part)
                if not (size <= max_chars):
                    raise ChatTemplateError(
                        f"make more than the {max_chars} characters that the context "
                        "holds; send less"
                    )
        except ChatTemplateError:
            raise
        except Exception as error:  # the edge: a template is somebody else's program
            raise ChatTemplateError(
                f"do not fit the model's chat template: {_say(error)}"
            ) from error
        return "".join(parts)


def _say(error: Exception) -> str:
    """What went wrong, with its kind where the message alone would not tell."""
    if isinstance(error, jinja2.TemplateError | TypeError):
        return str(error)[:500]
    return f"{type(error).__name__}: {error}"[:500]


def make_environment() -> ImmutableSandboxedEnvironment:
    """Returns what templates see: the globals and filters of transformers."""
    environment = _Sandbox(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = _strftime_now
    return environment


class _Sandbox(ImmutableSandboxedEnvironment):
    """Also bounds products: 'a' * 10**9 is written in one piece."""

    intercepted_binops = frozenset({"*", "**"})

    def call_binop(
        self, context: jinja2.runtime.Context, operator: str, left: Any, right: Any
    ) -> Any:
        """`left * right` or `left ** right`, when it is small."""
        sizes = [
            len(value) if isinstance(value, str | list | tuple) else abs(value)
            for value in (left, right)
        ]
        if operator == "*" and not (sizes[0] * sizes[1] <= _MAX_PRODUCT):
            raise SecurityError(f"a product of more than {_MAX_PRODUCT}")
        if operator == "**" and not (sizes[0] <= 1000 and sizes[1] <= 10):
            raise SecurityError("a power of more than 1000 ** 10")
        return super().call_binop(context, operator, left, right)


class _Generation(Extension):
    """{% generation %}...{% endgeneration %} marks answers for training: no effect."""

    tags = {"generation"}  # noqa: RUF012 what the base class wants

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        """The body as it is."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _to_json(
    x: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        x,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _raise(message: str) -> NoReturn:
    raise jinja2.TemplateRuntimeError(str(message)[:500])


def _strftime_now(format: str) -> str:
    return datetime.now().strftime(format)
