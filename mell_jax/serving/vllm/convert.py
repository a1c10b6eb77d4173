"""Messages of the contract become our own values and back; pure functions.

Proto3 scalars without presence read as 0 when unset: 0 means the model's default for
top_p, top_k, min_p and repetition_penalty, and 1 for n. Whoever wants no such limit
although the model has one says so by a value that changes nothing: 1 for top_p and
repetition_penalty, the size of the vocabulary for top_k, 1e-9 for min_p.
"""

import json
from collections.abc import Sequence

from smg_grpc_proto.generated import vllm_engine_pb2 as pb

from mell_jax.engine.frames import EngineInfo, EngineLoad
from mell_jax.engine.params import NEUTRAL, InvalidRequestError, SamplingParams
from mell_jax.frontend import Delta, TokenLogprobs
from mell_jax.grammar import Grammar, GrammarError
from mell_jax.serving.constraint import make_grammar
from mell_jax.serving.problem import UnsupportedError

_CONSTRAINTS = {"json_schema": "json"}  # the others have vLLM's words


def prompt_of(request: pb.GenerateRequest) -> str | Sequence[int]:
    """Returns text, or token ids.

    Raises:
      InvalidRequestError: the request has neither.
    """
    match request.WhichOneof("input"):
        case "text":
            return request.text
        case "tokenized":
            return list(request.tokenized.input_ids)
        case _:
            raise InvalidRequestError(
                "input", "must be text or tokenized, and neither is set"
            )


def params_of(proto: pb.SamplingParams, *, defaults: SamplingParams) -> SamplingParams:
    """Returns checked sampling parameters, those of the model where none are given.

    Raises:
      InvalidRequestError: a value is out of range.
    """
    return SamplingParams(
        temperature=(
            proto.temperature if proto.HasField("temperature") else defaults.temperature
        ),
        top_p=proto.top_p or defaults.top_p,
        top_k=proto.top_k or defaults.top_k,
        min_p=proto.min_p or defaults.min_p,
        presence_penalty=proto.presence_penalty,
        frequency_penalty=proto.frequency_penalty,
        repetition_penalty=proto.repetition_penalty or defaults.repetition_penalty,
        logit_bias=dict(proto.logit_bias),
        seed=proto.seed if proto.HasField("seed") else None,
        logprobs=proto.logprobs if proto.HasField("logprobs") else None,
        logprobs_mode=defaults.logprobs_mode,
        prompt_logprobs=(
            proto.prompt_logprobs if proto.HasField("prompt_logprobs") else None
        ),
        n=proto.n or 1,
        max_tokens=proto.max_tokens if proto.HasField("max_tokens") else None,
        min_tokens=proto.min_tokens,
        stop=tuple(proto.stop),
        stop_token_ids=tuple(proto.stop_token_ids),
        include_stop_str_in_output=proto.include_stop_str_in_output,
        ignore_eos=proto.ignore_eos,
        skip_special_tokens=proto.skip_special_tokens,
        grammar=_grammar_of(proto),
    )


def _grammar_of(proto: pb.SamplingParams) -> Grammar | None:
    """Returns what the answer is bound to, if anything."""
    name = proto.WhichOneof("constraint")
    if name is None:
        return None
    value = getattr(proto, name)
    if name == "choice":
        value = list(value.choices)
    try:
        return make_grammar(_CONSTRAINTS.get(name, name), value)
    except GrammarError as error:
        raise InvalidRequestError(f"sampling_params.{name}", str(error)) from error


def check_supported(request: pb.GenerateRequest) -> None:
    """Refuses what this server would otherwise silently ignore.

    Raises:
      UnsupportedError: names the field and the way out.
      InvalidRequestError: the data parallel rank does not exist.
    """
    params = request.sampling_params
    if params.HasField("truncate_prompt_tokens"):
        raise UnsupportedError(
            "sampling_params.truncate_prompt_tokens is not supported; send the prompt "
            "already shortened"
        )
    for field in ("mm_inputs", "media_refs"):
        if request.HasField(field):
            raise UnsupportedError(f"{field} is not supported: this model reads text")
    if request.extra_mm_inputs:
        raise UnsupportedError("extra_mm_inputs is not supported: text only")
    for field in ("kv_transfer_params", "kv_transfer_params_json"):
        if request.HasField(field):
            raise UnsupportedError(
                f"{field} is not supported: prefill and decode run in one place here"
            )
    if request.data_parallel_rank != 0:
        raise InvalidRequestError(
            "data_parallel_rank",
            f"must be 0, the only rank here, got {request.data_parallel_rank}",
        )


