"""The tests of answers share this: tools, how formats write calls, cuts of texts."""

import itertools
import json
import string
from collections.abc import Callable, Iterable, Sequence

from hypothesis import strategies as st

from mell_jax.text.answers import (
    FORMATS,
    Answer,
    CallArgued,
    Event,
    Said,
    Thought,
    Tool,
    Toolbox,
    ToolParser,
    collect,
)

WEATHER = Tool(
    name="get_weather",
    description="Tells the weather.",
    parameters={
        "type": "object",
        "properties": {
            "city": {"type": "string"},
            "days": {"type": "integer"},
            "is_metric": {"type": "boolean"},
            "tags": {"type": "array", "items": {"type": "string"}},
        },
        "required": ["city"],
        "additionalProperties": False,
    },
)
CLOCK = Tool(name="clock")
TOOLBOX = Toolbox(tools=[WEATHER, CLOCK])
Calls = Sequence[tuple[str, dict[str, object]]]
V3 = {
    "open": "<\uff5ctool\u2581calls\u2581begin\uff5c>",
    "close": "<\uff5ctool\u2581calls\u2581end\uff5c>",
    "call": "<\uff5ctool\u2581call\u2581begin\uff5c>",
    "end": "<\uff5ctool\u2581call\u2581end\uff5c>",
    "sep": "<\uff5ctool\u2581sep\uff5c>",
}


def plain(value: object) -> str:
    """A value as the formats without JSON write it."""
    return value if isinstance(value, str) else json.dumps(value)


def tags(arguments: dict[str, object], before: str, after: str, end: str) -> str:
    """Arguments between tags."""
    pairs = arguments.items()
    return "".join(f"{before}{key}{after}{plain(value)}{end}" for key, value in pairs)


Write = Callable[[str, str, dict[str, object]], str]
WRITE: dict[str, Write] = {  # name, arguments as JSON, arguments
    "hermes": lambda name, text, _: (
        f'<tool_call>\n{{"name": "{name}", "arguments": {text}}}\n</tool_call>'
    ),
    "qwen3_coder": lambda name, _, pairs: (
        f"<tool_call>\n<function={name}>\n"
        + tags(pairs, "<parameter=", ">\n", "\n</parameter>\n")
        + "</function>\n</tool_call>"
    ),
    "llama3_json": lambda name, text, _: f'{{"name": "{name}", "parameters": {text}}}',
    "pythonic": lambda name, _, pairs: (
        f"{name}({', '.join(f'{key}={value!r}' for key, value in pairs.items())})"
    ),
    "mistral": lambda name, text, _: (
        f'{{"name": "{name}", "arguments": {text}, "id": "a1b2c3d4e"}}'
    ),
    "mistral_v11": lambda name, text, _: f"[TOOL_CALLS]{name}[ARGS]{text}",
    "deepseek_v3": lambda name, text, _: (
        V3["call"] + f"function{V3['sep']}{name}\n```json\n{text}\n```" + V3["end"]
    ),
    "deepseek_v31": lambda name, text, _: (
        f"{V3['call']}{name}{V3['sep']}{text}{V3['end']}"
    ),
    "glm45": lambda name, _, pairs: (
        f"<tool_call>{name}\n"
        + tags(pairs, "<arg_key>", "</arg_key>\n<arg_value>", "</arg_value>\n")
        + "</tool_call>"
    ),
}


def write_calls(form: str, calls: Calls) -> str:
    """Calls as models write them in a format."""
    texts = [
        WRITE[form](name, json.dumps(arguments, ensure_ascii=False), arguments)
        for name, arguments in calls
    ]
    match form:
        case "llama3_json":
            return "; ".join(texts)
        case "pythonic":
            return f"[{', '.join(texts)}]"
        case "mistral":
            return f"[TOOL_CALLS][{', '.join(texts)}]"
        case "mistral_v11":
            return "".join(texts)
        case "deepseek_v3" | "deepseek_v31":
            return V3["open"] + "\n".join(texts) + V3["close"]
    return "\n".join(texts)


LETTERS = st.sampled_from(
    string.ascii_letters + " \n.,:;'\"\\{}[]()<>=/\u00e9\U0001f600"
)
TEXTS = st.text(LETTERS, max_size=12)
ARGUMENTS = st.fixed_dictionaries(
    {"city": TEXTS.map(lambda text: text.replace("\n", ""))},
    optional={
        "days": st.integers(-9999, 9999),
        "is_metric": st.booleans(),
        "tags": st.lists(TEXTS, max_size=3),
    },
)
CALLS = st.lists(
    st.tuples(st.just("get_weather"), ARGUMENTS)
    | st.tuples(st.just("clock"), st.just({})),
    min_size=1,
    max_size=3,
)
EXAMPLE: Calls = [
    ("get_weather", {"city": 'S\u00e3o "P"', "days": 3, "tags": ["a", "b"]}),
    ("clock", {}),
]


def fragments(form: str) -> list[str]:
    """Pieces of texts that are calls, or nearly."""
    text = write_calls(form, EXAMPLE)
    markers = [*FORMATS[form].markers, *FORMATS[form].layout.markers]
    cuts = [marker[:k] for marker in markers for k in (1, len(marker) // 2)]
    names = ["get_weather", "clock", "unknown", "function", '"name"', '"arguments"']
    signs = [*"{}[]()<>=,:;\"' \n", "null", "1", "True", "```json", '{"name": "']
    return [text, text[:-1], text[: len(text) // 2], *markers, *cuts, *names, *signs]


def near_calls(form: str) -> st.SearchStrategy[str]:
    """Texts that are calls, broken calls, and what only looks like them."""
    pieces = st.lists(st.sampled_from(fragments(form)) | TEXTS, max_size=8)

    @st.composite
    def changed(draw: st.DrawFn) -> str:
        text = draw(TEXTS) * draw(st.booleans()) + write_calls(form, draw(CALLS))
        at = draw(st.integers(0, len(text)))
        return text[:at] + draw(TEXTS) + text[at + draw(st.integers(0, 3)) :]

    return pieces.map("".join) | changed()


def cut(text: str, places: Iterable[int]) -> list[str]:
    """A text in pieces."""
    ends = sorted({0, len(text), *(place % (len(text) + 1) for place in places)})
    return [text[i:j] for i, j in itertools.pairwise(ends)]


def merged(events: Iterable[Event]) -> list[Event]:
    """Events in which texts that follow each other are one."""
    out = list[Event]()
    for event in events:
        match (out[-1] if out else None), event:
            case Said(text=a), Said(text=b):
                out[-1] = Said(a + b)
            case Thought(text=a), Thought(text=b):
                out[-1] = Thought(a + b)
            case CallArgued(index=i, piece=a), CallArgued(index=j, piece=b) if i == j:
                out[-1] = CallArgued(i, a + b)
            case _:
                out.append(event)
    return out


def parse(form: str, pieces: Iterable[str], *, tools: Toolbox = TOOLBOX) -> list[Event]:
    """All events of a text in pieces."""
    parser = ToolParser(FORMATS[form], tools)
    events = [event for piece in pieces for event in parser.push(piece)]
    return [*events, *parser.finish()]


def answer(form: str, text: str, *, tools: Toolbox = TOOLBOX) -> Answer:
    """The answer that a text is."""
    return collect(parse(form, [text], tools=tools))
