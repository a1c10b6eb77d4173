"""The fields of completions and chats have tables here, with OpenAI's, vLLM's names."""

from mell_jax.serving.chat.fields import Fields, Refusal
from mell_jax.serving.constraint import FIELDS

_SAMPLING = frozenset(
    (
        *("model", "frequency_penalty", "logit_bias", "logprobs", "max_tokens", "n"),
        *("presence_penalty", "seed", "stop", "stream", "stream_options"),
        *("temperature", "top_p", "allowed_token_ids", "ignore_eos"),
        *("include_stop_str_in_output", "min_p", "min_tokens", "prompt_logprobs"),
        *("logprobs_mode", "repetition_penalty", "request_id", "return_token_ids"),
        *("skip_special_tokens", "stop_token_ids", "top_k", *FIELDS),
    )
)
_HARMLESS = frozenset(
    (
        "guided_decoding_backend",  # texts that a grammar allows are the same for all
        "metadata",
        "prediction",  # it is a hint that saves time
        "prompt_cache_key",
        "prompt_cache_retention",
        "return_mm_kwargs",  # of routes that render
        "safety_identifier",
        "service_tier",
        "session_id",
        "truncation_side",  # of a truncation that is refused
        "user",
    )
)
_SHORTEN = "send the prompt already shortened; /tokenize tells its ids"
_ONE_SHAPE = "write structured_outputs"
_BOTH = {
    "bad_words": Refusal(
        neutral=([],),
        way_out="give its tokens a logit_bias of -100; /tokenize has them",
    ),
    "cache_salt": Refusal(
        way_out="prompts are cached for each tenant apart: send x-mell-tenant"
    ),
    "ebnf": Refusal(way_out=f'{_ONE_SHAPE}: {{"grammar": ...}}'),
    "ec_transfer_params": Refusal(),
    "grammar": Refusal(way_out=f'{_ONE_SHAPE}: {{"grammar": ...}}'),
    "guided_whitespace_pattern": Refusal(
        way_out="leave it out; x-guidance in a schema says how JSON is written"
    ),
    "json_schema": Refusal(way_out=f'{_ONE_SHAPE}: {{"json": ...}}'),
    "kv_transfer_params": Refusal(
        way_out="leave it out: prefill and decode run in one place here"
    ),
    "length_penalty": Refusal(neutral=(1,), way_out="it is for beams, leave it out"),
    "logits_processors": Refusal(neutral=([],)),
    "logprob_token_ids": Refusal(
        neutral=([],), way_out="ask for top log probabilities"
    ),
    "priority": Refusal(neutral=(0,), way_out="tenants have weights: see tokens_file"),
    "regex": Refusal(way_out=f'{_ONE_SHAPE}: {{"regex": ...}}'),
    "repetition_detection": Refusal(way_out="use repetition_penalty"),
    "return_token_offsets": Refusal(neutral=(False,)),
    "return_tokens_as_token_ids": Refusal(
        neutral=(False,), way_out="use return_token_ids"
    ),
    "routed_experts_prompt_start": Refusal(neutral=(0,)),
    "spaces_between_special_tokens": Refusal(neutral=(True,)),
    "store": Refusal(neutral=(False,), way_out="leave it out: nothing is kept here"),
    "stream_interval": Refusal(neutral=(1,), way_out="events come as tokens are ready"),
    "thinking_token_budget": Refusal(neutral=(-1,), way_out="use max_tokens"),
    "truncate_prompt_tokens": Refusal(way_out=_SHORTEN),
    "use_beam_search": Refusal(neutral=(False,), way_out="use n or best_of"),
    "vllm_xargs": Refusal(neutral=({},)),
    "watermarking": Refusal(neutral=(False,)),
}
_TO_CHAT = "use /v1/chat/completions"
_NO_SIGHT = "models here read text"

