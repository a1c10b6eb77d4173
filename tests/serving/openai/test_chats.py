from pathlib import Path

import pytest

from mell_jax.serving.openai.chats import load_chats
from mell_jax.serving.served_model import ServedModel
from mell_jax.text.tokenizer import load_tokenizer

HELLO = [{"role": "user", "content": "c"}]


def model(name: str, directory: Path) -> ServedModel:
    return ServedModel(
        name=name,
        path="",
        tokenizer_dir=directory,
        tokenizer=load_tokenizer(directory),
    )


def test_a_template_is_for_all_models_or_for_one(
    letters_dir: Path, tmp_path: Path
) -> None:
    for_all, for_b = tmp_path / "all", tmp_path / "b"
    for_all.write_text("a")
    for_b.write_text("b{{ messages[0].content }}")
    models = [model("a", letters_dir), model("b", letters_dir)]
    assert load_chats(models, templates=[]) == {}
    only_b = load_chats(models, templates=[f"b={for_b}"])
    assert list(only_b) == ["b"]
    assert only_b["b"].encode(HELLO, max_tokens=9) == [2, 3]
    both = load_chats(models, templates=[str(for_all), f"b={for_b}"])
    assert both["a"].encode(HELLO, max_tokens=9) == [1]
    assert both["b"].encode(HELLO, max_tokens=9) == [2, 3]


def test_a_template_for_nobody_is_refused(letters_dir: Path) -> None:
    with pytest.raises(ValueError, match="names 'x', which is not served"):
        load_chats([model("a", letters_dir)], templates=["x=file"])
    with pytest.raises(FileNotFoundError):
        load_chats([model("a", letters_dir)], templates=["/no/file"])
