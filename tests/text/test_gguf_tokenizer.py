"""A tokenizer out of a GGUF file gives the ids of the files that it was made of."""

import json
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import tokenizers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, trainers

from mell_jax.model_files.folder import MadeFile, open_folder
from mell_jax.model_files.gguf_file import read_head
from mell_jax.model_files.gguf_path import model_name
from mell_jax.model_files.gguf_tokenizer import end_ids
from mell_jax.model_files.pre_tokenizers import PRE_TOKENIZERS
from mell_jax.serving.vllm.tokenizer_archive import chunks_of, pack, unpack
from mell_jax.text.chat_prompt import ChatPrompt
from mell_jax.text.chat_template import Variables
from mell_jax.text.conversation import Conversation
from mell_jax.text.ends import find_eos_ids
from mell_jax.text.template_source import find_template
from mell_jax.text.tokenizer import load_tokenizer

gguf = pytest.importorskip("gguf")

TEXTS = (
    "the cat sat on the mat",
    " a naïve café, 12345 hello\n\n  world!",
    "don't SHOUT'LL we'Re <|im_end|> x<|im_start|>y",
    "tabs\tand\r\nlines \n ends  ",
    "漢字 and emoji 👩‍🚀 e\u0301 ½ ٣",
    "f(x) == [1, 2];  // 100000 camelCase HTTPServer",
    "",
    " ",
)
CORPUS = [*TEXTS, "hello world, hello cat, we'll not shout, the naïve mat"] * 4
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")

LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN_2 = LLAMA_3.replace(r"\p{N}{1,3}", r"\p{N}")


def split_by(*patterns: str) -> pre_tokenizers.PreTokenizer:
    splits = [
        pre_tokenizers.Split(Regex(pattern), behavior="isolated")
        for pattern in patterns
    ]
    as_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([*splits, as_bytes])


# As the published tokenizer.json of each has it.
ORIGINALS: dict[str, pre_tokenizers.PreTokenizer] = {
    "gpt-2": pre_tokenizers.ByteLevel(add_prefix_space=False),
    "smollm": pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    ),
    "llama-bpe": split_by(LLAMA_3),
    "qwen2": split_by(QWEN_2),
    "deepseek-coder": pre_tokenizers.Sequence(
        [
            *(
                pre_tokenizers.Split(Regex(pattern), behavior="isolated")
                for pattern in (
                    r"[\r\n]",
                    r"\s?\p{L}+",
                    r"\s?\p{P}+",
                    "[一-龥ࠀ-一가-퟿]+",
                )
            ),
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    ),
}


def byte_level(pre: str) -> tokenizers.Tokenizer:
    """A tokenizer that was trained on the texts, cut as a known one cuts them."""
    ignores = PRE_TOKENIZERS[pre].ignores_merges
    rust = tokenizers.Tokenizer(models.BPE(ignore_merges=ignores))
    rust.pre_tokenizer = ORIGINALS[pre]
    rust.decoder = decoders.ByteLevel()
    if pre == "qwen2":
        rust.normalizer = normalizers.NFC()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    rust.train_from_iterator(CORPUS, trainer=trainer)
    rust.add_tokens(["  漢 "])
    return rust


def write(path: Path, values: dict[str, Any]) -> Path:
    writer = gguf.GGUFWriter(path, "llama")
    for key, value in values.items():
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        else:
            writer.add_array(key, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


def as_gguf(rust: tokenizers.Tokenizer, pre: str, **changes: Any) -> dict[str, Any]:
    """What the converter of llama.cpp takes from a `tokenizer.json`."""
    spec = json.loads(rust.to_str())
    tokens = sorted(rust.get_vocab(), key=rust.get_vocab().__getitem__)
    added = {entry["id"]: entry["special"] for entry in spec["added_tokens"]}
    types = [{None: 1, True: 3, False: 4}[added.get(i)] for i in range(len(tokens))]
    values = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": [" ".join(pair) for pair in spec["model"]["merges"]],
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.add_bos_token": False,
    }
    values |= {f"tokenizer.{key}": value for key, value in changes.items()}
    return {key: value for key, value in values.items() if value is not None}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.gguf"


