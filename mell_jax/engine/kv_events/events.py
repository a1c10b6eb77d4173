"""Events of a prefix cache, as vLLM's subscribers read them.

The names of types and fields are theirs (`vllm.distributed.kv_events`): a batch is a
msgpack map, and `type` names the type of an event. A block is a page of one group of
layers.
"""

import msgspec

MEDIUM = "GPU"
"""Where a block is; subscribers know it from storage that is slower."""


class BlockStored(msgspec.Struct, omit_defaults=True, tag=True, kw_only=True):
    """A block has become findable."""

    block_hashes: list[int]
    parent_block_hash: int | None
    token_ids: list[int]
    block_size: int
    lora_id: int | None
    medium: str | None
    lora_name: str | None
    group_idx: int | None = None


class BlockRemoved(msgspec.Struct, omit_defaults=True, tag=True, kw_only=True):
    """Blocks are findable no more."""

    block_hashes: list[int]
    medium: str | None


class AllBlocksCleared(msgspec.Struct, omit_defaults=True, tag=True, kw_only=True):
    """Nothing of this rank is findable any more."""


Event = BlockStored | BlockRemoved | AllBlocksCleared


class KVEventBatch(msgspec.Struct, omit_defaults=True, kw_only=True):
    """These events of one rank belong to one step."""

    ts: float  # seconds since 1970
    events: list[Event]
    data_parallel_rank: int | None = None  # the device group
