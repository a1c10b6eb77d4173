"""A front end turns an `Ask` into a stream of deltas; it knows no gRPC and no jax.

    generate(front_end, ask) --Submit, Abort--> engine thread
    generate(front_end, ask) <-- FrontEnd.deliver(frame), in the loop, once per step

Tokenizing, detokenizing, stop strings and samples (n > 1) happen here; the engine
knows single sequences of token ids only.

Names are loaded when they are first used, so that `limits` needs nothing heavy.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mell_jax.frontend.admission import Admission
    from mell_jax.frontend.ask import Ask, MadePrompt, PromptMaker
    from mell_jax.frontend.caller import Caller
    from mell_jax.frontend.delta import Delta, SampleEnd
    from mell_jax.frontend.engine_link import EngineLink, Sink
    from mell_jax.frontend.errors import (
        DuplicateRequestError,
        EngineDeadError,
        OverloadedError,
        QueueTimeoutError,
        RequestFailedError,
        RequestTimeoutError,
        UnknownModelError,
    )
    from mell_jax.frontend.front_end import FrontEnd
    from mell_jax.frontend.generation import generate
    from mell_jax.frontend.inbox import TokenLogprobs
    from mell_jax.frontend.limits import AdmissionLimits
    from mell_jax.frontend.models import FrontModel
    from mell_jax.frontend.peers import Peers
    from mell_jax.frontend.tracing import Origin, Recorder, RequestRecord
    from mell_jax.frontend.versions import VersionRange, joined

_HOME = {
    "Admission": "admission",
    "AdmissionLimits": "limits",
    "Ask": "ask",
    "Caller": "caller",
    "Delta": "delta",
    "DuplicateRequestError": "errors",
    "EngineDeadError": "errors",
    "EngineLink": "engine_link",
    "FrontEnd": "front_end",
    "FrontModel": "models",
    "MadePrompt": "ask",
    "Origin": "tracing",
    "OverloadedError": "errors",
    "Peers": "peers",
    "PromptMaker": "ask",
    "QueueTimeoutError": "errors",
    "Recorder": "tracing",
    "RequestFailedError": "errors",
    "RequestRecord": "tracing",
    "RequestTimeoutError": "errors",
    "SampleEnd": "delta",
    "Sink": "engine_link",
    "TokenLogprobs": "inbox",
    "UnknownModelError": "errors",
    "VersionRange": "versions",
    "generate": "generation",
    "joined": "versions",
}

__all__ = [
    "Admission",
    "AdmissionLimits",
    "Ask",
    "Caller",
    "Delta",
    "DuplicateRequestError",
    "EngineDeadError",
    "EngineLink",
    "FrontEnd",
    "FrontModel",
    "MadePrompt",
    "Origin",
    "OverloadedError",
    "Peers",
    "PromptMaker",
    "QueueTimeoutError",
    "Recorder",
    "RequestFailedError",
    "RequestRecord",
    "RequestTimeoutError",
    "SampleEnd",
    "Sink",
    "TokenLogprobs",
    "UnknownModelError",
    "VersionRange",
    "generate",
    "joined",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
