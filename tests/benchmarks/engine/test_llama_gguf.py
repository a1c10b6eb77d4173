import numpy as np
import pytest

from benchmarks.engine.llama_gguf import gguf_name, interleave


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
