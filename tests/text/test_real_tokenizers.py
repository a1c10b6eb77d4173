"""Published tokenizers against golden ids, which were made without special tokens."""

import gzip
import json
import shutil
from pathlib import Path

import pytest

from mell_jax.text.detokenizer import Detokenizer
from mell_jax.text.tokenizer import Tokenizer, load_tokenizer

FILES = {
    "gpt2": ("gpt2_tokenizer.json", "tokenizer.json"),
    "deepseek_r1": ("deepseek_r1_tokenizer.json.gz", "tokenizer.json"),
    "mistral_v1": ("mistral_v1.model", "tokenizer.model"),
    "mistral_v3": ("mistral_v3.model", "tokenizer.model"),
}


@pytest.fixture(scope="module", params=FILES)
def golden(
    request: pytest.FixtureRequest,
    data_dir: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Tokenizer, list[str], list[list[int]]]:
    """A tokenizer, texts and the ids it must make of each."""
    source, name = FILES[request.param]
    target = tmp_path_factory.mktemp(request.param) / name
    folder = data_dir / "tokenizers"
    opener = gzip.open if source.endswith(".gz") else open
    with opener(folder / source, "rb") as packed, target.open("wb") as plain:
        shutil.copyfileobj(packed, plain)
    goldens = json.loads((folder / "golden_ids.json").read_text())
    tokenizer = load_tokenizer(target.parent)
    return tokenizer, goldens["strings"], goldens["ids"][request.param]


def test_ids_are_the_golden_ones_and_decode_to_the_text(
    golden: tuple[Tokenizer, list[str], list[list[int]]],
) -> None:
    tokenizer, texts, all_ids = golden
    for text, ids in zip(texts, all_ids, strict=True):
        assert tokenizer.encode(text, add_special_tokens=False) == ids
        assert tokenizer.decode(ids) == text
        tokenizer.check_prompt_bytes(text, max_tokens=len(ids))


def test_one_token_at_a_time_makes_the_same_text(
    golden: tuple[Tokenizer, list[str], list[list[int]]],
) -> None:
    tokenizer, texts, all_ids = golden
    for text, ids in zip(texts, all_ids, strict=True):
        stream = Detokenizer(tokenizer, skip_special_tokens=True)
        assert "".join(stream.add([i]) for i in ids) + stream.flush() == text


def test_plain_text_has_the_same_ids_but_for_special_tokens(
    golden: tuple[Tokenizer, list[str], list[list[int]]],
) -> None:
    tokenizer, texts, _ = golden
    for text in texts:
        assert tokenizer.encode_plain(text) == tokenizer.encode(text)
    start = len(tokenizer.encode(""))
    for spelled, i in tokenizer.spellings.ids.items():
        ids = tokenizer.encode_plain(f"a{spelled}b{spelled}")
        assert i not in ids[start:]
        assert tokenizer.find_control_token(ids) is None
