"""Reads a model in the legacy file of llama2.c as one of our decoders.

That file rotates neighbouring channels (0, 1), (2, 3), ...; ours rotates channel i
with channel i + H/2. Its heads may also be smaller than the smallest of ours. Both are
settled by where the channels of a head go: pair i of h/2 goes to i * s and
i * s + H/2, with s = H/h, where our rotary table has the frequency of that pair. The
other channels are zero, and queries grow by sqrt(H/h) to keep the scale of the scores.
"""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from flax import nnx

from mell_jax.checkpoints.abstract import ParameterPath, abstract_decoder
from mell_jax.models.config import HEAD_DIMS, ModelConfig
from mell_jax.models.decoder import Decoder

Array = npt.NDArray[np.float32]


def read_llama2c(path: Path) -> Decoder:
    """The float32 decoder in `path`, with an output head tied to the embedding."""
    width, inner, layers, heads, kv_heads, vocab, context = np.fromfile(
        path, np.int32, 7
    ).tolist()
    small = width // heads
    head_dim = max(small, HEAD_DIMS.start)
    assert vocab > 0, "a negative size marks an untied output head"
    config = ModelConfig(
        vocab_size=vocab,
        hidden_size=width,
        intermediate_size=inner,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        max_position_embeddings=context,
        norm_eps=1e-5,
        tie_embeddings=True,
    )
    values = np.fromfile(path, np.float32, offset=7 * 4)

    def take(*shape: int) -> Array:
        nonlocal values
        taken, values = np.split(values, [int(np.prod(shape))])
        return taken.reshape(shape)

    embed, input_norm = take(vocab, width), take(layers, width)
    query = take(layers, heads, small, width) * np.float32(np.sqrt(head_dim / small))
    key, value = (take(layers, kv_heads, small, width) for _ in range(2))
    output, mlp_norm = take(layers, width, heads, small), take(layers, width)
    gate, down = take(layers, inner, width), take(layers, width, inner)
    up, norm = take(layers, inner, width), take(width)

    parameters: dict[ParameterPath, Array] = {
        ("embed", "embedding"): embed,
        ("norm", "scale"): norm,
    }
    for layer in range(layers):
        kernels = {
            ("attention", "q_proj"): _turn(query[layer], head_dim),
            ("attention", "k_proj"): _turn(key[layer], head_dim),
            ("attention", "v_proj"): _pad(value[layer], head_dim),
            ("attention", "o_proj"): _pad(output[layer].transpose(1, 2, 0), head_dim).T,
            ("mlp", "gate_proj"): gate[layer],
            ("mlp", "up_proj"): up[layer],
            ("mlp", "down_proj"): down[layer],
        }
        for (part, name), matrix in kernels.items():
            parameters["layers", layer, part, name, "kernel"] = matrix.T
        parameters["layers", layer, "input_norm", "scale"] = input_norm[layer]
        parameters["layers", layer, "mlp_norm", "scale"] = mlp_norm[layer]
    model = abstract_decoder(config, dtype=np.float32)
    for name, array in parameters.items():
        assert array.shape == model.shape(name), name
    state = model.state({name: jnp.asarray(a) for name, a in parameters.items()})
    return nnx.merge(model.graphdef, state)


def _turn(rows: Array, head_dim: int) -> Array:
    """Puts the rotated pairs of [N, h, D] where ours are: [N * H, D]."""
    heads, small, width = rows.shape
    step = head_dim // small
    out = np.zeros((heads, head_dim, width), np.float32)
    out[:, : head_dim // 2 : step] = rows[:, 0::2]
    out[:, head_dim // 2 :: step] = rows[:, 1::2]
    return out.reshape(-1, width)


def _pad(rows: Array, head_dim: int) -> Array:
    """Fills the heads of [N, h, D] with zeros: [N * H, D]."""
    heads, small, width = rows.shape
    out = np.zeros((heads, head_dim, width), np.float32)
    out[:, :small] = rows
    return out.reshape(-1, width)
