"""Tells quantised weights by the names of their tensors, where `config.json` is silent.

Old GPTQ and AWQ files, MLX and bitsandbytes keep what they are in files or keys of
their own, or nowhere; the tensors tell it without them.
"""

from collections.abc import Collection

QUANTIZATION_KEYS = ("quantization_config", "compression_config", "quantization")
"""Of `config.json`: today's, that of old compressed-tensors, and that of MLX."""
_MARKS: tuple[tuple[str, tuple[str, ...]], ...] = (  # the first that has all fits
    ("GPTQ", (".qweight", ".qzeros", ".g_idx")),
    ("AWQ", (".qweight", ".qzeros")),
    ("compressed-tensors, packed", (".weight_packed",)),
    ("FP8 with scales of blocks", (".weight_scale_inv",)),
    ("FP8 or int8 with scales", (".weight_scale",)),
    ("bitsandbytes", (".absmax",)),
    ("bitsandbytes, int8", (".SCB",)),
    ("MLX", (".scales", ".biases")),
    ("MXFP4", ("_blocks", "_scales")),
)


def find_quantization(names: Collection[str]) -> tuple[str, str] | None:
    """Returns how tensors are quantised and the first one that shows it, or None.

    >>> find_quantization(["a.weight", "a.scales", "a.biases"])
    ('MLX', 'a.scales')
    """
    for kind, suffixes in _MARKS:
        firsts = [
            min((name for name in names if name.endswith(suffix)), default=None)
            for suffix in suffixes
        ]
        if firsts[0] is not None and None not in firsts:
            return kind, firsts[0]
    return None
