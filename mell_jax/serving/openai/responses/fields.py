"""The Responses API knows OpenAI's own fields, and sampling that others add."""

from mell_jax.serving.chat.fields import Fields, Refusal

_SEND_ITEMS = "nothing is kept here: send all items of the conversation as input"

_TEXT = Fields(
    honoured=frozenset(("format",)),
    refused={"verbosity": Refusal(neutral=("medium",), way_out="say it as text")},
)
_NO_SUMMARY = Refusal(
    neutral=("auto",), way_out="leave it out: thoughts are told as they are"
)
_REASONING = Fields(
    honoured=frozenset(("effort",)),
    refused={
        "context": Refusal(neutral=("auto",), way_out="send the items to be seen"),
        "generate_summary": _NO_SUMMARY,
        "mode": Refusal(neutral=("standard",)),
        "summary": _NO_SUMMARY,
    },
)
_TOOL = Fields(
    honoured=frozenset(("type", "name", "description", "parameters", "strict")),
    refused={
        "allowed_callers": Refusal(neutral=(["direct"],)),
        "async": Refusal(neutral=(False,)),
        "defer_loading": Refusal(neutral=(False,)),
        "output_schema": Refusal(way_out="say it in the description"),
    },
)
RESPONSES = Fields(
    honoured=frozenset(
        (
            *("model", "input", "instructions", "max_output_tokens", "temperature"),
            *("top_p", "stream", "tools", "tool_choice", "parallel_tool_calls"),
            *("text", "reasoning", "include", "metadata", "user", "safety_identifier"),
            *("prompt_cache_key", "prompt_cache_retention"),
            # not OpenAI's: clients send them as `extra_body`
            *("chat_template_kwargs", "frequency_penalty", "ignore_eos", "logit_bias"),
            *("min_p", "min_tokens", "presence_penalty", "repetition_penalty"),
            *("seed", "stop", "top_k"),
        )
    ),
    harmless=frozenset(
        (
            "background_options",  # of a background that is refused
            "image",  # how images are compressed: there are none
            "max_tool_calls",  # of tools that the server runs: there are none
            "service_tier",
        )
    ),
    refused={
        "access_programs": Refusal(neutral=({},)),
        "background": Refusal(
            neutral=(False,), way_out="nothing is kept here: use stream"
        ),
        "context_management": Refusal(
            neutral=([],), way_out="send the items that the model should see"
        ),
        "conversation": Refusal(way_out=_SEND_ITEMS),
        "messages": Refusal(way_out="send them as input"),
        "max_completion_tokens": Refusal(way_out="use max_output_tokens"),
        "max_tokens": Refusal(way_out="use max_output_tokens"),
        "moderation": Refusal(),
        "n": Refusal(neutral=(1,), way_out="send the request several times"),
        "previous_response_id": Refusal(way_out=_SEND_ITEMS),
        "prompt": Refusal(way_out="send the template's text as instructions or input"),
        "prompt_cache_options": Refusal(neutral=({}, {"mode": "implicit"})),
        "reasoning_effort": Refusal(way_out="use reasoning.effort"),
        "response_format": Refusal(way_out="use text.format"),
        "store": Refusal(
            neutral=(False,), way_out="leave it out: nothing is kept here"
        ),
        "stream_options": Refusal(neutral=({}, {"include_obfuscation": False})),
        "top_logprobs": Refusal(neutral=(0,), way_out="use /v1/chat/completions"),
        "truncation": Refusal(
            neutral=("disabled",), way_out="send the items that the model should see"
        ),
    },
    inside={"reasoning": _REASONING, "text": _TEXT, "tools": _TOOL},
)
INCLUDABLE = frozenset(
    (
        "reasoning.encrypted_content",
        # of tools and inputs that are not here
        "code_interpreter_call.outputs",
        "computer_call_output.output.image_url",
        "file_search_call.results",
        "message.input_image.image_url",
        "web_search_call.action.sources",
        "web_search_call.results",
    )
)
"""What `include` may name; thoughts are there anyway."""
