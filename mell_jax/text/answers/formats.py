"""The formats of tool calls by name, and which one a chat template writes."""

from collections.abc import Mapping
from types import MappingProxyType

from mell_jax.text.answers.deepseek_v3 import DEEPSEEK_V3, DEEPSEEK_V31
from mell_jax.text.answers.format import ToolFormat
from mell_jax.text.answers.glm45 import GLM45
from mell_jax.text.answers.hermes import HERMES
from mell_jax.text.answers.llama3_json import LLAMA3_JSON
from mell_jax.text.answers.mistral import MISTRAL, MISTRAL_V11
from mell_jax.text.answers.pythonic import PYTHONIC
from mell_jax.text.answers.qwen3_coder import QWEN3_CODER

_ALL = (
    HERMES,
    QWEN3_CODER,
    LLAMA3_JSON,
    PYTHONIC,
    MISTRAL,
    MISTRAL_V11,
    DEEPSEEK_V3,
    DEEPSEEK_V31,
    GLM45,
)
FORMATS: Mapping[str, ToolFormat] = MappingProxyType({form.name: form for form in _ALL})

_SIGNS = (  # what a template has, all of it; the first that fits is meant
    (GLM45, ("<tool_call>", "<arg_key>")),
    (QWEN3_CODER, ("<tool_call>", "<function=", "<parameter=")),
    (DEEPSEEK_V3, ("<\uff5ctool\u2581calls\u2581begin\uff5c>", "```json")),
    (DEEPSEEK_V31, ("<\uff5ctool\u2581calls\u2581begin\uff5c>",)),
    (MISTRAL_V11, ("[TOOL_CALLS]", "[ARGS]")),
    (MISTRAL, ("[TOOL_CALLS]",)),
    (HERMES, ("<tool_call>", "</tool_call>")),
    (PYTHONIC, ("[func_name1(",)),
    (LLAMA3_JSON, ('"parameters": dictionary of argument name',)),
    (PYTHONIC, ("<|python_start|>",)),
    (LLAMA3_JSON, ("<|python_tag|>",)),
)


def find_format(template_source: str) -> str | None:
    """Returns the name of the format that a chat template writes calls in, if any."""
    return next(
        (
            form.name
            for form, signs in _SIGNS
            if all(sign in template_source for sign in signs)
        ),
        None,
    )
