"""Requests of any kind: good ones, with some fields changed, to good values or any.

Every field of a message, and of the messages in it, may be set; sizes are small, so
that many can be sent. What is good for a field is good for its namesakes elsewhere.
"""

import json
from collections.abc import Mapping
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from hypothesis import strategies as st
from smg_grpc_proto import vllm_engine_pb2 as pb

from mell_jax.serving.openai.wire import ChatRequest, CompletionRequest
from mell_jax.serving.proto import open_inference_pb2 as inference
from tests.serving.kserve.asking import ask

Strategy = st.SearchStrategy[Any]

WORDS = st.sampled_from(
    ["Once", "a", "<eos>", "<|im_end|>", "\x00", "漢\u202e", "../x"]
)
TEXTS = WORDS | st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
HUGE = st.sampled_from([-1, 0, 1, 2**31 - 1, -(2**31), 2**32 - 1, 2**63 - 1, -(2**63)])
FLOATS = st.floats(width=32) | st.sampled_from([0.0, 0.5, 1.0, 1e-45, 1e38])
IDS = st.integers(0, 1030)

GOOD_NUMBERS: Mapping[str, Strategy] = {
    "temperature": st.floats(0, 2, width=32),
    "top_p": st.floats(0.125, 1, width=32),
    "top_k": st.integers(0, 50),
    "min_p": st.floats(0, 1, width=32),
    "frequency_penalty": st.floats(-2, 2, width=32),
    "presence_penalty": st.floats(-2, 2, width=32),
    "repetition_penalty": st.floats(0.5, 2, width=32),
    "max_tokens": st.integers(1, 5),
    "min_tokens": st.integers(0, 2),
    "n": st.integers(1, 3),
    "logprobs": st.integers(0, 20),
    "prompt_logprobs": st.integers(0, 20),
    "seed": st.integers(-(2**31), 2**31 - 1),
}
GOOD_IN_MESSAGES: Mapping[str, Strategy] = {
    **GOOD_NUMBERS,
    "input_ids": IDS,
    "stop_token_ids": IDS,
    "key": IDS | st.sampled_from([*GOOD_NUMBERS, "stream"]),
    "name": st.sampled_from(["text_input", "sampling_parameters", "stream"])
    | st.sampled_from(["text_output", "finish_reason", "return_finish_reason"]),
    "datatype": st.sampled_from(["BYTES", "BOOL"]),
    "shape": st.just(1),
    "model_name": st.just("demo"),
    "model_version": st.just("1"),
}
_RANGES = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
    FieldDescriptor.CPPTYPE_ENUM: (-(2**31), 2**31 - 1),
}


def _any_value(field: FieldDescriptor) -> Strategy:
    """Whatever the field can hold."""
    if field.cpp_type in _RANGES:
        low, high = _RANGES[field.cpp_type]
        return st.integers(low, high) | st.integers(0, 20)
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return st.booleans()
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        if field.type != FieldDescriptor.TYPE_BYTES:
            return TEXTS
        raw = TEXTS.map(lambda text: len(text).to_bytes(4, "little") + text.encode())
        return PARAMETERS.map(str.encode) | TEXTS.map(str.encode) | raw | st.binary()
    return FLOATS


def _value(draw: st.DrawFn, field: FieldDescriptor) -> Any:
    """A good value or any."""
    good = GOOD_IN_MESSAGES.get(field.name)
    if good is not None and draw(st.integers(0, 2)):
        value = draw(good)
        is_text = field.cpp_type == FieldDescriptor.CPPTYPE_STRING
        if isinstance(value, str) == is_text:
            return value
    return draw(_any_value(field))


def _change(draw: st.DrawFn, message: Message, *, most: int) -> None:
    """Sets up to `most` fields of a message, in place."""
    fields = list(message.DESCRIPTOR.fields)
    for field in draw(st.lists(st.sampled_from(fields), max_size=most)):
        kind = field.message_type
        if kind is not None and kind.GetOptions().map_entry:
            _change_map(draw, getattr(message, field.name), kind=kind)
        elif field.is_repeated:
            values = getattr(message, field.name)
            for _ in range(draw(st.integers(0, 3))):
                if kind is None:
                    values.append(_value(draw, field))
                else:
                    _change(draw, values.add(), most=4)
        elif kind is not None:
            inner = getattr(message, field.name)
            inner.SetInParent()
            _change(draw, inner, most=4)
        else:
            setattr(message, field.name, _value(draw, field))


