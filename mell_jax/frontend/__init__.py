"""A front end turns an `Ask` into a stream of deltas; it knows no gRPC and no jax.

    generate(front_end, ask) --Submit, Abort--> engine thread
    generate(front_end, ask) <-- FrontEnd.deliver(frame), in the loop, once per step

Tokenizing, detokenizing, stop strings and samples (n > 1) happen here; the engine
knows single sequences of token ids only.
"""

from mell_jax.frontend.admission import Admission, AdmissionLimits
from mell_jax.frontend.ask import Ask, PromptMaker
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
from mell_jax.frontend.models import FrontModel
from mell_jax.frontend.peers import Peers
from mell_jax.frontend.tracing import Origin, Recorder, RequestRecord

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
    "generate",
]
