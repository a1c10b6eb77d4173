import json

import pytest

from mell_jax.checkpoints import CheckpointError
from mell_jax.checkpoints.json_file import Fields
from mell_jax.checkpoints.rope_fields import (
    GEMMA3_LAYERS,
    OLMO3_LAYERS,
    LayerRope,
    context_of,
    read_layered_ropes,
    read_rope,
)
from mell_jax.checkpoints.rope_values import layered_rope_values, rope_values
from mell_jax.models.rope import RopeConfig
from mell_jax.models.rope_scaling import LinearRope, LongRope, YarnRope
from tests.models.published_ropes import PUBLISHED

YARN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
YARN_ROPE = YarnRope(factor=4.0, original_context=32768)
LINEAR = {"rope_type": "linear", "factor": 8.0}
LONGROPE = {
    "type": "longrope",
    "short_factor": [1.0, 1.5],
    "long_factor": [2, 4],
    "original_max_position_embeddings": 64,
}


def fields(**values):
    values = {"max_position_embeddings": 128, **values}
    return Fields(values, "model/config.json")


def read(*, head_dim=128, family=None, **values):
    return read_rope(fields(**values), head_dim=head_dim, **(family or {}))


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_published_spelling_is_read(name):
    case = PUBLISHED[name]
    found = Fields(case.values, "config.json")
    assert read_rope(found, head_dim=case.head_dim, **case.family) == case.rope
    assert context_of(found) == case.context


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("left", ["rope_scaling", "rope_parameters", "both"])
def test_what_is_written_is_read_back_in_either_spelling(name, left):
    case = PUBLISHED[name]
    written = rope_values(
        case.rope,
        head_dim=case.head_dim,
        context_tokens=case.context,
        default_share=case.family.get("default_share", 1.0),
    )
    values = {"max_position_embeddings": case.context, **written}
    dropped = {"rope_scaling": "rope_parameters", "rope_parameters": "rope_scaling"}
    values.pop(dropped.get(left), None)
    found = Fields(json.loads(json.dumps(values)), "config.json")
    assert read_rope(found, head_dim=case.head_dim, **case.family) == case.rope


def test_a_rope_of_all_types_is_written_with_every_option():
    yarn = YarnRope(
        factor=2.5,
        original_context=100,
        beta_fast=16.0,
        beta_slow=2.0,
        attention_factor=1.5,
        mscale=0.5,
        mscale_all_dim=0.25,
        is_truncated=False,
    )
    longrope = LongRope(
        short_factor=(1.0,),
        long_factor=(2.0,),
        original_context=64,
        factor=3.0,
        attention_factor=1.25,
        is_long=True,
    )
    for rope in (
        RopeConfig(theta=5e5, dims=4, scaling=yarn),
        RopeConfig(dims=2, scaling=longrope),
    ):
        written = rope_values(rope, head_dim=6, context_tokens=128)
        assert read(head_dim=6, **written) == rope


@pytest.mark.parametrize("head_dim", [6, 49, 64, 98, 100, 128, 256])
def test_every_part_of_a_head_is_written_so_that_it_is_read_back(head_dim):
    for dims in range(2, head_dim, 2):
        rope = RopeConfig(dims=dims)
        written = rope_values(rope, head_dim=head_dim, context_tokens=128)
        assert read(head_dim=head_dim, **written) == rope


def test_a_whole_head_is_written_where_the_family_turns_a_part():
    family = {"default_share": 0.5}
    written = rope_values(RopeConfig(), head_dim=64, context_tokens=128, **family)
    assert written["partial_rotary_factor"] == 1.0
    assert read(head_dim=64, family=family, **written) == RopeConfig()


def test_the_part_is_written_though_the_family_knows_it():
    case = PUBLISHED["GLM-4 0414"]
    written = rope_values(
        case.rope, head_dim=128, context_tokens=case.context, default_share=0.5
    )
    assert written["partial_rotary_factor"] == 0.5
    assert written["rope_parameters"]["partial_rotary_factor"] == 0.5


