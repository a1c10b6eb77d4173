"""The Messages API knows these fields, all of them Anthropic's own."""

from mell_jax.serving.chat.fields import Fields, Refusal

_NO_EDITS: tuple[object, ...] = (
    {},
    {"edits": []},
    {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
)

_TOOL = Fields(
    honoured=frozenset(("type", "name", "description", "input_schema", "strict")),
    harmless=frozenset(("cache_control", "eager_input_streaming")),
    refused={
        "allowed_callers": Refusal(neutral=(["direct"],)),
        "defer_loading": Refusal(neutral=(False,)),
        "input_examples": Refusal(neutral=([],), way_out="say it in the description"),
    },
)
_OUTPUT_CONFIG = Fields(honoured=frozenset(("effort", "format")))
_THINKING = Fields(
    honoured=frozenset(("type",)),
    harmless=frozenset(("budget_tokens",)),  # max_tokens bounds thought and answer
    refused={
        "display": Refusal(
            neutral=("summarized",),
            way_out="leave it out: thoughts are told as they are",
        )
    },
)
MESSAGES = Fields(
    honoured=frozenset(
        (
            *("model", "messages", "max_tokens", "system", "stop_sequences", "stream"),
            *("temperature", "top_p", "top_k", "tools", "tool_choice", "thinking"),
            "output_config",
        )
    ),
    harmless=frozenset(
        (
            "cache_control",  # every prompt is cached
            "diagnostics",
            "metadata",
            "service_tier",
        )
    ),
    refused={
        "container": Refusal(),
        "context_management": Refusal(
            neutral=_NO_EDITS, way_out="send the messages that the model should see"
        ),
        "inference_geo": Refusal(),
        "mcp_servers": Refusal(neutral=([],), way_out="call tools yourself"),
        "output_format": Refusal(way_out="use output_config.format"),
        "speed": Refusal(neutral=("standard",)),
        "user_profile_id": Refusal(),
        "workspace_id": Refusal(),
    },
    inside={"output_config": _OUTPUT_CONFIG, "thinking": _THINKING, "tools": _TOOL},
)
