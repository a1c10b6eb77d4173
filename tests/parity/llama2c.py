"""Reads a model in the legacy file of llama2.c as one of our decoders.

That file rotates neighbouring channels (0, 1), (2, 3), ...
"""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from flax import nnx

from mell_jax.checkpoints.abstract import ParameterPath, abstract_decoder
from mell_jax.models.decoder import Decoder
from mell_jax.models.rope import RopeConfig
from mell_jax.models.uniform import uniform_config

Array = npt.NDArray[np.float32]


def read_llama2c(path: Path) -> Decoder:
    """The float32 decoder in `path`, with an output head tied to the embedding."""
    width, inner, layers, heads, kv_heads, vocab, context = np.fromfile(
        path, np.int32, 7
    ).tolist()
    head_dim = width // heads
    assert vocab > 0, "a negative size marks an untied output head"
    config = uniform_config(
        vocab_size=vocab,
        hidden_size=width,
        intermediate_size=inner,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        max_position_embeddings=context,
        rope=RopeConfig(is_interleaved=True),
        norm_eps=1e-5,
        tie_embeddings=True,
    )
    values = np.fromfile(path, np.float32, offset=7 * 4)

    def take(*shape: int) -> Array:
        nonlocal values
        taken, values = np.split(values, [int(np.prod(shape))])
        return taken.reshape(shape)

    embed, input_norm = take(vocab, width), take(layers, width)
    query = take(layers, width, width)
    key, value = (take(layers, kv_heads * head_dim, width) for _ in range(2))
    output, mlp_norm = take(layers, width, width), take(layers, width)
    gate, down = take(layers, inner, width), take(layers, width, inner)
    up, norm = take(layers, inner, width), take(width)

    parameters: dict[ParameterPath, Array] = {
        ("embed", "embedding"): embed,
        ("norm", "scale"): norm,
    }
    for layer in range(layers):
        kernels = {
            ("attention", "q_proj"): query[layer],
            ("attention", "k_proj"): key[layer],
            ("attention", "v_proj"): value[layer],
            ("attention", "o_proj"): output[layer],
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