def test_longrope_is_written_as_older_versions_insist_on_it():
    case = PUBLISHED["Phi-4-mini"]
    written = rope_values(case.rope, head_dim=128, context_tokens=case.context)
    assert written["rope_scaling"] == case.values["rope_scaling"]
    assert written["original_max_position_embeddings"] == 4096
    parameters = PUBLISHED["Phi-4-mini, transformers 5"].values["rope_parameters"]
    assert written["rope_parameters"] == {
        key: value for key, value in parameters.items() if key != "type"
    }


@pytest.mark.parametrize(
    ("values", "rope"),
    [
        ({}, RopeConfig()),
        ({"rope_theta": None, "rope_scaling": None}, RopeConfig()),
        ({"rope_scaling": {}, "rope_parameters": {}}, RopeConfig()),
        ({"rope_scaling": {"type": "default"}}, RopeConfig()),
        ({"rope_theta": 7}, RopeConfig(theta=7.0)),
        ({"rope_parameters": {"rope_theta": 7.0}}, RopeConfig(theta=7.0)),
        ({"rotary_emb_base": 7, "rotary_pct": 0.25}, RopeConfig(theta=7.0, dims=32)),
        ({"rope_pct": 0.25}, RopeConfig(dims=32)),
        ({"rope_percent": 0.5}, RopeConfig(dims=64)),
        ({"partial_rotary_factor": 1.0}, RopeConfig()),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, RopeConfig(dims=64)),
        ({"rope_parameters": {**YARN, "factor": 4}}, RopeConfig(scaling=YARN_ROPE)),
        ({"rope_scaling": {**YARN, "beta_fast": None}}, RopeConfig(scaling=YARN_ROPE)),
        ({"rope_scaling": {**YARN, "alpha": None}}, RopeConfig(scaling=YARN_ROPE)),
        ({"rope_scaling": YARN, "rope_parameters": {}}, RopeConfig(scaling=YARN_ROPE)),
        (
            {"rope_scaling": YARN, "rope_parameters": {"rope_type": None}},
            RopeConfig(scaling=YARN_ROPE),
        ),
        (
            {  # both, and they agree
                "rope_scaling": YARN,
                "rope_parameters": {**YARN, "rope_theta": 1e6, "beta_fast": 32},
            },
            RopeConfig(theta=1e6, scaling=YARN_ROPE),
        ),
        (
            {  # what was not stretched has its own context as the original one
                "rope_scaling": {"rope_type": "yarn", "factor": 4.0},
                "max_position_embeddings": 32768,
            },
            RopeConfig(scaling=YARN_ROPE),
        ),
    ],
)
def test_what_a_file_does_not_say_has_a_default(values, rope):
    assert read(**values) == rope


def test_the_family_says_what_the_file_does_not():
    family = {"default_theta": 5e5, "default_share": 0.5, "is_interleaved": True}
    expected = RopeConfig(theta=5e5, dims=64, is_interleaved=True)
    assert read(family=family) == expected
    whole = read(family=family, partial_rotary_factor=1.0, rope_theta=1e4)
    assert whole == RopeConfig(is_interleaved=True)


def test_longrope_is_read_for_a_server_of_the_longest_context():
    long = read(head_dim=4, rope_scaling=LONGROPE)
    assert long.scaling == LongRope(
        short_factor=(1.0, 1.5),
        long_factor=(2.0, 4.0),
        original_context=64,
        factor=2.0,
        is_long=True,
    )
    short = read(head_dim=4, rope_scaling=LONGROPE, max_position_embeddings=64)
    assert not short.scaling.is_long
    assert short.scaling.factor == 1.0
    given = {**LONGROPE, "factor": 9, "attention_factor": 1.5}
    scaling = read(head_dim=4, rope_scaling=given).scaling
    assert (scaling.factor, scaling.attention_factor) == (9.0, 1.5)


