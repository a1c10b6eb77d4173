from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DeviceState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DEVICE_STATE_UNSPECIFIED: _ClassVar[DeviceState]
    DEVICE_STATE_SERVING: _ClassVar[DeviceState]
    DEVICE_STATE_OPENING: _ClassVar[DeviceState]
    DEVICE_STATE_PARKED: _ClassVar[DeviceState]
    DEVICE_STATE_DRAINING: _ClassVar[DeviceState]
    DEVICE_STATE_DRAINED: _ClassVar[DeviceState]
    DEVICE_STATE_LOST: _ClassVar[DeviceState]
DEVICE_STATE_UNSPECIFIED: DeviceState
DEVICE_STATE_SERVING: DeviceState
DEVICE_STATE_OPENING: DeviceState
DEVICE_STATE_PARKED: DeviceState
DEVICE_STATE_DRAINING: DeviceState
DEVICE_STATE_DRAINED: DeviceState
DEVICE_STATE_LOST: DeviceState

class ListPlacementsRequest(_message.Message):
    __slots__ = ("model", "device", "max_results")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    MAX_RESULTS_FIELD_NUMBER: _ClassVar[int]
    model: str
    device: int
    max_results: int
    def __init__(self, model: _Optional[str] = ..., device: _Optional[int] = ..., max_results: _Optional[int] = ...) -> None: ...

class ListPlacementsResponse(_message.Message):
    __slots__ = ("placements", "total")
    PLACEMENTS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    placements: _containers.RepeatedCompositeFieldContainer[Placement]
    total: int
    def __init__(self, placements: _Optional[_Iterable[_Union[Placement, _Mapping]]] = ..., total: _Optional[int] = ...) -> None: ...

class Placement(_message.Message):
    __slots__ = ("request", "handle", "model", "device", "target", "pages", "prompt_tokens", "is_paused")
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    HANDLE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    PAGES_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    IS_PAUSED_FIELD_NUMBER: _ClassVar[int]
    request: int
    handle: int
    model: str
    device: int
    target: int
    pages: int
    prompt_tokens: int
    is_paused: bool
    def __init__(self, request: _Optional[int] = ..., handle: _Optional[int] = ..., model: _Optional[str] = ..., device: _Optional[int] = ..., target: _Optional[int] = ..., pages: _Optional[int] = ..., prompt_tokens: _Optional[int] = ..., is_paused: bool = ...) -> None: ...

class MigrateRequest(_message.Message):
    __slots__ = ("request", "device")
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    request: int
    device: int
    def __init__(self, request: _Optional[int] = ..., device: _Optional[int] = ...) -> None: ...

class MigrateResponse(_message.Message):
    __slots__ = ("source", "target", "is_moving")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    IS_MOVING_FIELD_NUMBER: _ClassVar[int]
    source: int
    target: int
    is_moving: bool
    def __init__(self, source: _Optional[int] = ..., target: _Optional[int] = ..., is_moving: bool = ...) -> None: ...

class DrainRequest(_message.Message):
    __slots__ = ("device",)
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    device: int
    def __init__(self, device: _Optional[int] = ...) -> None: ...

class DrainResponse(_message.Message):
    __slots__ = ("state", "requests_left")
    STATE_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_LEFT_FIELD_NUMBER: _ClassVar[int]
    state: DeviceState
    requests_left: int
    def __init__(self, state: _Optional[_Union[DeviceState, str]] = ..., requests_left: _Optional[int] = ...) -> None: ...

class UndrainRequest(_message.Message):
    __slots__ = ("device",)
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    device: int
    def __init__(self, device: _Optional[int] = ...) -> None: ...

class UndrainResponse(_message.Message):
    __slots__ = ("state",)
    STATE_FIELD_NUMBER: _ClassVar[int]
    state: DeviceState
    def __init__(self, state: _Optional[_Union[DeviceState, str]] = ...) -> None: ...

class SetPolicyRequest(_message.Message):
    __slots__ = ("policy", "look_s", "headroom")
    POLICY_FIELD_NUMBER: _ClassVar[int]
    LOOK_S_FIELD_NUMBER: _ClassVar[int]
    HEADROOM_FIELD_NUMBER: _ClassVar[int]
    policy: str
    look_s: float
    headroom: float
    def __init__(self, policy: _Optional[str] = ..., look_s: _Optional[float] = ..., headroom: _Optional[float] = ...) -> None: ...

class SetPolicyResponse(_message.Message):
    __slots__ = ("policy", "policy_before", "look_s")
    POLICY_FIELD_NUMBER: _ClassVar[int]
    POLICY_BEFORE_FIELD_NUMBER: _ClassVar[int]
    LOOK_S_FIELD_NUMBER: _ClassVar[int]
    policy: str
    policy_before: str
    look_s: float
    def __init__(self, policy: _Optional[str] = ..., policy_before: _Optional[str] = ..., look_s: _Optional[float] = ...) -> None: ...

