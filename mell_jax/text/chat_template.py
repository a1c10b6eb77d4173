"""A chat template, compiled, turns messages into the text that its model knows.

Templates are code that comes with a model, so they run in Jinja's sandbox, where values
cannot be changed, and in a process of their own (`template_process`), which ends them:
no bound inside Python stops a filter that pads to a gigabyte, or a loop that writes
nothing. The environment is that of transformers. Clients never send a template.
"""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NoReturn, final

import jinja2
import msgspec
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

_MAX_PRODUCT = 1_000_000  # of * and ** in a template, characters or size


class Variables(msgspec.Struct, frozen=True, kw_only=True):
    """A template sees these of a conversation; all of it is JSON.

    Attributes:
        messages: each with a role, most with a content.
        tools: None when there are none; so with documents.
        kwargs: more variables, by name.
        asks_for_answer: False ends the text with the last message.
    """

    messages: list[dict[str, Any]]
    tools: list[Any] | None = None
    documents: list[Any] | None = None
    kwargs: dict[str, Any] = {}
    asks_for_answer: bool = True


class ChatTemplateError(ValueError):
    """The messages and the template do not fit; says what the template says."""


@final
class ChatTemplate:
    """A compiled template."""

    def __init__(
        self, source: str, *, special: Mapping[str, str] | None = None
    ) -> None:
        """Compiles a template.

        Args:
            source: of the template.
            special: tokens by what the template calls them, such as `unk_token`;
                `bos_token` and `eos_token` are empty where they are not named.

        Raises:
            ValueError: the source is no template.
        """
        self._special = {"bos_token": "", "eos_token": "", **(special or {})}
        try:
            self._template = make_environment().from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise ValueError(
                f"line {error.lineno} of the chat template: {error.message}"
            ) from error
        except Exception as error:  # the edge: constants are computed while compiling
            raise ValueError(f"the chat template fails: {_say(error)}") from error

    def render(self, variables: Variables, *, max_chars: int) -> str:
        """Returns the text up to where the answer begins.

        Args:
            variables: the conversation.
            max_chars: bound of the text.

        Raises:
            ChatTemplateError: the template refuses the messages, fails, or writes too
                much.
        """
        parts, size = [], 0
        try:
            for part in self._template.generate(self._context_of(variables)):
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

    def _context_of(self, variables: Variables) -> dict[str, Any]:
        return {
            **variables.kwargs,
            **self._special,
            "messages": variables.messages,
            "tools": variables.tools,
            "documents": variables.documents,
            "add_generation_prompt": variables.asks_for_answer,
        }


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
    environment.globals["namespace"] = _Namespace
    return environment


class _Namespace(jinja2.utils.Namespace):
    """Holds no name with which Python's own insides begin, as in transformers."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        self, *rest = args
        attributes = dict(*rest, **kwargs)
        for name in attributes:
            _check_attribute(name)
        jinja2.utils.Namespace.__init__(self, attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_attribute(name)
        super().__setitem__(name, value)


def _check_attribute(name: str) -> None:
    if str(name).startswith("_"):
        raise SecurityError(f"a namespace holds no {name!r:.60}: it begins with _")


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