@pytest.mark.parametrize(
    ("values", "context"),
    [
        ({}, 128),
        ({"max_position_embeddings": None, "max_sequence_length": 64}, 64),
        ({"max_sequence_length": 64}, 128),
        ({"max_sequence_length": 512}, 512),
        ({"rope_scaling": YARN}, 131072),
        ({"rope_scaling": YARN, "max_position_embeddings": 1 << 20}, 1 << 20),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, 128),
        (
            {
                "rope_scaling": {"type": "yarn", "factor": 4.0},
                "original_max_position_embeddings": 100,
            },
            400,
        ),
        ({"rope_parameters": {"full_attention": YARN}}, 131072),
        ({"rope_scaling": LINEAR, "max_sequence_length": 512}, 512),
        (
            {
                "rope_scaling": {"type": "dynamic", "factor": 4.0},
                "max_sequence_length": 512,
            },
            128,
        ),
    ],
)
def test_the_longest_context_follows_from_keys_and_rope(values, context):
    assert context_of(fields(**values)) == context


def test_an_odd_head_cannot_turn_as_a_whole():
    with pytest.raises(CheckpointError) as error:
        read(head_dim=7)
    assert "model/config.json: partial_rotary_factor must be" in str(error.value)


def test_a_file_without_a_context_is_refused():
    with pytest.raises(CheckpointError, match="max_position_embeddings is missing"):
        context_of(Fields({}, "config.json"))


DEFAULT_BESIDE_YARN = {
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
    "rope_scaling": YARN,
}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (DEFAULT_BESIDE_YARN, "disagree: rope_type is yarn and default"),
        (DEFAULT_BESIDE_YARN, "model/config.json: rope_scaling and model/config.json"),
        (
            DEFAULT_BESIDE_YARN,
            "to serve the model as it was saved, delete rope_scaling",
        ),
        (DEFAULT_BESIDE_YARN, "beside its rope_theta, and delete rope_scaling"),
        (
            {"rope_parameters": {"rope_theta": 1e6}, "rope_scaling": YARN},
            "disagree: rope_type is yarn and default",
        ),
        (
            {"rope_parameters": YARN, "rope_scaling": {"type": "default"}},
            "disagree: rope_type is default and yarn",
        ),
        (
            {"rope_parameters": {**YARN, "factor": 2.0}, "rope_scaling": YARN},
            "disagree: of type yarn both, with different factor",
        ),
        (
            {
                "rope_theta": 1e4,
                "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
            },
            "model/config.json: rope_theta is 10000.0 and model/config.json: "
            "rope_parameters: rope_theta is 1000000.0; keep the one that",
        ),
        (
            {
                "rope_scaling": {**YARN, "rope_theta": 1e4},
                "rope_parameters": {**YARN, "rope_theta": 1e6},
            },
            "rope_scaling: rope_theta is 10000.0 and",
        ),
        (
            {"partial_rotary_factor": 0.5, "rope_pct": 0.25},
            "partial_rotary_factor is 0.5 and model/config.json: rope_pct is 0.25",
        ),
        (
            {
                "original_max_position_embeddings": 4096,
                "rope_scaling": YARN,
            },
            "rope_scaling: original_max_position_embeddings is 32768 and "
            "model/config.json: original_max_position_embeddings is 4096",
        ),
        (
            {"rope_scaling": {"rope_type": "linear", "type": "yarn", "factor": 2}},
            "rope_type is linear and type is yarn; delete the one",
        ),
        (
            {"rope_scaling": {"type": "proportional"}},
            "rope_scaling: type must be one of default, linear, dynamic, llama3, yarn, "
            "longrope, su; found 'proportional'",
        ),
        ({"rope_scaling": {"type": 3}}, "type must be a string, found an integer, 3"),
        (
            {"rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]}},
            "mrope_section places images and video (mrope), which is not supported",
        ),
        ({"rope_scaling": {"type": "mrope"}}, "type places images and video (mrope)"),
        (
            {"rope_scaling": {"rope_type": "default", "mrope_section": [16]}},
            "mrope_section places images and video",
        ),
        (
            {"rope_scaling": {"type": "dynamic", "factor": 1.0, "alpha": 1000.0}},
            "rope_scaling: alpha is not supported for the rope type dynamic (keys of "
            "it: factor)",
        ),
        (
            {"rope_parameters": {**YARN, "llama_4_scaling_beta": 0.1}},
            "llama_4_scaling_beta is not supported for the rope type yarn",
        ),
        (
            {"rope_scaling": {"factor": 4.0}},
            "factor is not supported for the rope type",
        ),
        ({"rope_scaling": {"type": "linear"}}, "rope_scaling: factor is missing"),
        ({"rope_scaling": {**LINEAR, "factor": 0.5}}, "factor must be at least 1"),
        ({"rope_scaling": {**YARN, "factor": 1e308}}, "factor must be at least 1"),
        ({"rope_scaling": {**YARN, "truncate": 1}}, "truncate must be true or false"),
        ({"rope_scaling": "yarn"}, "rope_scaling must be an object, found a string"),
        (
            {"rope_parameters": {"full_attention": YARN}},
            "rope_parameters: full_attention is not expected: one setting for all",
        ),
        ({"rope_theta": 0.5}, "rope theta must be above 1, got 0.5"),
        ({"rope_theta": "1e6"}, "rope_theta must be a finite number, found a string"),
        ({"rope_pct": 0.0}, "rope_pct must be above 0, at most 1"),
        ({"rope_pct": 1e308}, "rope_pct must be above 0, at most 1"),
        (
            {"rope_scaling": LONGROPE, "max_position_embeddings": 10**400},
            "max_position_embeddings must be from 1 to 1073741824 tokens",
        ),
        (
            {
                "rope_scaling": {**YARN, "original_max_position_embeddings": 10**400},
                "original_max_position_embeddings": 4096,
            },
            "original_max_position_embeddings is 1000",
        ),
        (
            {"rope_parameters": {"partial_rotary_factor": 1.5}},
            "rope_parameters: partial_rotary_factor must be above 0, at most 1",
        ),
        (
            {"partial_rotary_factor": 0.4},
            "number of a head's 128 channels to turn; found 0.4, which leaves 51",
        ),
        ({"rope_scaling": LONGROPE}, "must have 64 numbers each"),
        (
            {"rope_scaling": {**LONGROPE, "long_factor": [1.0, "2"]}},
            "long_factor must be a list of finite numbers, found a list, [1.0, '2']",
        ),
        (
            {"rope_scaling": {**LONGROPE, "short_factor": None}},
            "rope_scaling: short_factor is missing",
        ),
        (
            {"rope_scaling": {**LONGROPE, "original_max_position_embeddings": -4}},
            "original_max_position_embeddings must be positive, found -4",
        ),
    ],
)
def test_what_disagrees_or_is_not_known_is_refused_by_name(values, message):
    with pytest.raises(CheckpointError) as error:
        read(**values)
    assert "model/config.json" in str(error.value)
    assert message in str(error.value)


