"""Answers in parts: what a model thinks, what it says, and the tools that it calls.

    AnswerParser.push(text)  ->  Thought | Said | CallBegan, CallArgued ...

Every format of tool calls is one incremental machine and the grammar of its calls.
Nothing here knows of tokens, rows or any protocol.
"""

from mell_jax.text.answers.answer_parser import AnswerParser
from mell_jax.text.answers.collect import Answer, Call, collect
from mell_jax.text.answers.events import (
    CallArgued,
    CallBegan,
    CallDropped,
    Event,
    Recast,
    Said,
    Thought,
)
from mell_jax.text.answers.format import ToolFormat, ToolParser
from mell_jax.text.answers.formats import FORMATS, find_format
from mell_jax.text.answers.reasoning import (
    Beginning,
    Reasoning,
    ReasoningParser,
    behind_thoughts,
    find_beginning,
    find_reasoning,
)
from mell_jax.text.answers.tools import Choice, Tool, Toolbox, ToolChoice

__all__ = [
    "FORMATS",
    "Answer",
    "AnswerParser",
    "Beginning",
    "Call",
    "CallArgued",
    "CallBegan",
    "CallDropped",
    "Choice",
    "Event",
    "Reasoning",
    "ReasoningParser",
    "Recast",
    "Said",
    "Thought",
    "Tool",
    "ToolChoice",
    "ToolFormat",
    "ToolParser",
    "Toolbox",
    "behind_thoughts",
    "collect",
    "find_beginning",
    "find_format",
    "find_reasoning",
]
