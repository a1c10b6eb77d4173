"""Three small tokenizers, one for each way in which tokens become text."""

import json
from pathlib import Path

import pytest
import sentencepiece
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from mell_jax.text.tokenizer import Tokenizer, load_tokenizer

CORPUS = ["the cat sat on the mat", "a naïve café", "hello world, hello cat"] * 4


@pytest.fixture(scope="session")
def byte_level_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level BPE, as GPT-2, Llama 3 and Qwen have: `<s>` is 0 and `</s>` is 1."""
    rust = tokenizers.Tokenizer(models.BPE())
    rust.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    rust.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=290,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    rust.train_from_iterator(CORPUS, trainer=trainer)
    rust.add_tokens(["  漢 "])  # an added token spells text, not bytes
    directory = tmp_path_factory.mktemp("byte_level")
    rust.save(str(directory / "tokenizer.json"))
    config = {"bos_token": "<s>", "eos_token": {"content": "</s>", "lstrip": False}}
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    return directory


@pytest.fixture(scope="session")
def byte_fallback_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama 2 like `tokenizer.json`: `▁` for a space, `<0xE2>` for a byte.

    Ids: 0 `<unk>`, 1 `<s>`, 2 `</s>`, 3 to 258 the bytes, then `▁ h i ▁h ▁hi`.
    """
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokens += ["▁", "h", "i", "▁h", "▁hi"]
    spec = {
        "version": "1.0",
        "added_tokens": [
            {
                "id": i,
                "content": tokens[i],
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for i in range(3)
        ],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": "▁"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
            ],
        },
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
        "model": {
            "type": "BPE",
            "unk_token": "<unk>",
            "fuse_unk": True,
            "byte_fallback": True,
            "vocab": {token: i for i, token in enumerate(tokens)},
            "merges": ["▁ h", "▁h i"],
        },
    }
    directory = tmp_path_factory.mktemp("byte_fallback")
    (directory / "tokenizer.json").write_text(json.dumps(spec))
    return directory


@pytest.fixture(scope="session")
def sentencepiece_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SentencePiece BPE: 0 `<unk>`, 1 `<s>`, 2 `</s>`, 3 to 258 the bytes."""
    directory = tmp_path_factory.mktemp("sentencepiece")
    with (directory / "tokenizer.model").open("wb") as model:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(CORPUS),
            model_writer=model,
            model_type="bpe",
            vocab_size=300,
            byte_fallback=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            minloglevel=2,
        )
    return directory


@pytest.fixture(scope="session")
def byte_level(byte_level_dir: Path) -> Tokenizer:
    return load_tokenizer(byte_level_dir)


@pytest.fixture(scope="session")
def byte_fallback(byte_fallback_dir: Path) -> Tokenizer:
    return load_tokenizer(byte_fallback_dir)


@pytest.fixture(scope="session")
def sentence_piece(sentencepiece_dir: Path) -> Tokenizer:
    return load_tokenizer(sentencepiece_dir)


@pytest.fixture(
    scope="session", params=["byte_level", "byte_fallback", "sentencepiece"]
)
def any_tokenizer(
    request: pytest.FixtureRequest,
    byte_level: Tokenizer,
    byte_fallback: Tokenizer,
    sentence_piece: Tokenizer,
) -> Tokenizer:
    tokenizer_of = {
        "byte_level": byte_level,
        "byte_fallback": byte_fallback,
        "sentencepiece": sentence_piece,
    }
    return tokenizer_of[request.param]
