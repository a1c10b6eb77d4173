"""Where models keep their chat templates."""

import json
from pathlib import Path

import pytest

from mell_jax.text.special_tokens import SpecialTokens
from mell_jax.text.template_source import find_template, read_template


def test_templates_are_found_where_models_have_them(tmp_path: Path) -> None:
    assert find_template(tmp_path) is None
    config = tmp_path / "tokenizer_config.json"
    config.write_text('{"bos_token": "<s>"}')
    assert find_template(tmp_path) is None

    def found(override: Path | None = None) -> tuple[str, str]:
        source = find_template(tmp_path, override=override)
        assert source is not None
        return source.text, source.special.get("bos_token", "")

    config.write_text('{"chat_template": "1", "bos_token": "<s>"}')
    assert found() == ("1", "<s>")
    named = [{"name": "tool", "template": "t"}, {"name": "default", "template": "2"}]
    config.write_text(json.dumps({"chat_template": named}))
    assert found() == ("2", "")
    (tmp_path / "chat_template.jinja").write_text("3")
    assert found() == ("3", "")
    (tmp_path / "own").write_text("4")
    assert found(tmp_path / "own") == ("4", "")
    (tmp_path / "own").write_text("x" * 300_000)
    with pytest.raises(ValueError, match="own: a chat template may have 262144 bytes"):
        found(tmp_path / "own")


def test_tokens_go_by_their_names(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_text("x")
    config = {"unk_token": {"content": "<u>"}, "pad_token": None, "add_bos_token": True}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    more = {"pad_token": "<p>", "unk_token": "second", "image_token": "<i>"}
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(more))
    source = find_template(tmp_path)
    assert source is not None
    assert source.special == {
        "unk_token": "<u>",
        "pad_token": "<p>",
        "image_token": "<i>",
    }


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    path = tmp_path / "chat.jinja"
    path.write_bytes(b"\xff")
    with pytest.raises(ValueError, match=r"chat\.jinja: a chat template is UTF-8"):
        read_template(path, special=SpecialTokens())
