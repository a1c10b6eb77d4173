"""Writes `goldens/*.safetensors` with the reference implementations.

    python -m tests.checkpoints.quantised.make_goldens              # all cases
    python -m tests.checkpoints.quantised.make_goldens awq ...      # of these names

Needs torch and transformers as in constraints-torch.txt and, in an environment of their
own, compressed-tensors 0.20.1, gptqmodel 7.7.0 and autoawq 0.2.9. The last two compile
when they are installed; their unpacked sources on PYTHONPATH do as well.
"""

import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from safetensors.torch import save_file

from tests.checkpoints.quantised.golden_cases import (
    CASES,
    DENSE,
    EXPERTS,
    GOLDENS,
    MODULE,
    Config,
)

OUT, IN = 32, 64
Tensors = dict[str, torch.Tensor]


def weight(seed: int = 0) -> torch.Tensor:
    """A matrix [out, in], some of whose groups have no negative values."""
    values = torch.randn(OUT, IN, generator=torch.Generator().manual_seed(seed))
    values[:8, :16] = values[:8, :16].abs() + 0.5
    return values * torch.linspace(0.5, 2, OUT)[:, None]


def qparams(
    dense: torch.Tensor, groups: torch.Tensor, *, bits: int, is_symmetric: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scales and zero points [out, groups], where `groups` [in] names the columns'."""
    top = 2**bits - 1
    scales, zeros = [], []
    for group in range(int(groups.max()) + 1):
        part = dense[:, groups == group]
        low, high = part.amin(1).clamp(max=0), part.amax(1).clamp(min=0)
        if is_symmetric:
            high = torch.maximum(-low, high)
            low = -high
        step = ((high - low) / top).half().float()
        middle = torch.full_like(step, (top + 1) // 2)
        scales.append(step)
        zeros.append(middle if is_symmetric else torch.round(-low / step))
    return torch.stack(scales, 1), torch.stack(zeros, 1)


def gptq(config: Config) -> Tensors:
    from gptqmodel.nn_modules.qlinear.torch import TorchLinear  # noqa: PLC0415
    from gptqmodel.quantization.config import QuantizeConfig  # noqa: PLC0415
    from gptqmodel.utils.model import (  # noqa: PLC0415
        convert_gptq_v2_to_v1_format_module,
    )

    linear = torch.nn.Linear(IN, OUT, bias=False)
    linear.weight.data = weight()
    size = IN if config["group_size"] == -1 else config["group_size"]
    groups = (torch.arange(IN) // size).int()
    if config["desc_act"]:
        groups = groups[torch.randperm(IN, generator=torch.Generator().manual_seed(1))]
    scales, zeros = qparams(
        weight(), groups, bits=config["bits"], is_symmetric=config["sym"]
    )
    module = TorchLinear(
        bits=config["bits"],
        group_size=config["group_size"],
        sym=config["sym"],
        desc_act=config["desc_act"],
        in_features=IN,
        out_features=OUT,
    )
    module.pack_original(linear, scales, zeros, groups)
    module.eval()
    dense = module.dequantize_weight().T.contiguous().clone()
    if config["checkpoint_format"] == "gptq":
        convert_gptq_v2_to_v1_format_module(module, QuantizeConfig(bits=config["bits"]))
    names = ("qweight", "qzeros", "scales", "g_idx")
    return {f"{MODULE}.{name}": getattr(module, name) for name in names} | {
        DENSE: dense
    }


def awq(config: Config) -> Tensors:
    from awq.modules.linear.gemm import WQLinear_GEMM  # noqa: PLC0415
    from awq.utils.packing_utils import dequantize_gemm  # noqa: PLC0415

    size = config["group_size"]
    linear = torch.nn.Linear(IN, OUT, bias=False)
    linear.weight.data = weight()
    groups = torch.arange(IN) // size
    scales, zeros = qparams(weight(), groups, bits=4, is_symmetric=False)
    module = WQLinear_GEMM.from_linear(
        linear, 4, size, scales=scales.T.contiguous(), zeros=zeros.T.contiguous()
    )
    dense = dequantize_gemm(module.qweight, module.qzeros, module.scales, 4, size)
    names = ("qweight", "qzeros", "scales")
    return {f"{MODULE}.{name}": getattr(module, name) for name in names} | {
        DENSE: dense.T.contiguous()
    }


def compressed(config: Config) -> Tensors:
    from compressed_tensors.compressors import BaseCompressor  # noqa: PLC0415
    from compressed_tensors.quantization import (  # noqa: PLC0415
        QuantizationArgs,
        QuantizationScheme,
    )
    from compressed_tensors.quantization.utils import (  # noqa: PLC0415
        calculate_qparams,
    )

    group = config["config_groups"]["group_0"]
    args = QuantizationArgs(**group["weights"])
    scheme = QuantizationScheme(targets=group["targets"], weights=args)
    dense = weight().bfloat16()
    parts = dense.reshape(OUT, 1, 1, IN)  # a scale for each [i, k] of [i, j, k, l]
    if args.strategy == "tensor":
        parts = dense.reshape(1, OUT, 1, IN)
    elif args.strategy == "group":
        parts = dense.reshape(OUT, 1, -1, args.group_size)
    elif args.strategy == "block":
        rows, columns = args.block_structure
        parts = dense.reshape(OUT // rows, rows, IN // columns, columns)
    scale, zero = calculate_qparams(parts.amin((1, 3)), parts.amax((1, 3)), args)
    if args.strategy == "tensor":
        scale, zero = scale.reshape(1), zero.reshape(1)
    state = {
        "weight": dense,
        "weight_scale": scale,
        "weight_zero_point": zero.to(args.zp_dtype),
    }
    compressor = BaseCompressor.get_value_from_registry(config["format"])
    stored = compressor.compress(state, scheme)
    found = compressor.decompress(stored, scheme)["weight"]
    return {f"{MODULE}.{name}": part for name, part in stored.items()} | {DENSE: found}


def fp8(config: Config) -> Tensors:
    from transformers.integrations.finegrained_fp8 import (  # noqa: PLC0415
        Fp8Dequantize,
    )

    rows, columns = config["weight_block_size"]
    blocks = weight().reshape(OUT // rows, rows, IN // columns, columns)
    scale = blocks.abs().amax((1, 3)) / 448
    if config.get("scale_fmt") == "ue8m0":
        scale = torch.exp2(torch.ceil(torch.log2(scale))).to(torch.float8_e8m0fnu)
    divisor = scale.float()[:, None, :, None]
    values = (blocks / divisor).reshape(OUT, IN).to(torch.float8_e4m3fn)
    dense = Fp8Dequantize(None)._dequantize_one(values, scale, torch.bfloat16)
    return {
        f"{MODULE}.weight": values,
        f"{MODULE}.weight_scale_inv": scale,
        DENSE: dense,
    }


def mxfp4(config: Config) -> Tensors:
    from transformers.integrations.mxfp4 import (  # noqa: PLC0415
        convert_moe_packed_tensors,
    )

    random = torch.Generator().manual_seed(0)
    experts, groups = 2, 3
    shape = (experts, OUT, groups)
    blocks = torch.randint(0, 256, (*shape, 16), generator=random, dtype=torch.uint8)
    scales = torch.randint(110, 135, shape, generator=random, dtype=torch.uint8)
    dense = convert_moe_packed_tensors(blocks, scales, dtype=torch.bfloat16)
    return {f"{EXPERTS}_blocks": blocks, f"{EXPERTS}_scales": scales, DENSE: dense}


MAKERS: dict[str, Callable[[Config], Tensors]] = {
    "gptq": gptq,
    "awq": awq,
    "compressed-tensors": compressed,
    "fp8": fp8,
    "mxfp4": mxfp4,
}


def main(names: Sequence[str]) -> None:
    """Makes the goldens called `names`, or all without names."""
    GOLDENS.mkdir(exist_ok=True)
    for name in names or CASES:
        config = CASES[name]
        made = MAKERS[config["quant_method"]](config)
        tensors: dict[str, Any] = {k: v.detach().contiguous() for k, v in made.items()}
        save_file(tensors, GOLDENS / f"{name}.safetensors")
        print(name, {k: (str(v.dtype), tuple(v.shape)) for k, v in tensors.items()})


if __name__ == "__main__":
    main(sys.argv[1:])
