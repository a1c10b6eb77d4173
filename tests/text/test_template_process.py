"""Templates that hang, grow or fail, in a process that ends with them."""

import contextlib
import inspect
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mell_jax.contained import process as contained_process
from mell_jax.text.chat_template import (
    ChatTemplateError,
    Variables,
    make_environment,
)
from mell_jax.text.template_process import TemplateProcess
from mell_jax.text.template_source import TemplateSource


def saying(content: str) -> Variables:
    return Variables(messages=[{"role": "u", "content": content}])


HELLO = saying("hi")
TRIGGER = saying("now")
ENDLESS = (
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
)
DOUBLING = (
    "{% set ns = namespace(s='xxxxxxxx') %}"
    "{% for i in range(60) %}{% set ns.s = ns.s OP ns.s %}{% endfor %}"
)
HANGS = {
    "nested loops that write nothing": ENDLESS,
    "doubling by ~": DOUBLING.replace("OP", "~"),
    "doubling by +": DOUBLING.replace("OP", "+"),
    "doubling a list": "{% set ns = namespace(s=[1]) %}"
    "{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
    "ljust": "{{ messages[0].content.ljust(99999999999) }}",
    "center": "{{ messages[0].content | center(99999999999) }}",
    "format": "{{ '%099999999999d' % messages | length }}",
    "str.format": "{{ '{:>99999999999}'.format(messages | length) }}",
    "tojson(indent)": "{{ messages | tojson(indent=99999999999) }}",
    "lipsum": "{{ lipsum(n=99999999) }}",
    "a macro that calls itself": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
}


@contextlib.contextmanager
def running(text: str, *, limit_s: float = 0.4) -> Iterator[TemplateProcess]:
    source = TemplateSource(text=text, path=Path("chat.jinja"))
    with contextlib.closing(TemplateProcess(source, limit_s=limit_s)) as process:
        yield process


@pytest.mark.parametrize("name", HANGS)
def test_what_never_comes_back_is_ended_and_others_go_on(name: str) -> None:
    text = "{% if messages[0].content == 'now' %}" + HANGS[name] + "{% endif %}ok"
    with running(text) as process:
        process.check()
        start_s = time.monotonic()
        with pytest.raises(ChatTemplateError):
            process.render(TRIGGER, max_chars=1000)
        assert time.monotonic() - start_s < 8.0
        assert process.render(HELLO, max_chars=1000) == "ok"