GEMMA3 = {
    "full_attention": RopeConfig(theta=1e6, scaling=LinearRope(factor=8.0)),
    "sliding_attention": RopeConfig(theta=1e4),
}
GEMMA3_NESTED = {
    "full_attention": {"rope_theta": 1000000.0, **LINEAR},
    "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
}


@pytest.mark.parametrize(
    "values",
    [
        {"rope_scaling": LINEAR},
        {"rope_scaling": LINEAR, "rope_theta": 1e6, "rope_local_base_freq": 10000},
        {"rope_parameters": GEMMA3_NESTED},
        {"rope_parameters": {**GEMMA3_NESTED, "sliding_attention": None}},
        {"rope_parameters": {"full_attention": LINEAR}},
        {"rope_parameters": GEMMA3_NESTED, "rope_scaling": LINEAR},
    ],
)
def test_gemma_3_has_a_base_for_each_type_of_layer(values):
    assert read_layered_ropes(fields(**values), head_dim=256) == GEMMA3


def test_gemma_3_of_one_billion_is_not_stretched():
    values = {"rope_theta": 1e6, "rope_local_base_freq": 1e4, "rope_scaling": None}
    ropes = read_layered_ropes(fields(**values), head_dim=256)
    assert ropes == {**GEMMA3, "full_attention": RopeConfig(theta=1e6)}