def chunk_of(delta: Delta) -> pb.GenerateResponse:
    """Returns a sample's new tokens; `completion_tokens` counts all of them so far."""
    response = pb.GenerateResponse()
    chunk = response.chunk  # setting fields takes half as long as naming them above
    chunk.token_ids.extend(delta.token_ids)
    chunk.prompt_tokens = delta.prompt_tokens
    chunk.completion_tokens = delta.completion_tokens
    chunk.cached_tokens = delta.cached_tokens
    chunk.index = delta.index
    logprobs = _output_logprobs(delta.logprobs)
    if logprobs is not None:
        chunk.output_logprobs.CopyFrom(logprobs)
    of_prompt = _input_logprobs(delta.prompt_logprobs, token_ids=delta.prompt_token_ids)
    if of_prompt is not None:
        chunk.input_logprobs.CopyFrom(of_prompt)
    return response


def complete_of(
    last: Delta,
    *,
    token_ids: Sequence[int],
    logprobs: Sequence[TokenLogprobs] | None = None,
    prompt_logprobs: Sequence[TokenLogprobs | None] | None = None,
) -> pb.GenerateResponse:
    """Returns the last message of a sample.

    Args:
      last: the sample's last delta.
      token_ids: all of the sample's tokens.
      logprobs: of all tokens; None when chunks told them.
      prompt_logprobs: of the prompt; None when a chunk told them.
    """
    assert last.finish is not None, last
    complete = pb.GenerateComplete(
        output_ids=token_ids,
        finish_reason=last.finish.reason,
        prompt_tokens=last.prompt_tokens,
        completion_tokens=last.completion_tokens,
        cached_tokens=last.cached_tokens,
        output_logprobs=_output_logprobs(logprobs),
        input_logprobs=_input_logprobs(
            prompt_logprobs, token_ids=last.prompt_token_ids
        ),
        index=last.index,
    )
    if last.finish.stop_string is not None:
        complete.matched_stop_str = last.finish.stop_string
    elif last.finish.stop_token is not None:
        complete.matched_token_id = last.finish.stop_token
    return pb.GenerateResponse(complete=complete)


def load_of(
    load: EngineLoad, *, info: EngineInfo, tokens_per_s: float
) -> pb.SchedulerLoad:
    """Tells how busy the engine is, in the contract's words."""
    queries = load.prefix_query_tokens
    return pb.SchedulerLoad(
        dp_rank=0,
        num_running_reqs=load.running,
        num_waiting_reqs=load.waiting,
        num_total_reqs=load.running + load.waiting,
        num_used_tokens=load.used_pages * info.page_tokens,
        max_total_num_tokens=info.num_pages * info.page_tokens,
        token_usage=load.used_pages / max(1, info.num_pages),
        gen_throughput=tokens_per_s,
        cache_hit_rate=load.prefix_hit_tokens / queries if queries else 0.0,
        utilization=load.running / max(1, info.max_rows),
        max_running_requests=info.max_rows,
        num_waiting_uncached_tokens=load.waiting_tokens,
    )


def model_info_of(
    info: EngineInfo, *, served_name: str, model_path: str, tokenizer_path: str
) -> pb.GetModelInfoResponse:
    return pb.GetModelInfoResponse(
        model_path=model_path,
        is_generation=True,
        max_context_length=info.max_model_len,
        vocab_size=info.vocab_size,
        served_model_name=served_name,
        tokenizer_path=tokenizer_path,
        model_type=info.model_type,
        architectures=[info.architecture],
        eos_token_ids=info.eos_token_ids,
        bos_token_id=info.bos_token_id or 0,
        max_req_input_len=info.max_model_len - 1,
        default_sampling_params_json=_defaults_json(info.default_params),
    )


def _defaults_json(params: SamplingParams) -> str:
    """Returns what gateways fill in for their clients; nothing that changes nothing."""
    changed = {
        name: getattr(params, name)
        for name in ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
        if getattr(params, name) != getattr(NEUTRAL, name)
    }
    return json.dumps(changed) if changed else ""


def _output_logprobs(
    logprobs: Sequence[TokenLogprobs] | None,
) -> pb.OutputLogProbs | None:
    if logprobs is None:
        return None
    return pb.OutputLogProbs(
        token_logprobs=[row.logprob for row in logprobs],
        token_ids=[row.token for row in logprobs],
        top_logprobs=[_top(row) for row in logprobs],
    )


def _input_logprobs(
    logprobs: Sequence[TokenLogprobs | None] | None, *, token_ids: Sequence[int]
) -> pb.InputLogProbs | None:
    if logprobs is None:
        return None
    return pb.InputLogProbs(
        token_logprobs=[
            pb.InputTokenLogProb(value=None if row is None else row.logprob)
            for row in logprobs
        ],
        token_ids=token_ids,
        top_logprobs=[_top(row) for row in logprobs],
    )


def _top(row: TokenLogprobs | None) -> pb.TopLogProbs:
    if row is None:
        return pb.TopLogProbs()
    return pb.TopLogProbs(
        values=[value for _, value in row.top],
        token_ids=[token for token, _ in row.top],
    )