def _change_map(draw: st.DrawFn, values: Any, *, kind: Any) -> None:
    of_key, of_value = kind.fields_by_name["key"], kind.fields_by_name["value"]
    for _ in range(draw(st.integers(0, 3))):
        key = _value(draw, of_key)
        if of_value.message_type is None:
            values[key] = _value(draw, of_value)
        else:
            _change(draw, values[key], most=2)


@st.composite
def _changed(
    draw: st.DrawFn, good: Message, *, most: int, within: str = "", but: str = ""
) -> Any:
    """`good` with up to `most` fields set: its own, or those of the message `within`.

    A oneof may be left out by name.
    """
    message = type(good)()
    message.CopyFrom(good)
    target = getattr(message, within) if within else message
    _change(draw, target, most=most)
    if but:
        target.ClearField(target.WhichOneof(but) or "n")
    return message


JSON = st.recursive(
    st.none() | st.booleans() | HUGE | st.integers() | st.floats() | TEXTS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3)
    ),
    max_leaves=6,
)
GOOD_IN_JSON: Mapping[str, Strategy] = {
    **GOOD_NUMBERS,
    "stop": TEXTS | st.lists(TEXTS, max_size=3),
    "logit_bias": st.dictionaries(IDS.map(str), st.floats(-100, 100), max_size=3),
    "stop_token_ids": st.lists(IDS, max_size=3),
    "allowed_token_ids": st.lists(IDS, min_size=1, max_size=3),
    "ignore_eos": st.booleans(),
    "stream": st.booleans(),
    "echo": st.booleans(),
    "top_logprobs": st.integers(0, 20),
    "stream_options": st.just({"include_usage": True}),
    "model": st.just("demo"),
    "prompt": TEXTS
    | st.lists(IDS, max_size=4)
    | st.lists(TEXTS, max_size=3)
    | st.lists(st.lists(IDS, max_size=3), max_size=3),
    "messages": st.lists(
        st.fixed_dictionaries(
            {
                "role": st.sampled_from(["user", "system", "assistant", "tool", "x"]),
                "content": TEXTS
                | st.lists(st.fixed_dictionaries({"type": TEXTS, "text": TEXTS})),
            }
        ),
        max_size=3,
    ),
}


def _mostly(good: Strategy, *, rest: Strategy) -> Strategy:
    return st.integers(0, 5).flatmap(lambda i: good if i else rest)


def _objects(names: tuple[str, ...]) -> Strategy:
    """JSON objects of some of these fields, or of others."""
    some = [
        st.tuples(st.just(name), _mostly(GOOD_IN_JSON.get(name, JSON), rest=JSON))
        for name in names
    ]
    return st.lists(st.one_of(some) | st.tuples(TEXTS, JSON), max_size=5).map(dict)


PARAMETERS = _objects(
    (*GOOD_NUMBERS, "stop", "logit_bias", "stop_token_ids", "ignore_eos")
).map(lambda fields: json.dumps({"max_tokens": 3, **fields}))


def _bodies(good: Mapping[str, object], *, kind: Any) -> st.SearchStrategy[bytes]:
    wild = _objects(kind.__struct_fields__)
    return wild.map(lambda fields: json.dumps({**good, **fields}).encode())


COMPLETIONS = _bodies({"prompt": "Once", "max_tokens": 3}, kind=CompletionRequest)
CHATS = _bodies(
    {"messages": [{"role": "user", "content": "Once"}], "max_tokens": 3},
    kind=ChatRequest,
)
_GENERATE = pb.GenerateRequest(
    text="Once", sampling_params=pb.SamplingParams(max_tokens=3), stream=True
)
GENERATES = _changed(_GENERATE, most=3) | _changed(
    _GENERATE, most=4, within="sampling_params", but="constraint"
)
INFERS: st.SearchStrategy[inference.ModelInferRequest] = _changed(
    ask("Once", sampling={"max_tokens": 3}), most=3
) | st.builds(ask, TEXTS, sampling=PARAMETERS)
CONVERSATIONS = st.lists(INFERS, max_size=6)
METADATA = st.lists(
    st.tuples(
        st.sampled_from(
            ["x-mell-model", "x-mell-tenant", "x-request-id", "traceparent"]
        ),
        st.sampled_from(["demo", "other", "a b", "00-0-0-0", "~" * 300, ""])
        | st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=8),
    ),
    max_size=2,
)
"""Of gRPC, or headers of HTTP."""