def test_olmo_3_stretches_only_layers_that_see_everything():
    scaling = {
        "attention_factor": 1.2079441541679836,
        "beta_fast": 32,
        "beta_slow": 1,
        "factor": 8.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "yarn",
    }
    found = fields(
        rope_theta=500000, rope_scaling=scaling, max_position_embeddings=65536
    )
    yarn = YarnRope(
        factor=8.0, original_context=8192, attention_factor=1.2079441541679836
    )
    ropes = read_layered_ropes(found, head_dim=128, layers=OLMO3_LAYERS)
    assert ropes == {
        "full_attention": RopeConfig(theta=5e5, scaling=yarn),
        "sliding_attention": RopeConfig(theta=5e5),
    }
    assert context_of(found) == 65536


def test_a_family_may_name_its_own_keys():
    layers = {
        "full_attention": LayerRope(
            theta_key="global_rope_theta", default_theta=160_000.0, is_scaled=True
        ),
        "sliding_attention": LayerRope(
            theta_key="local_rope_theta", default_theta=10_000.0, is_scaled=True
        ),
    }
    found = fields(local_rope_theta=5e4, rope_scaling=LINEAR, rope_theta=7.0)
    assert read_layered_ropes(found, head_dim=64, layers=layers) == {
        "full_attention": RopeConfig(theta=1.6e5, scaling=LinearRope(factor=8.0)),
        "sliding_attention": RopeConfig(theta=5e4, scaling=LinearRope(factor=8.0)),
    }


def test_layers_that_turn_a_part_are_read_as_their_family_says():
    values = {"sliding_attention": {"partial_rotary_factor": 0.25}}
    ropes = read_layered_ropes(
        fields(rope_parameters=values),
        head_dim=64,
        is_interleaved=True,
        default_share=0.5,
    )
    assert ropes["full_attention"] == RopeConfig(
        theta=1e6, dims=32, is_interleaved=True
    )
    assert ropes["sliding_attention"] == RopeConfig(dims=16, is_interleaved=True)


@pytest.mark.parametrize("dropped", ["rope_scaling", "rope_parameters", "nothing"])
def test_layered_ropes_are_read_back_in_either_spelling(dropped):
    written = layered_rope_values(GEMMA3, head_dim=256, context_tokens=128)
    values = {key: value for key, value in written.items() if key != dropped}
    assert read_layered_ropes(fields(**values), head_dim=256) == GEMMA3


def test_the_older_spelling_of_gemma_3_is_that_of_its_files():
    written = layered_rope_values(GEMMA3, head_dim=256, context_tokens=128)
    assert written == {
        "rope_theta": 1e6,
        "rope_local_base_freq": 1e4,
        "rope_scaling": LINEAR,
        "rope_parameters": GEMMA3_NESTED,
    }


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"rope_parameters": GEMMA3_NESTED, "rope_scaling": YARN},
            "rope_scaling and model/config.json: rope_parameters: full_attention "
            "disagree: rope_type is yarn and linear",
        ),
        (
            {"rope_parameters": GEMMA3_NESTED, "rope_local_base_freq": 5e4},
            "rope_local_base_freq is 50000.0 and model/config.json: rope_parameters: "
            "sliding_attention: rope_theta is 10000.0",
        ),
        (
            {"rope_parameters": {**GEMMA3_NESTED, "chunked_attention": {}}},
            "chunked_attention is not expected: one setting for each of full_attention",
        ),
        (
            {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
            "rope_type is not expected: one setting for each of full_attention",
        ),
        (
            {"rope_parameters": {"full_attention": 3}},
            "rope_parameters: full_attention must be an object, found an integer, 3",
        ),
    ],
)
def test_layered_settings_that_disagree_are_refused_by_name(values, message):
    with pytest.raises(CheckpointError) as error:
        read_layered_ropes(fields(**values), head_dim=256, layers=GEMMA3_LAYERS)
    assert message in str(error.value)