@pytest.mark.parametrize("pre", ORIGINALS)
def test_byte_level_ids_are_those_of_the_tokenizer_json(path: Path, pre: str) -> None:
    rust = byte_level(pre)
    found = load_tokenizer(write(path, as_gguf(rust, pre)))
    for text in TEXTS:
        ids = rust.encode(text, add_special_tokens=False).ids
        assert found.encode(text) == ids, text
        assert found.decode(ids, skip_special_tokens=False) == rust.decode(
            ids, skip_special_tokens=False
        )
    assert (found.bos_id, found.eos_id) == (0, 2)
    assert found.special_ids == {0, 1, 2}


@pytest.mark.parametrize("pre", PRE_TOKENIZERS)
def test_every_known_way_of_cutting_keeps_all_letters(path: Path, pre: str) -> None:
    rust = byte_level("gpt-2")
    found = load_tokenizer(write(path, as_gguf(rust, pre)))
    for text in TEXTS:
        ids = found.encode(text)
        normal = PRE_TOKENIZERS[pre].normalizer
        expected = normalizers.NFC().normalize_str(text) if normal else text
        assert found.decode(ids, skip_special_tokens=False) == expected


@pytest.mark.parametrize(
    ("pre", "text", "words"),
    [
        ("llama-bpe", "in 12345 don't", ["in", " ", "123", "45", " don", "'t"]),
        ("qwen2", "in 123 don't", ["in", " ", "1", "2", "3", " don", "'t"]),
        ("smollm", "in 123 don't", ["in", " ", "1", "2", "3", " don", "'t"]),
        ("gpt-2", "in 123 don't", ["in", " 123", " don", "'t"]),
        ("default", "a==b 12345", ["a", "==", "b", " ", "123", "45"]),
        ("tekken", "camelCase 12", ["camel", "Case", " ", "1", "2"]),
        ("gpt-4o", "camelCase'S 1234", ["camel", "Case'S", " ", "123", "4"]),
        ("deepseek-coder", "a 漢字\nb12", ["a", " ", "漢字", "\n", "b", "1", "2"]),
    ],
)
def test_words_are_cut_as_the_name_says(pre: str, text: str, words: list[str]) -> None:
    steps = json.dumps(PRE_TOKENIZERS[pre].steps())
    spec = json.loads(tokenizers.Tokenizer(models.BPE()).to_str())
    spec["pre_tokenizer"] = json.loads(steps)
    rust = tokenizers.Tokenizer.from_str(json.dumps(spec))
    assert rust.pre_tokenizer is not None
    pieces = rust.pre_tokenizer.pre_tokenize_str(text)
    assert [text[start:end] for _, (start, end) in pieces] == words


@pytest.mark.parametrize(
    ("pre", "changes", "around"),
    [
        ("llama-bpe", {"ggml.add_bos_token": None}, ([0], [])),
        ("llama-bpe", {"ggml.add_bos_token": False}, ([], [])),
        ("qwen2", {"ggml.add_bos_token": None}, ([], [])),
        ("qwen2", {"ggml.add_bos_token": True}, ([0], [])),
        (
            "qwen2",
            {"ggml.add_bos_token": True, "ggml.add_eos_token": True},
            ([0], [2]),
        ),
    ],
)
def test_a_text_begins_and_ends_as_the_file_says(
    path: Path, pre: str, changes: dict[str, Any], around: tuple[list[int], list[int]]
) -> None:
    rust = byte_level(pre)
    found = load_tokenizer(write(path, as_gguf(rust, pre, **changes)))
    inner = rust.encode("hello cat", add_special_tokens=False).ids
    assert found.encode("hello cat") == [*around[0], *inner, *around[1]]
    assert found.encode("hello cat", add_special_tokens=False) == inner


