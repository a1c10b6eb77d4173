import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.engine.llama_gguf import gguf_name, interleave, write_gguf

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 3,
    "hidden_size": 4,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 64,
    "rope_parameters": {"rope_theta": 5000.0, "rope_type": "default"},
}
Q_PROJ = "model.layers.0.self_attn.q_proj.weight"


class Writer:
    """A GGUF file that keeps what it is told in a dictionary."""

    def __init__(self, path, architecture):
        self.tensors = {}
        self.told = {"path": path, "architecture": architecture}

    def add_tensor(self, name, values):
        self.tensors[name] = values

    def __getattr__(self, name):
        return lambda *values: self.told.update({name: values})


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Converts stored tensors, {name: (dtype, array)}, and returns the writer."""

    def write(tensors, **changes):
        writers = []

        def make(path, architecture):
            writers.append(Writer(path, architecture))
            return writers[-1]

        stored = {
            name: SimpleNamespace(
                dtype=dtype, shape=array.shape, mmap_bytes=array.tobytes
            )
            for name, (dtype, array) in tensors.items()
        }
        gguf = SimpleNamespace(GGUFWriter=make, TokenType=SimpleNamespace(NORMAL=1))
        utility = SimpleNamespace(
            SafetensorsLocal=lambda path: SimpleNamespace(tensors=stored)
        )
        monkeypatch.setitem(sys.modules, "gguf", gguf)
        monkeypatch.setitem(sys.modules, "gguf.utility", utility)
        (tmp_path / "config.json").write_text(json.dumps(CONFIG | changes))
        (tmp_path / "model.safetensors").touch()
        write_gguf(tmp_path, path=tmp_path / "model.gguf")
        return writers[0]

    return write


def test_the_shape_is_that_of_the_configuration(written):
    told = written({}).told
    assert told["architecture"] == "llama"
    assert told["add_head_count_kv"] == (
        1,
    )  # as many as query heads, if it is not said
    assert told["add_rope_dimension_count"] == (4,)
    assert told["add_rope_freq_base"] == (5000.0,)
    assert told["add_token_list"] == (["t0", "t1", "t2"],)


@pytest.mark.parametrize(
    ("dtype", "stored"),
    [
        ("F32", np.array([0, 1, 2, 3], np.float32)),
        ("F16", np.array([0, 1, 2, 3], np.float16)),
        ("BF16", np.array([0, 0x3F80, 0x4000, 0x4040], np.uint16)),
    ],
)
def test_queries_are_interleaved_in_float32(written, dtype, stored):
    values = written({Q_PROJ: (dtype, stored.reshape(4, 1))}).tensors
    assert values["blk.0.attn_q.weight"].dtype == np.float32
    assert values["blk.0.attn_q.weight"].tolist() == [[0], [2], [1], [3]]


def test_a_quantized_tensor_is_refused(written):
    with pytest.raises(ValueError, match="is I8; give float32"):
        written({Q_PROJ: ("I8", np.zeros((4, 1), np.int8))})


@pytest.mark.parametrize(
    "changes",
    [
        {"architectures": ["Qwen3ForCausalLM"]},
        {"rope_parameters": None, "rope_scaling": {"type": "linear", "factor": 2.0}},
        {"rope_parameters": {"rope_type": "llama3", "rope_theta": 1.0}},
    ],
)
def test_another_family_or_scaled_angles_are_refused(written, changes):
    with pytest.raises(ValueError, match="only LlamaForCausalLM without scaled"):
        written({}, **changes)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model.embed_tokens.weight", "token_embd.weight"),
        ("lm_head.weight", "output.weight"),
        ("model.layers.0.input_layernorm.weight", "blk.0.attn_norm.weight"),
        ("model.layers.11.mlp.down_proj.weight", "blk.11.ffn_down.weight"),
    ],
)
def test_tensors_have_the_names_of_llama_cpp(name, expected):
    assert gguf_name(name) == expected


@pytest.mark.parametrize(
    "name", ["model.layers.0.self_attn.q_proj.bias", "model.layers.x.mlp.up_proj", "w"]
)
def test_a_tensor_that_no_llama_has_is_refused(name):
    with pytest.raises(ValueError, match="is no tensor of a Llama"):
        gguf_name(name)


def test_rows_that_turn_together_become_neighbours():
    two_heads = np.arange(8.0, dtype=np.float32).reshape(8, 1)
    expected = [[0], [2], [1], [3], [4], [6], [5], [7]]
    assert interleave(two_heads, heads=2).tolist() == expected