@pytest.mark.parametrize(
    "text",
    [
        "{{ 'a' | center(99999999999) }}",
        "{{ [1] | tojson(indent=99999999999) }}",
        "{{ 'a' * 10 ** 12 }}",
        "{{ 1 / 0 }}",
        "{% for %}",
    ],
)
def test_a_constant_that_hangs_or_fails_is_a_clear_error_wherever_it_is_computed(
    text: str,
) -> None:
    with running(text) as process:
        try:
            process.check()
        except ValueError as error:
            assert str(error).startswith("chat.jinja: ")
        with pytest.raises(ChatTemplateError):
            process.render(HELLO, max_chars=1000)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{{ 1 // (messages | length - 1) }}", "ZeroDivisionError"),
        ("{{ messages[7].content.x }}", "has no element 7"),
        ("{{ messages[0].content + 1 }}", "can only concatenate"),
        ("{{ raise_exception('only two may talk') }}", "only two may talk"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
    ],
)
def test_whatever_a_template_raises_is_told_to_the_caller(text: str, says: str) -> None:
    with running(text) as process, pytest.raises(ChatTemplateError, match=says):
        process.render(HELLO, max_chars=1000)


def test_a_process_that_was_killed_is_replaced() -> None:
    with running("{{ messages[0].content }}") as process:
        assert process.render(HELLO, max_chars=9) == "hi"
        assert process._child is not None
        process._child.process.kill()
        with pytest.raises(ChatTemplateError):
            process.render(HELLO, max_chars=9)
        assert process.render(HELLO, max_chars=9) == "hi"


def test_many_threads_share_a_process() -> None:
    texts: list[str] = []
    with running("{{ messages[0].content }}") as process:

        def render(number: int) -> None:
            texts.append(process.render(saying(str(number)), max_chars=9))

        threads = [threading.Thread(target=render, args=(i,)) for i in range(32)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(texts, key=int) == [str(i) for i in range(32)]


def test_no_process_is_left_behind() -> None:
    with running(ENDLESS) as process:
        assert process._child is not None
        pid = process._child.process.pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_process_ends_by_itself_when_its_parent_cannot_end_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The timer is the kernel's: a parent that dies leaves no process that spins."""
    monkeypatch.setattr(contained_process, "_EXIT_S", 60.0)  # it only waits
    with running(ENDLESS) as process, pytest.raises(ChatTemplateError, match=r"0\.4 s"):
        process.render(HELLO, max_chars=9)


def test_a_long_conversation_goes_through() -> None:
    content = "ä" * 2_000_000
    with running("{{ messages[0].content }}", limit_s=9.0) as process:
        assert process.render(saying(content), max_chars=3_000_000) == content


def test_the_environment_is_that_of_transformers() -> None:
    utils = pytest.importorskip("transformers.utils.chat_template_utils")
    theirs = utils._compile_jinja_template("").environment
    ours = make_environment()
    assert set(theirs.globals) == set(ours.globals)
    assert set(theirs.filters) == set(ours.filters)
    assert set(theirs.tests) == set(ours.tests)
    assert (theirs.trim_blocks, theirs.lstrip_blocks) == (True, True)
    assert (ours.trim_blocks, ours.lstrip_blocks) == (True, True)
    tags = {tag for extension in theirs.extensions.values() for tag in extension.tags}
    assert tags == {
        tag for extension in ours.extensions.values() for tag in extension.tags
    }
    for kind, name in (
        ("filters", "tojson"),
        ("globals", "raise_exception"),
        ("globals", "strftime_now"),
    ):
        want = inspect.signature(getattr(theirs, kind)[name])
        have = inspect.signature(getattr(ours, kind)[name])
        assert [(p.name, p.default) for p in have.parameters.values()] == [
            (p.name, p.default) for p in want.parameters.values()
        ]


@pytest.mark.parametrize(
    "text",
    [
        "{{ messages | tojson }}",
        "{{ messages | tojson(indent=2) }}",
        "{{ messages | tojson(ensure_ascii=True, sort_keys=True) }}",
        "{{ messages | tojson(separators=(',', ':')) }}",
        "{% if tools is not none %}T{% endif %}{% if documents %}D{% endif %}x",
        "{% if not add_generation_prompt is defined %}no{% endif %}-",
    ],
)
def test_templates_say_what_they_say_in_transformers(text: str) -> None:
    utils = pytest.importorskip("transformers.utils.chat_template_utils")
    said = saying("hi, straße")
    rendered, _ = utils.render_jinja_template(
        [said.messages], chat_template=text, add_generation_prompt=True
    )
    with running(text) as process:
        assert process.render(said, max_chars=999) == rendered[0]


def test_all_variables_cross_to_the_process_as_they_are() -> None:
    text = (
        "{{ [messages, tools, documents, level, rate, add_generation_prompt]"
        " | tojson }}{{ missing is defined }}{{ bos_token }}"
    )
    variables = Variables(
        messages=[{"role": "u", "content": None, "deep": [{"ä\ufdd0\x00": 2**70}]}],
        tools=[{"b": 1.0, "a": -0.5}],
        documents=[],
        kwargs={"level": "high", "rate": 1e22},
        asks_for_answer=False,
    )
    with running(text) as process:
        assert process.render(variables, max_chars=999) == (
            '[[{"role": "u", "content": null, "deep": [{"ä\ufdd0\\u0000": '
            '1180591620717411303424}]}], [{"b": 1.0, "a": -0.5}], [], "high", 1e+22, '
            "false]False"
        )


def test_what_the_engine_says_is_not_what_a_client_says() -> None:
    names = ("messages", "tools", "documents", "add_generation_prompt", "bos_token")
    variables = Variables(messages=[], kwargs=dict.fromkeys(names, "forged"))
    text = "".join(f"{{{{ {name} }}}}" for name in names)
    with running(text) as process:
        assert process.render(variables, max_chars=999) == "[]NoneNoneTrue"
