"""One request of a simulation, from its arrival to its last token."""

from mell_jax.scheduler.ids import DeviceGroupId, ModelId, MoveId, RequestId


class Request:
    """A request's progress; fleet and pace write down here what they know of it."""

    __slots__ = (
        "arrived_s",
        "device",
        "done",
        "first_s",
        "id",
        "input_tokens",
        "is_queued",
        "model",
        "move",
        "output_tokens",
        "pages",
        "paused_s",
        "prefill_s",
        "since_s",
        "speed",
        "started_s",
        "timer",
    )

    def __init__(
        self,
        request: RequestId,
        *,
        arrived_s: float,
        input_tokens: int,
        output_tokens: int,
        model: ModelId,
    ) -> None:
        self.id = request
        self.arrived_s = arrived_s
        self.model = model
        self.input_tokens = input_tokens
        self.output_tokens = output_tokens
        self.device: DeviceGroupId | None = None  # where it lives
        self.move: MoveId | None = None  # that takes it elsewhere
        self.pages = 0  # granted, along the sequence
        self.done = 0.0  # output tokens made before `since_s`
        self.since_s = arrived_s  # decodes since, or will from then on
        self.speed = 1.0  # of the device that computes it
        self.prefill_s = 0.0  # its latest prefill began, or will
        self.started_s: float | None = None  # its first one
        self.first_s: float | None = None  # it had its first output token
        self.paused_s: float | None = None  # since when it lacks a page
        self.timer = 0  # an entry of the agenda with another number is void
        self.is_queued = True