COMPLETIONS = Fields(
    honoured=_SAMPLING | {"prompt", "best_of", "echo"},
    harmless=_HARMLESS,
    refused={
        **_BOTH,
        "add_generation_prompt": Refusal(way_out=_TO_CHAT, neutral=(True,)),
        "add_special_tokens": Refusal(
            neutral=(True,),
            way_out="send the ids that /tokenize returns with it",
        ),
        "chat_template": Refusal(way_out=_TO_CHAT),
        "chat_template_kwargs": Refusal(way_out=_TO_CHAT, neutral=({},)),
        "continue_final_message": Refusal(way_out=_TO_CHAT, neutral=(False,)),
        "documents": Refusal(way_out=_TO_CHAT, neutral=([],)),
        "max_completion_tokens": Refusal(way_out="use max_tokens"),
        "messages": Refusal(way_out=_TO_CHAT),
        "parallel_tool_calls": Refusal(way_out=_TO_CHAT, neutral=(True,)),
        "prompt_embeds": Refusal(way_out="send text or token ids"),
        "prompt_token_ids": Refusal(way_out="send the ids as prompt"),
        "reasoning_effort": Refusal(way_out=_TO_CHAT),
        "suffix": Refusal(neutral=("",), way_out="models here only go on"),
        "tool_choice": Refusal(way_out=_TO_CHAT, neutral=("none", "auto")),
        "tools": Refusal(way_out=_TO_CHAT, neutral=([],)),
        "top_logprobs": Refusal(way_out="use logprobs"),
    },
)
CHAT = Fields(
    honoured=_SAMPLING
    | {"messages", "max_completion_tokens", "prompt_token_ids", "top_logprobs"}
    | {"tools", "tool_choice", "parallel_tool_calls", "documents"}
    | {"chat_template_kwargs", "add_generation_prompt", "continue_final_message"},
    harmless=_HARMLESS,
    refused={
        **_BOTH,
        "add_special_tokens": Refusal(
            neutral=(False,), way_out="the chat template writes them"
        ),
        "audio": Refusal(way_out="leave it out: models here write text"),
        "best_of": Refusal(neutral=(1,), way_out="use n"),
        "chat_template": Refusal(
            way_out="the operator chooses it: mell-serve --chat_template=FILE"
        ),
        "echo": Refusal(neutral=(False,), way_out="use continue_final_message"),
        "function_call": Refusal(neutral=("none", "auto"), way_out="use tool_choice"),
        "functions": Refusal(neutral=([],), way_out="use tools"),
        "include_reasoning": Refusal(neutral=(True,)),
        "media_io_kwargs": Refusal(neutral=({},), way_out=_NO_SIGHT),
        "mm_processor_kwargs": Refusal(neutral=({},), way_out=_NO_SIGHT),
        "modalities": Refusal(
            neutral=([], ["text"]), way_out="leave it out: models here write text"
        ),
        "prompt": Refusal(way_out="use /v1/completions"),
        "reasoning_effort": Refusal(
            way_out='use chat_template_kwargs, as {"enable_thinking": false}'
        ),
        "return_prompt_text": Refusal(
            neutral=(False,), way_out="/tokenize tells what is read"
        ),
        "suffix": Refusal(neutral=("",), way_out="models here only go on"),
        "verbosity": Refusal(),
        "web_search_options": Refusal(),
    },
)
TOKENIZE = Fields(
    honoured=frozenset(
        ("model", "prompt", "messages", "add_special_tokens", "return_token_strs")
    )
    | {"tools", "tool_choice", "parallel_tool_calls", "documents"}
    | {"chat_template_kwargs", "add_generation_prompt", "continue_final_message"},
    refused={
        "chat_template": CHAT.refused["chat_template"],
        "media_io_kwargs": Refusal(neutral=({},), way_out=_NO_SIGHT),
        "mm_processor_kwargs": Refusal(neutral=({},), way_out=_NO_SIGHT),
    },
)
DETOKENIZE = Fields(honoured=frozenset(("model", "tokens")))