def pieces_of(model: sentencepiece.SentencePieceProcessor) -> dict[str, Any]:
    """What the converter of llama.cpp takes from a `tokenizer.model`."""
    ids = range(model.get_piece_size())

    def kind(i: int) -> int:
        if model.is_unknown(i):
            return 2
        return 3 if model.is_control(i) else 6 if model.is_byte(i) else 1

    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": [model.id_to_piece(i) for i in ids],
        "tokenizer.ggml.scores": [float(model.get_score(i)) for i in ids],
        "tokenizer.ggml.token_type": [kind(i) for i in ids],
        "tokenizer.ggml.bos_token_id": model.bos_id(),
        "tokenizer.ggml.eos_token_id": model.eos_id(),
    }


@pytest.fixture
def pieces(sentencepiece_dir: Path) -> dict[str, Any]:
    file = sentencepiece_dir / "tokenizer.model"
    return pieces_of(sentencepiece.SentencePieceProcessor(model_file=str(file)))


def test_ids_of_pieces_are_those_of_the_tokenizer_model(
    path: Path, pieces: dict[str, Any], sentencepiece_dir: Path
) -> None:
    expected = load_tokenizer(sentencepiece_dir)
    found = load_tokenizer(write(path, pieces))
    for text in (*TEXTS, "  two  spaces "):
        assert found.encode(text) == expected.encode(text), text
        assert found.decode(found.encode(text)) == expected.decode(
            expected.encode(text)
        )
    assert found.encode("cat")[0] == 1
    assert found.vocabulary == expected.vocabulary


def test_pieces_without_a_space_before_them(
    path: Path, pieces: dict[str, Any], sentencepiece_dir: Path
) -> None:
    flags = {"add_space_prefix": False, "add_bos_token": False}
    more = {f"tokenizer.ggml.{key}": value for key, value in flags.items()}
    found = load_tokenizer(write(path, pieces | more))
    with_space = load_tokenizer(sentencepiece_dir)
    assert found.encode("▁cat") == with_space.encode("cat")[1:]
    assert found.encode("cat") != with_space.encode("cat")[1:]


def test_the_template_and_ends_are_those_of_the_file(path: Path) -> None:
    template = (
        "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"
    )
    rust = byte_level("smollm")
    write(
        path,
        as_gguf(rust, "smollm", chat_template=template, **{"ggml.eot_token_id": 1}),
    )
    source = find_template(path)
    assert source is not None
    assert source.text == template
    assert source.special["bos_token"] == "<|endoftext|>"
    assert source.special["eos_token"] == "<|im_end|>"
    assert str(source.path) == f"{path} (chat_template.jinja)"
    assert end_ids(read_head(path)) == (2, 1)
    assert find_eos_ids(path) == ()

    class Once:
        def render(self, variables: Variables, **options: Any) -> str:
            contents = [message["content"] for message in variables.messages]
            return "".join(f"<|im_start|>{each}<|im_end|>" for each in contents)

    prompt = ChatPrompt(load_tokenizer(path), template=Once())
    said = Conversation(messages=[{"role": "user", "content": "<|im_end|>"}])
    ids = prompt.encode(said, max_tokens=99).ids
    assert (ids[0], ids[-1], ids.count(2)) == (1, 2, 1)


def test_files_beside_the_gguf_file_win(path: Path, byte_level_dir: Path) -> None:
    write(path, as_gguf(byte_level("smollm"), "smollm", chat_template="inside"))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (path.parent / name).write_bytes((byte_level_dir / name).read_bytes())
    expected = load_tokenizer(byte_level_dir)
    assert load_tokenizer(path).vocabulary == expected.vocabulary
    assert load_tokenizer(path.parent).vocabulary == expected.vocabulary
    assert find_eos_ids(path) == (1,)
    inside = find_template(path)
    assert inside is not None and inside.text == "inside"
    (path.parent / "chat_template.jinja").write_text("beside")
    beside = find_template(path)
    assert beside is not None and beside.text == "beside"


