import gzip
import random
import shutil

import pytest

from benchmarks.grammar.answers import answer_to, byte_maker
from benchmarks.grammar.guides import Answer, count_forced, make_answers
from benchmarks.grammar.suite import GrammarSettings, open_tokenizer, run_grammar
from mell_jax.engine.build import demo_directory
from mell_jax.grammar import Grammar
from mell_jax.grammar.check_child import bytes_table


@pytest.mark.slow
def test_the_suite_says_all_of_it():
    report = run_grammar(GrammarSettings(steps=4, repeats=1), progress=False)
    guides, steps = report.results["guides"], report.results["steps"]
    assert guides["schemas"] > 200
    assert guides["new_ms"]["count"] == guides["schemas"]
    assert guides["mask_ms"]["count"] == guides["tokens"]
    assert guides["replay_ms"]["count"] > 0
    assert 0 < guides["forced_tokens"] < guides["tokens"]
    assert steps["free_ms"]["count"] == 4 * 32
    assert steps["beside_ms"]["count"] == 4 * 24
    assert steps["own_ms"]["count"] > 0
    for kind in ("free_ms", "new_ms", "known_ms"):
        assert report.results["first_tokens"][kind]["count"] == 4
    assert "guide of a new schema" in report.text


def test_answers_are_whole_and_made_of_the_tokens():
    table = bytes_table()
    answers = make_answers(table, seed=0)
    assert answers == make_answers(table, seed=0)
    texts = [bytes(answer.tokens).decode() for answer in answers]
    assert any("the old river ran past" in text for text in texts)
    assert max(map(len, texts)) < 2000


def test_forced_tokens_are_counted_where_they_stand():
    grammar = Grammar.from_regex("(ab|cd)xyz[01]")
    answer = Answer(grammar=grammar, tokens=tuple(b"abxyz0"))
    assert count_forced(byte_maker(), answer) == 4  # b, x, y and z


def test_a_text_may_end_early():
    grammar = Grammar.from_json_schema({"type": "string", "minLength": 3})
    texts = {
        answer_to(grammar, maker=byte_maker(), rng=random.Random(seed))
        for seed in range(9)
    }
    assert len(texts) > 3
    assert all(text[0] == text[-1] == '"' and len(text) >= 5 for text in texts)


def test_a_tokenizer_is_a_folder_or_a_file_packed_or_not(tmp_path):
    source = demo_directory() / "tokenizer.json"
    packed = tmp_path / "any.json.gz"
    packed.write_bytes(gzip.compress(source.read_bytes()))
    plain = shutil.copy(source, tmp_path / "any.json")
    wanted = open_tokenizer(None, scratch=tmp_path).encode("once upon")
    for number, path in enumerate((packed, plain, demo_directory())):
        scratch = tmp_path / str(number)
        scratch.mkdir()
        assert open_tokenizer(path, scratch=scratch).encode("once upon") == wanted
    with pytest.raises(ValueError, match=r"none\.json cannot be read"):
        open_tokenizer(tmp_path / "none.json", scratch=tmp_path)


@pytest.mark.parametrize("wrong", [{"constrained": 32}, {"steps": 0}, {"repeats": 0}])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match="must be"):
        GrammarSettings(**wrong)
