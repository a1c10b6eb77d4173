"""A chat template turns messages into the text that its model was trained on.

Templates are code that comes with a model, so they run in Jinja's sandbox, where values
cannot be changed, with bounds on how much and how long they write. Clients never send
one.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn, final

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from mell_jax.text.special_tokens import (
    SpecialTokens,
    read_json_object,
    read_special_tokens,
)

MAX_SOURCE_BYTES = 256 * 1024
MAX_RENDER_S = 2.0
_MAX_PRODUCT = 1_000_000  # of * and ** in a template, characters or size

Message = Mapping[str, str]


class ChatTemplateError(ValueError):
    """The messages and the template do not fit; says what the template says."""


@final
class ChatTemplate:
    """A compiled template; rendering is thread-safe."""

    def __init__(
        self,
        source: str,
        *,
        special: SpecialTokens,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Compiles.

        Args:
            source: of the template.
            special: tokens that it may name.
            clock: seconds, for the time limit.

        Raises:
            ValueError: the template is too long or no template.
        """
        if not (len(source.encode("utf-8")) <= MAX_SOURCE_BYTES):
            raise ValueError(
                f"a chat template may have {MAX_SOURCE_BYTES} bytes, this one has more"
            )
        self._clock = clock
        self._special = {
            "bos_token": special.bos or "",
            "eos_token": special.eos or "",
        }
        try:
            self._template = _environment().from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise ValueError(
                f"line {error.lineno} of the chat template: {error.message}"
            ) from error

    def render(self, messages: Sequence[Message], *, max_chars: int) -> str:
        """Returns the text up to where the answer begins.

        Args:
            messages: each with a role and a content.
            max_chars: bound of the text.

        Raises:
            ChatTemplateError: the template refuses the messages, or writes too much or
                for too long.
        """
        parts, size, end_s = [], 0, self._clock() + MAX_RENDER_S
        try:
            for part in self._template.generate(
                messages=messages, add_generation_prompt=True, **self._special
            ):
                parts.append(part)
                size += len(part)
                if not (size <= max_chars):
                    raise ChatTemplateError(
                        f"make more than the {max_chars} characters that the context "
                        "holds; send less"
                    )
                if not (self._clock() <= end_s):
                    raise ChatTemplateError(
                        f"took the chat template more than {MAX_RENDER_S} s; send less"
                    )
        except (jinja2.TemplateError, TypeError, OverflowError) as error:
            raise ChatTemplateError(
                f"do not fit the model's chat template: {error}"
            ) from error
        return "".join(parts)


def check_chat_template(path: Path) -> None:
    """Finds out whether a file is a chat template.

    Raises:
        ValueError: it is none; names the file.
        OSError: it cannot be read.
    """
    _read(path, special=SpecialTokens())


def load_chat_template(
    directory: Path, *, override: Path | None = None
) -> ChatTemplate | None:
    """Returns the template of a model, None if it has none.

    Args:
        directory: of the model; `chat_template.jinja`, else what
            `tokenizer_config.json` has.
        override: the operator's own file.

    Raises:
        ValueError: a template is there but cannot be used; names the file.
        OSError: `override` cannot be read.
    """
    special = read_special_tokens(directory)
    path = override or directory / "chat_template.jinja"
    if override is not None or path.is_file():
        return _read(path, special=special)
    path = directory / "tokenizer_config.json"
    source = _source_of(read_json_object(path)) if path.is_file() else None
    return None if source is None else _compiled(source, path=path, special=special)


def _read(path: Path, *, special: SpecialTokens) -> ChatTemplate:
    try:
        source = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: a chat template is UTF-8; {error}") from error
    return _compiled(source, path=path, special=special)


def _compiled(source: str, *, path: Path, special: SpecialTokens) -> ChatTemplate:
    try:
        return ChatTemplate(source, special=special)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _source_of(config: Mapping[str, object]) -> str | None:
    """`"chat_template": "..."` or `[{"name": "default", "template": "..."}, ...]`."""
    value = config.get("chat_template")
    if isinstance(value, list):
        named = {
            entry.get("name"): entry.get("template")
            for entry in value
            if isinstance(entry, dict)
        }
        value = named.get("default")
    return value if isinstance(value, str) else None


def _environment() -> ImmutableSandboxedEnvironment:
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


def _to_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _raise(message: str) -> NoReturn:
    raise jinja2.TemplateRuntimeError(str(message)[:500])


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)
