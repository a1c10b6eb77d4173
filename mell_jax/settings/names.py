"""Names that operators know from elsewhere, and the ones that they mistype."""

import difflib
from collections.abc import Collection, Mapping

OTHER_SERVERS: Mapping[str, str] = {  # of vLLM and SGLang; N stands for a number
    "api_key": "tokens_file",
    "api_server_count": "frontends",
    "chunked_prefill_size": "token_budget",
    "context_length": "max_model_len",
    "cuda_graph_bs": "decode_rows",
    "data_parallel_size": "mesh=Nx1",
    "disable_radix_cache": "prefix_cache=false",
    "dp_size": "mesh=Nx1",
    "enable_metrics": "http_port",
    "enable_prefix_caching": "prefix_cache",
    "gpu_memory_utilization": "kv_memory_fraction",
    "log_level": "verbose",
    "max_num_batched_tokens": "token_budget",
    "max_num_seqs": "max_rows",
    "max_prefill_tokens": "token_budget",
    "max_queued_requests": "max_queued",
    "max_running_requests": "max_rows",
    "max_total_tokens": "kv_pages",
    "mem_fraction_static": "kv_memory_fraction",
    "model_path": "model",
    "no_enable_prefix_caching": "prefix_cache=false",
    "num_gpu_blocks_override": "kv_pages",
    "otlp_traces_endpoint": "otlp_endpoint",
    "random_seed": "seed",
    "schedule_policy": "policy",
    "ssl_ca_certs": "tls_client_ca",
    "ssl_certfile": "tls_cert",
    "ssl_keyfile": "tls_key",
    "tensor_parallel_size": "mesh=1xN",
    "tp_size": "mesh=1xN",
    "watchdog_timeout": "stall_s",
}


def nearest(name: str, *, known: Collection[str]) -> str:
    """Returns what was meant by a name that is not known; empty when nothing is near.

    It is one of `known`, perhaps followed by "=" and a value, as in "mesh=1xN".
    """
    plain = name.replace("-", "_")
    if plain in known:
        return plain
    meant = OTHER_SERVERS.get(plain, "")
    if meant and meant.partition("=")[0] in known:
        return meant
    return next(iter(difflib.get_close_matches(plain, list(known), n=1)), "")