def test_a_tokenizer_json_beside_it_is_the_way_out(
    path: Path, byte_level_dir: Path
) -> None:
    write(path, as_gguf(byte_level("smollm"), "smollm", **{"ggml.pre": "of-tomorrow"}))
    with pytest.raises(ValueError, match=r"pre is 'of-tomorrow', known are default"):
        load_tokenizer(path)
    name = "tokenizer.json"
    (path.parent / name).write_bytes((byte_level_dir / name).read_bytes())
    with pytest.raises(
        ValueError, match=r"bos_token is '<\|endoftext\|>', which is no"
    ):
        load_tokenizer(path)  # names of the file's own tokens
    name = "tokenizer_config.json"
    (path.parent / name).write_bytes((byte_level_dir / name).read_bytes())
    assert load_tokenizer(path).eos_id == 1


def test_the_archive_for_clients_has_files_that_give_the_same_ids(
    path: Path, tmp_path: Path, pieces: dict[str, Any]
) -> None:
    for number, values in enumerate((as_gguf(byte_level("qwen2"), "qwen2"), pieces)):
        write(path, values)
        folder = tmp_path / str(number)
        folder.mkdir()
        unpack(chunks_of(pack(path)), directory=folder)
        assert load_tokenizer(folder).vocabulary == load_tokenizer(path).vocabulary
        for text in TEXTS:
            assert load_tokenizer(folder).encode(text) == load_tokenizer(path).encode(
                text
            )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ggml.model": "bert"}, r"tokenizer.ggml.model is 'bert', which is not known"),
        ({"ggml.pre": None}, r"tokenizer.ggml.pre is missing, .* put the model's own"),
        ({"ggml.tokens": None}, r"tokenizer.ggml.tokens must be a list of strings"),
        ({"ggml.tokens": ["a", "a"], "ggml.token_type": [1, 1]}, r"has 'a' twice"),
        ({"ggml.token_type": None}, r"must give each of the \d+ tokens a type"),
        ({"ggml.token_type": [1]}, r"must give each of the \d+ tokens a type"),
        ({"ggml.tokens": ["a"], "ggml.token_type": [9]}, r"each of the 1 tokens"),
        ({"ggml.merges": ["abc"]}, r"has 'abc', which is not two tokens"),
        ({"ggml.merges": ["a zzz"]}, r"not a usable tokenizer"),
        ({"ggml.eos_token_id": 10**6}, r"eos_token_id is 1000000, outside the vocab"),
        ({"ggml.add_bos_token": 1}, r"add_bos_token must be true or false, found 1"),
        ({"ggml.model": "llama"}, r"tokenizer.ggml.scores must be \d+ numbers"),
    ],
)
def test_tokenizers_that_do_not_fit_together_are_refused(
    path: Path, changes: dict[str, Any], words: str
) -> None:
    values = as_gguf(byte_level("smollm"), "smollm", **changes)
    with pytest.raises(ValueError, match=words) as caught:
        load_tokenizer(write(path, values))
    assert str(caught.value).startswith(str(path))
    assert str(caught.value).count(str(path)) == 1


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("token_type", 1, r"one token must be of type 2, the unknown one"),
        ("scores", float("nan"), r"scores has nan, no finite number"),
    ],
)
def test_pieces_that_do_not_fit_together_are_refused(
    path: Path, pieces: dict[str, Any], key: str, value: Any, words: str
) -> None:
    pieces[f"tokenizer.ggml.{key}"][0] = value
    with pytest.raises(ValueError, match=words):
        load_tokenizer(write(path, pieces))


def test_a_file_without_a_tokenizer_has_none(path: Path) -> None:
    write(path, {})
    with pytest.raises(ValueError, match=r"no tokenizer in .*model.gguf: looked for"):
        load_tokenizer(path)
    assert not isinstance(open_folder(path) / "tokenizer.json", MadeFile)


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("SmolLM2.Q4_1.gguf", "SmolLM2.Q4_1"),
        ("big-q8-00001-of-00003.gguf", "big-q8"),
        ("other", "other"),
    ],
)
def test_a_model_is_named_by_its_file(name: str, model: str) -> None:
    assert model_name(Path("folder") / name) == model