class UpdateWeightsRequest(_message.Message):
    __slots__ = ("path", "version", "open_requests", "model", "streamed")
    PATH_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    OPEN_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    STREAMED_FIELD_NUMBER: _ClassVar[int]
    path: str
    version: str
    open_requests: str
    model: str
    streamed: bool
    def __init__(self, path: _Optional[str] = ..., version: _Optional[str] = ..., open_requests: _Optional[str] = ..., model: _Optional[str] = ..., streamed: bool = ...) -> None: ...

class UpdateWeightsResponse(_message.Message):
    __slots__ = ("model", "version", "nbytes", "restarted", "aborted")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    NBYTES_FIELD_NUMBER: _ClassVar[int]
    RESTARTED_FIELD_NUMBER: _ClassVar[int]
    ABORTED_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: str
    nbytes: int
    restarted: int
    aborted: int
    def __init__(self, model: _Optional[str] = ..., version: _Optional[str] = ..., nbytes: _Optional[int] = ..., restarted: _Optional[int] = ..., aborted: _Optional[int] = ...) -> None: ...

class NameWeightsRequest(_message.Message):
    __slots__ = ("version", "model")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    version: str
    model: str
    def __init__(self, version: _Optional[str] = ..., model: _Optional[str] = ...) -> None: ...

class NameWeightsResponse(_message.Message):
    __slots__ = ("state",)
    STATE_FIELD_NUMBER: _ClassVar[int]
    state: ServingState
    def __init__(self, state: _Optional[_Union[ServingState, _Mapping]] = ...) -> None: ...

class Weights(_message.Message):
    __slots__ = ("model", "version", "updates", "nbytes", "is_dropped")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    UPDATES_FIELD_NUMBER: _ClassVar[int]
    NBYTES_FIELD_NUMBER: _ClassVar[int]
    IS_DROPPED_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: str
    updates: int
    nbytes: int
    is_dropped: bool
    def __init__(self, model: _Optional[str] = ..., version: _Optional[str] = ..., updates: _Optional[int] = ..., nbytes: _Optional[int] = ..., is_dropped: bool = ...) -> None: ...

class ServingState(_message.Message):
    __slots__ = ("is_paused", "sleep_level", "weights", "freed_bytes", "waiting")
    IS_PAUSED_FIELD_NUMBER: _ClassVar[int]
    SLEEP_LEVEL_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    FREED_BYTES_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    is_paused: bool
    sleep_level: int
    weights: _containers.RepeatedCompositeFieldContainer[Weights]
    freed_bytes: int
    waiting: int
    def __init__(self, is_paused: bool = ..., sleep_level: _Optional[int] = ..., weights: _Optional[_Iterable[_Union[Weights, _Mapping]]] = ..., freed_bytes: _Optional[int] = ..., waiting: _Optional[int] = ...) -> None: ...

class PauseRequest(_message.Message):
    __slots__ = ("mode",)
    MODE_FIELD_NUMBER: _ClassVar[int]
    mode: str
    def __init__(self, mode: _Optional[str] = ...) -> None: ...

class PauseResponse(_message.Message):
    __slots__ = ("state",)
    STATE_FIELD_NUMBER: _ClassVar[int]
    state: ServingState
    def __init__(self, state: _Optional[_Union[ServingState, _Mapping]] = ...) -> None: ...

class ResumeRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ResumeResponse(_message.Message):
    __slots__ = ("state",)
    STATE_FIELD_NUMBER: _ClassVar[int]
    state: ServingState
    def __init__(self, state: _Optional[_Union[ServingState, _Mapping]] = ...) -> None: ...

class SleepRequest(_message.Message):
    __slots__ = ("level", "keeps", "mode")
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    KEEPS_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    level: int
    keeps: str
    mode: str
    def __init__(self, level: _Optional[int] = ..., keeps: _Optional[str] = ..., mode: _Optional[str] = ...) -> None: ...

class SleepResponse(_message.Message):
    __slots__ = ("state",)
    STATE_FIELD_NUMBER: _ClassVar[int]
    state: ServingState
    def __init__(self, state: _Optional[_Union[ServingState, _Mapping]] = ...) -> None: ...

class WakeRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class WakeResponse(_message.Message):
    __slots__ = ("state",)
    STATE_FIELD_NUMBER: _ClassVar[int]
    state: ServingState
    def __init__(self, state: _Optional[_Union[ServingState, _Mapping]] = ...) -> None: ...

class GetServingRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetServingResponse(_message.Message):
    __slots__ = ("state",)
    STATE_FIELD_NUMBER: _ClassVar[int]
    state: ServingState
    def __init__(self, state: _Optional[_Union[ServingState, _Mapping]] = ...) -> None: ...

class ResetPrefixCacheRequest(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: str
    def __init__(self, model: _Optional[str] = ...) -> None: ...

class ResetPrefixCacheResponse(_message.Message):
    __slots__ = ("pages",)
    PAGES_FIELD_NUMBER: _ClassVar[int]
    pages: int
    def __init__(self, pages: _Optional[int] = ...) -> None: ...

class AbortRequestsRequest(_message.Message):
    __slots__ = ("request_ids", "all")
    REQUEST_IDS_FIELD_NUMBER: _ClassVar[int]
    ALL_FIELD_NUMBER: _ClassVar[int]
    request_ids: _containers.RepeatedScalarFieldContainer[str]
    all: bool
    def __init__(self, request_ids: _Optional[_Iterable[str]] = ..., all: bool = ...) -> None: ...

class AbortRequestsResponse(_message.Message):
    __slots__ = ("aborted",)
    ABORTED_FIELD_NUMBER: _ClassVar[int]
    aborted: int
    def __init__(self, aborted: _Optional[int] = ...) -> None: ...

class SnapshotRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class SnapshotResponse(_message.Message):
    __slots__ = ("policy", "instances", "models", "moves", "links", "prefill_rates", "stats", "devices_in_use", "lower_bound", "controller_age_s")
    POLICY_FIELD_NUMBER: _ClassVar[int]
    INSTANCES_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    MOVES_FIELD_NUMBER: _ClassVar[int]
    LINKS_FIELD_NUMBER: _ClassVar[int]
    PREFILL_RATES_FIELD_NUMBER: _ClassVar[int]
    STATS_FIELD_NUMBER: _ClassVar[int]
    DEVICES_IN_USE_FIELD_NUMBER: _ClassVar[int]
    LOWER_BOUND_FIELD_NUMBER: _ClassVar[int]
    CONTROLLER_AGE_S_FIELD_NUMBER: _ClassVar[int]
    policy: str
    instances: _containers.RepeatedCompositeFieldContainer[Instance]
    models: _containers.RepeatedCompositeFieldContainer[Model]
    moves: _containers.RepeatedCompositeFieldContainer[Move]
    links: _containers.RepeatedCompositeFieldContainer[Link]
    prefill_rates: _containers.RepeatedCompositeFieldContainer[PrefillRate]
    stats: Stats
    devices_in_use: int
    lower_bound: int
    controller_age_s: float
    def __init__(self, policy: _Optional[str] = ..., instances: _Optional[_Iterable[_Union[Instance, _Mapping]]] = ..., models: _Optional[_Iterable[_Union[Model, _Mapping]]] = ..., moves: _Optional[_Iterable[_Union[Move, _Mapping]]] = ..., links: _Optional[_Iterable[_Union[Link, _Mapping]]] = ..., prefill_rates: _Optional[_Iterable[_Union[PrefillRate, _Mapping]]] = ..., stats: _Optional[_Union[Stats, _Mapping]] = ..., devices_in_use: _Optional[int] = ..., lower_bound: _Optional[int] = ..., controller_age_s: _Optional[float] = ...) -> None: ...

class Instance(_message.Message):
    __slots__ = ("device", "state", "model", "capacity_pages", "used_pages", "reserved_pages", "cached_pages", "running", "waiting", "paused", "host", "number", "epoch")
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    CAPACITY_PAGES_FIELD_NUMBER: _ClassVar[int]
    USED_PAGES_FIELD_NUMBER: _ClassVar[int]
    RESERVED_PAGES_FIELD_NUMBER: _ClassVar[int]
    CACHED_PAGES_FIELD_NUMBER: _ClassVar[int]
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    PAUSED_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    device: int
    state: DeviceState
    model: str
    capacity_pages: int
    used_pages: int
    reserved_pages: int
    cached_pages: int
    running: int
    waiting: int
    paused: int
    host: str
    number: int
    epoch: int
    def __init__(self, device: _Optional[int] = ..., state: _Optional[_Union[DeviceState, str]] = ..., model: _Optional[str] = ..., capacity_pages: _Optional[int] = ..., used_pages: _Optional[int] = ..., reserved_pages: _Optional[int] = ..., cached_pages: _Optional[int] = ..., running: _Optional[int] = ..., waiting: _Optional[int] = ..., paused: _Optional[int] = ..., host: _Optional[str] = ..., number: _Optional[int] = ..., epoch: _Optional[int] = ...) -> None: ...

class Model(_message.Message):
    __slots__ = ("name", "lower_bound", "waiting")
    NAME_FIELD_NUMBER: _ClassVar[int]
    LOWER_BOUND_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    name: str
    lower_bound: int
    waiting: int
    def __init__(self, name: _Optional[str] = ..., lower_bound: _Optional[int] = ..., waiting: _Optional[int] = ...) -> None: ...

class Move(_message.Message):
    __slots__ = ("request", "source", "target", "mode", "stage")
    class Stage(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STAGE_UNSPECIFIED: _ClassVar[Move.Stage]
        STAGE_WAITING: _ClassVar[Move.Stage]
        STAGE_RESERVING: _ClassVar[Move.Stage]
        STAGE_COPYING: _ClassVar[Move.Stage]
        STAGE_RELEASING: _ClassVar[Move.Stage]
    STAGE_UNSPECIFIED: Move.Stage
    STAGE_WAITING: Move.Stage
    STAGE_RESERVING: Move.Stage
    STAGE_COPYING: Move.Stage
    STAGE_RELEASING: Move.Stage
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    request: int
    source: int
    target: int
    mode: str
    stage: Move.Stage
    def __init__(self, request: _Optional[int] = ..., source: _Optional[int] = ..., target: _Optional[int] = ..., mode: _Optional[str] = ..., stage: _Optional[_Union[Move.Stage, str]] = ...) -> None: ...

class Link(_message.Message):
    __slots__ = ("source", "target", "bytes_per_s")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    BYTES_PER_S_FIELD_NUMBER: _ClassVar[int]
    source: int
    target: int
    bytes_per_s: float
    def __init__(self, source: _Optional[int] = ..., target: _Optional[int] = ..., bytes_per_s: _Optional[float] = ...) -> None: ...

class PrefillRate(_message.Message):
    __slots__ = ("device", "model", "tokens_per_s")
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    TOKENS_PER_S_FIELD_NUMBER: _ClassVar[int]
    device: int
    model: str
    tokens_per_s: float
    def __init__(self, device: _Optional[int] = ..., model: _Optional[str] = ..., tokens_per_s: _Optional[float] = ...) -> None: ...

class Stats(_message.Message):
    __slots__ = ("moves_begun", "moves_ended", "moves_deferred", "link_violations", "sent_bytes", "stages", "activations", "activation_s", "parkings", "losses", "replays", "pauses", "preemptions")
    class MovesBegunEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    MOVES_BEGUN_FIELD_NUMBER: _ClassVar[int]
    MOVES_ENDED_FIELD_NUMBER: _ClassVar[int]
    MOVES_DEFERRED_FIELD_NUMBER: _ClassVar[int]
    LINK_VIOLATIONS_FIELD_NUMBER: _ClassVar[int]
    SENT_BYTES_FIELD_NUMBER: _ClassVar[int]
    STAGES_FIELD_NUMBER: _ClassVar[int]
    ACTIVATIONS_FIELD_NUMBER: _ClassVar[int]
    ACTIVATION_S_FIELD_NUMBER: _ClassVar[int]
    PARKINGS_FIELD_NUMBER: _ClassVar[int]
    LOSSES_FIELD_NUMBER: _ClassVar[int]
    REPLAYS_FIELD_NUMBER: _ClassVar[int]
    PAUSES_FIELD_NUMBER: _ClassVar[int]
    PREEMPTIONS_FIELD_NUMBER: _ClassVar[int]
    moves_begun: _containers.ScalarMap[str, int]
    moves_ended: _containers.RepeatedCompositeFieldContainer[EndedMoves]
    moves_deferred: int
    link_violations: int
    sent_bytes: int
    stages: int
    activations: int
    activation_s: float
    parkings: int
    losses: int
    replays: int
    pauses: int
    preemptions: int
    def __init__(self, moves_begun: _Optional[_Mapping[str, int]] = ..., moves_ended: _Optional[_Iterable[_Union[EndedMoves, _Mapping]]] = ..., moves_deferred: _Optional[int] = ..., link_violations: _Optional[int] = ..., sent_bytes: _Optional[int] = ..., stages: _Optional[int] = ..., activations: _Optional[int] = ..., activation_s: _Optional[float] = ..., parkings: _Optional[int] = ..., losses: _Optional[int] = ..., replays: _Optional[int] = ..., pauses: _Optional[int] = ..., preemptions: _Optional[int] = ...) -> None: ...

class EndedMoves(_message.Message):
    __slots__ = ("reason", "mode", "outcome", "count")
    REASON_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    reason: str
    mode: str
    outcome: str
    count: int
    def __init__(self, reason: _Optional[str] = ..., mode: _Optional[str] = ..., outcome: _Optional[str] = ..., count: _Optional[int] = ...) -> None: ...
