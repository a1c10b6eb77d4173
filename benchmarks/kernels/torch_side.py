"""Times torch's ways to attend in a process of its own; `beside_torch` starts it.

Takes one JSON object as its argument and answers with one line:

    {"method": "flex", "rows": 64, "context": 4096, "kv_heads": 8, "group": 4,
     "head": 128, "repeats": 7}          -> {"seconds": 1e-4} or {"missing": "..."}

Needs torch, one method transformers too, and nothing of ours, so it runs under any
Python that has them. transformers' other paged path calls the package flash-attn, which
is not among the pinned ones; it is left out.
"""

import importlib
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

CHAIN = 8  # calls between two events
FLEX_PAGE = 128  # FlexAttention's own block, its fastest
TRANSFORMERS_PAGE = 256  # the default there
Call = Callable[[int], Any]


@dataclass(frozen=True, kw_only=True)
class KernelProblem:
    """A problem is one decode batch: a query token per row, all of `context` seen.

    `q` is [B, N, 1, H]; each of `pairs` are keys and values [B, K, C, H], to be taken
    in turns so that no cache holds them.
    """

    q: Any
    pairs: list[tuple[Any, Any]]

    @property
    def groups(self) -> int:
        return int(self.q.shape[1] // self.pairs[0][0].shape[1])


def make_problem(sizes: dict[str, Any], *, device: str, dtype: Any) -> KernelProblem:
    """Returns random numbers of its shapes."""
    torch = importlib.import_module("torch")
    rows, kv_heads, head = sizes["rows"], sizes["kv_heads"], sizes["head"]

    def make(*shape: int) -> Any:
        return torch.randn(*shape, device=device, dtype=dtype)

    shape = (rows, kv_heads, sizes["context"], head)
    return KernelProblem(
        q=make(rows, kv_heads * sizes["group"], 1, head),
        pairs=[(make(*shape), make(*shape)) for _ in range(2)],
    )


def sdpa(problem: KernelProblem, *, is_compiled: bool) -> Call:
    """Returns torch's `scaled_dot_product_attention`, keys and values contiguous."""
    del is_compiled
    functional = importlib.import_module("torch.nn.functional")

    def call(i: int) -> Any:
        k, v = problem.pairs[i % 2]
        return functional.scaled_dot_product_attention(problem.q, k, v, enable_gqa=True)

    return call


def flex(problem: KernelProblem, *, is_compiled: bool) -> Call:
    """Returns FlexAttention over contiguous keys and values, without a mask: its best
    case.
    """
    attend = _flex_attention(is_compiled=is_compiled)

    def call(i: int) -> Any:
        k, v = problem.pairs[i % 2]
        return attend(problem.q, k, v, enable_gqa=True)

    return call


def flex_paged(problem: KernelProblem, *, is_compiled: bool) -> Call:
    """Returns FlexAttention over shuffled pages of its own block size.

    Its block mask is the page table. Every page is whole, so that compiled kernels
    never call `is_own`.
    """
    torch = importlib.import_module("torch")
    module = importlib.import_module("torch.nn.attention.flex_attention")
    attend = _flex_attention(is_compiled=is_compiled)
    rows, kv_heads, context, head = problem.pairs[0][0].shape
    if context % FLEX_PAGE:
        raise ValueError(f"contexts must be multiples of {FLEX_PAGE}, got {context}")
    per_row = context // FLEX_PAGE
    count = rows * per_row
    device = problem.q.device
    order = torch.randperm(count, device=device)

    def paged(x: Any) -> Any:  # [1, K, P * S, H]
        pages = x.reshape(rows, kv_heads, per_row, FLEX_PAGE, head)
        pages = pages.permute(1, 0, 2, 3, 4).reshape(kv_heads, count, FLEX_PAGE, head)
        kept = torch.empty_like(pages)
        kept[:, order] = pages
        return kept.reshape(1, kv_heads, count * FLEX_PAGE, head)

    pools = [(paged(k), paged(v)) for k, v in problem.pairs]
    table = torch.zeros(rows, 1, 1, count, dtype=torch.int32, device=device)
    table[..., :per_row] = order.reshape(rows, 1, 1, per_row)
    owner = torch.empty_like(order)
    owner[order] = torch.arange(count, device=device) // per_row

    def is_own(b: Any, _h: Any, _q: Any, slot: Any) -> Any:
        return owner[slot // FLEX_PAGE] == b

    none = torch.zeros(rows, 1, 1, dtype=torch.int32, device=device)
    mask = module.BlockMask.from_kv_blocks(
        none,
        torch.zeros_like(table),
        none + per_row,
        table,
        BLOCK_SIZE=FLEX_PAGE,
        mask_mod=is_own,
        seq_lengths=(1, count * FLEX_PAGE),
    )

    def call(i: int) -> Any:
        k, v = pools[i % 2]
        return attend(problem.q, k, v, block_mask=mask, enable_gqa=True)

    return call


def _flex_attention(*, is_compiled: bool) -> Callable[..., Any]:
    torch = importlib.import_module("torch")
    module = importlib.import_module("torch.nn.attention.flex_attention")
    attend: Callable[..., Any] = module.flex_attention
    return torch.compile(attend, dynamic=False) if is_compiled else attend


def transformers_paged(problem: KernelProblem, *, is_compiled: bool) -> Call:
    """Returns transformers' SDPA attention over the paged cache of its continuous
    batching.

    It gathers the pages of all rows into one sequence and masks the rows apart.
    """
    del is_compiled
    torch = importlib.import_module("torch")
    module = importlib.import_module("transformers.integrations.sdpa_attention")
    rows, kv_heads, context, head = problem.pairs[0][0].shape
    cache, read, write = _transformers_cache(problem)
    device, dtype = problem.q.device, problem.q.dtype
    read = torch.tensor(read, device=device)
    write = torch.tensor(write, device=device)
    tokens = [
        tuple(x.transpose(1, 2).reshape(-1, kv_heads, head) for x in pair)
        for pair in problem.pairs
    ]
    for layer, (k, v) in enumerate(tokens):
        allocator = cache.layer_to_allocator[layer]
        allocator.update(k, v, layer, read[:0], read)
    owner = torch.arange(rows, device=device)
    seen = owner[:, None] == owner.repeat_interleave(context)[None]
    mask = torch.zeros(1, 1, *seen.shape, device=device, dtype=dtype)
    mask.masked_fill_(~seen, torch.finfo(dtype).min)
    lens = torch.arange(rows + 1, device=device) * context
    q = problem.q.permute(2, 1, 0, 3)  # [1, N, B, H]
    last = [  # [1, K, B, H]
        tuple(x[:, :, -1].transpose(0, 1)[None] for x in pair) for pair in problem.pairs
    ]
    layers = [
        SimpleNamespace(
            layer_idx=i, num_key_value_groups=problem.groups, is_causal=True
        )
        for i in range(2)
    ]

    def call(i: int) -> Any:
        k, v = last[i % 2]
        out, _ = module.sdpa_attention_forward(
            layers[i % 2],
            q,
            k,
            v,
            mask if rows > 1 else None,
            scaling=head**-0.5,
            is_causal=False,
            cache=cache,
            cu_seq_lens_k={"full_attention": lens},
            max_length_k={"full_attention": context},
            read_index=[read],
            write_index=[write],
        )
        return out.permute(1, 2, 0, 3)  # [B, N, 1, H] from [1, B, N, H]

    return call


def _transformers_cache(problem: KernelProblem) -> tuple[Any, list[int], list[int]]:
    """A cache of two layers for all rows; the slots of all and of the last tokens."""
    transformers = importlib.import_module("transformers")
    config_module = importlib.import_module("transformers.generation")
    module = importlib.import_module(
        "transformers.generation.continuous_batching.cache"
    )
    rows, kv_heads, context, head = problem.pairs[0][0].shape
    heads = kv_heads * problem.groups
    config = transformers.LlamaConfig(
        num_hidden_layers=2,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head,
        hidden_size=heads * head,
    )
    settings = config_module.ContinuousBatchingConfig(
        page_size=TRANSFORMERS_PAGE,
        num_blocks=rows * -(-context // TRANSFORMERS_PAGE),
        max_batch_tokens=rows,
        max_requests_per_batch=rows,
        max_blocks_per_request=0,
        max_memory_percent=0.9,
        allow_block_sharing=False,
    )
    alone = SimpleNamespace(tp_size=1)
    cache = module.PagedAttentionCache(
        config, settings, problem.q.device, alone, dtype=problem.q.dtype
    )
    read: list[list[int]] = [[]]
    write: list[list[int]] = [[]]
    for row in range(rows):
        state = SimpleNamespace(request_id=str(row), current_len=lambda: 0)
        if not cache.can_store_request_tokens(state, context):
            raise ValueError(f"the cache has no room for row {row}")
        cache.extend_read_and_write_indices(str(row), context - 1, 1, read, write)
    return cache, read[0], write[0]


METHODS = {
    "sdpa": sdpa,
    "flex": flex,
    "flex_paged": flex_paged,
    "transformers": transformers_paged,
}


def seconds_per_call(call: Call, *, repeats: int) -> float:
    """Returns median over CUDA events, after a warm-up that compiles."""
    torch = importlib.import_module("torch")
    for i in range(10):
        call(i)
    laps = []
    for _ in range(repeats):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for i in range(CHAIN):
            call(i)
        end.record()
        torch.cuda.synchronize()
        laps.append(begin.elapsed_time(end) / 1e3 / CHAIN)
    return float(sorted(laps)[len(laps) // 2])


def main() -> None:
    sizes = json.loads(sys.argv[1])
    try:
        torch = importlib.import_module("torch")
        if sizes["method"] == "transformers":
            importlib.import_module("transformers")
    except ImportError as error:
        print(json.dumps({"missing": str(error)}))
        return
    if not torch.cuda.is_available():
        missing = f"torch {torch.__version__} sees no CUDA device"
        print(json.dumps({"missing": missing}))
        return
    with torch.inference_mode():
        problem = make_problem(sizes, device="cuda", dtype=torch.bfloat16)
        call = METHODS[sizes["method"]](problem, is_compiled=True)
        seconds = seconds_per_call(call, repeats=sizes["repeats"])
    print(json.dumps({"seconds": seconds}))


if __name__ == "__main__":
    main()
