"""Trainers' requests have these fields, as vLLM and SGLang name them."""

from mell_jax.serving.chat.fields import Fields, Refusal

_TRANSFER = Refusal(
    way_out="no tensors come over NCCL, IPC or HTTP: write a checkpoint and name its "
    "path"
)
_WHOLE = Refusal(way_out="write a whole checkpoint and name its path")

_UPDATE_INFO = Fields(
    honoured=frozenset(("path", "model_path", "version", "weight_version")),
    refused=dict.fromkeys(
        (
            *("names", "dtype_names", "shapes", "packed", "ipc_handles"),
            *("ipc_handles_pickled", "tensors"),
        ),
        _TRANSFER,
    ),
)
UPDATE = Fields(
    honoured=frozenset(
        (
            *("path", "model_path", "update_info", "version", "weight_version"),
            *("open_requests", "abort_all_requests", "model", "streamed"),
        )
    ),
    harmless=frozenset(
        (
            "flush_cache",  # pages of other weights are never found
            "is_async",
            "keep_pause",  # who paused resumes
            "recapture_cuda_graph",
            "token_step",
            "torch_empty_cache",
        )
    ),
    refused={
        "files": _WHOLE,
        "load_format": Refusal(
            neutral=("auto", "safetensors"),
            way_out="the format is found from the files",
        ),
        "manifest": _WHOLE,
    },
    inside={"update_info": _UPDATE_INFO},
)
NAME = Fields(
    honoured=frozenset(("new_version", "weight_version", "model")),
    refused={
        "abort_all_requests": Refusal(
            neutral=(False,), way_out="post to /abort_requests before"
        )
    },
)
ABORT = Fields(
    honoured=frozenset(("request_ids", "rid", "abort_all")),
    harmless=frozenset(("finished_reason", "abort_message")),
)
PAUSE = Fields(
    honoured=frozenset(("mode", "wait_for_inflight_requests")),
    harmless=frozenset(("clear_cache",)),  # pages of other weights are never found
)
SLEEP = Fields(honoured=frozenset(("level", "mode", "keeps")))
TAGS = Fields(honoured=frozenset(("tags",)))
RESET = Fields(
    honoured=frozenset(("model",)),
    harmless=frozenset(("reset_external", "timeout")),  # no pages lie outside
    refused={
        "reset_running_requests": Refusal(
            neutral=(False, 0),
            way_out="running requests keep their pages: post to /abort_requests "
            "before, or update with open_requests=restart",
        )
    },
)
WORLD = Fields(honoured=frozenset(("include_dp",)))
START = Fields(
    honoured=frozenset(), harmless=frozenset(("update_info", "is_checkpoint_format"))
)
EMPTY = Fields(honoured=frozenset(), harmless=frozenset(("torch_empty_cache",)))
