import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from mell_jax.engine.build import demo_directory
from mell_jax.serving.chat.speech import Speech
from mell_jax.serving.openai.chats import check_chats, load_speeches
from mell_jax.serving.served_model import ServedModel
from mell_jax.text.conversation import Conversation
from mell_jax.text.tokenizer import load_tokenizer

HELLO = Conversation(messages=[{"role": "user", "content": "c"}])
Load = Callable[[Sequence[str], Sequence[ServedModel]], dict[str, Speech]]


def model(name: str, directory: Path) -> ServedModel:
    return ServedModel(
        name=name,
        path="",
        tokenizer_dir=directory,
        tokenizer=load_tokenizer(directory),
    )


@pytest.fixture
def load() -> Iterator[Load]:
    """`load_speeches` for models whose texts end with token 0."""
    with contextlib.ExitStack() as stack:

        def load(
            templates: Sequence[str], models: Sequence[ServedModel]
        ) -> dict[str, Speech]:
            ends = {each.name: (0,) for each in models}
            return load_speeches(models, templates=templates, ends=ends, stack=stack)

        yield load


def test_a_template_is_for_all_models_or_for_one(
    letters_dir: Path, tmp_path: Path, load: Load
) -> None:
    for_all, for_b = tmp_path / "all", tmp_path / "b"
    for_all.write_text("a")
    for_b.write_text("b{{ messages[0].content }}")
    models = [model("a", letters_dir), model("b", letters_dir)]
    assert load([], models) == {}
    only_b = load([f"b={for_b}"], models)
    assert list(only_b) == ["b"]
    assert only_b["b"].chat.encode(HELLO, max_tokens=9).ids == [2, 3]
    both = load([str(for_all), f"b={for_b}"], models)
    assert both["a"].chat.encode(HELLO, max_tokens=9).ids == [1]
    assert both["b"].chat.encode(HELLO, max_tokens=9).ids == [2, 3]


def test_a_template_for_nobody_is_refused(letters_dir: Path, load: Load) -> None:
    models = [model("a", letters_dir)]
    with pytest.raises(ValueError, match="names 'x', which is not served"):
        load(["x=file"], models)
    with pytest.raises(FileNotFoundError):
        load(["/no/file"], models)


def test_a_template_that_cannot_be_compiled_is_named_at_the_start(
    letters_dir: Path, tmp_path: Path, load: Load
) -> None:
    path = tmp_path / "broken"
    path.write_text("{% for %}")
    with pytest.raises(ValueError, match="broken: line 1 of the chat template"):
        check_chats([str(path)], names=["a"])
    with pytest.raises(ValueError, match="broken: line 1 of the chat template"):
        load([str(path)], [model("a", letters_dir)])


def test_an_answer_that_ends_with_a_token_that_ends_nothing_is_warned_of(
    tmp_path: Path, load: Load, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "turns"
    path.write_text("{% for m in messages %}{{ m.content }}<bos>\n{% endfor %}")
    load([str(path)], [model("demo", demo_directory())])
    assert "ends an answer" not in caplog.text  # as a text does: with token 0
    path.write_text("{% for m in messages %}{{ m.content }}<eos>\n{% endfor %}")
    load([str(path)], [model("demo", demo_directory())])
    assert "ends an answer with <eos> (id 1), which ends no text" in caplog.text
