"""A chat template tells its format by the markers that it writes."""

import pytest

from mell_jax.text.answers import FORMATS, find_format
from tests.text.answers.cases import V3

TEMPLATES = {
    "hermes": "{{ '<tool_call>\\n' }}{{ call | tojson }}{{ '\\n</tool_call>' }}",
    "qwen3_coder": "<tool_call>\\n<function=example>\\n<parameter=one>",
    "llama3_json": "{{- '<|python_tag|>' + tool_call.name }}",
    "pythonic": "in the format of [func_name1(params_name1=params_value1...)]",
    "mistral": '{{- "[TOOL_CALLS] [" }}{{ call | tojson }}',
    "mistral_v11": "{{- '[TOOL_CALLS]' + name + '[ARGS]' + arguments }}",
    "deepseek_v3": f"{{{{ '{V3['open']}' + name + '\\n```json\\n' }}}}",
    "deepseek_v31": f"{{{{ '{V3['open']}' + name }}}}",
    "glm45": "<tool_call>{function-name}\\n<arg_key>{arg-key-1}</arg_key>",
}


def test_every_format_is_found_by_name() -> None:
    assert set(TEMPLATES) == set(FORMATS)
    assert all(form.name == name for name, form in FORMATS.items())


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_format_is_that_of_the_template(name: str) -> None:
    assert find_format(TEMPLATES[name]) == name


@pytest.mark.parametrize(
    ("template", "name"),
    [
        ('<|python_start|> "parameters": dictionary of argument name', "llama3_json"),
        ("<|python_start|>{{ calls }}<|python_end|>", "pythonic"),
        ("<seed:tool_call>\\n<function=f>\\n<parameter=a>", None),
        ("<tool_calls>[]</tool_calls>", None),
    ],
)
def test_formats_that_look_alike(template: str, name: str | None) -> None:
    assert find_format(template) == name


def test_a_template_without_tools_has_none() -> None:
    assert find_format("{% for m in messages %}{{ m.content }}{% endfor %}") is None
