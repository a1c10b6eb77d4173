"""Works out from data sheets how fast a device serves a model: a `Profile`.

    a step reads its weights and the KV of its rows,   bytes / bandwidth
    and multiplies by them for every token,            operations / speed

Each is a bound at full speed (roofline, Williams et al., CACM 2009), divided by an
efficiency. A profile adds times where a device overlaps them: it takes reads of weights
and products one after the other wherever both may be long, so it errs on the slow side.
Nothing here was measured; `mell-plan --profile` takes what was.
"""

from dataclasses import dataclass

from mell_jax.planner.devices import Device
from mell_jax.planner.shape import ModelShape
from mell_jax.scheduler.placement.model import StepTime
from mell_jax.scheduler.simulator.profile import Profile

PAGE_TOKENS = 16
MOST_BUDGET = 2048  # tokens of a step: more makes prefill hardly faster


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumptions:
    """The assumptions are what no data sheet says.

    Attributes:
      bandwidth_share: of the memory's bandwidth that a step gets. 0.75 rests on two
        published decodes of 8B models by other engines, at 0.71 and 0.77.
      compute_share: of the dense bfloat16 speed that prefill gets; half is usual.
      sync_s: of one sum over the devices of an instance, besides its bytes.
      token_budget: of a step; None: the most whose step keeps to `step_s`.
      step_s: that a step full of prompts may take.
      max_rows: of the engine, as `mell-serve` has it.
      kv_memory_fraction: of what the weights leave free; the same.
      load_s: until a parked instance can serve.
    """

    bandwidth_share: float = 0.75
    compute_share: float = 0.5
    sync_s: float = 10e-6
    token_budget: int | None = None
    step_s: float = 0.1
    max_rows: int = 256
    kv_memory_fraction: float = 0.9
    load_s: float = 0.0

    def __post_init__(self) -> None:
        for name in ("bandwidth_share", "compute_share", "kv_memory_fraction"):
            value = getattr(self, name)
            if not (0 < value <= 1):
                raise ValueError(f"{name} must be in (0, 1], got {value}")
        if not (self.max_rows >= 1):
            raise ValueError(f"max_rows must be >= 1, got {self.max_rows}")
        if self.token_budget is not None and not (self.token_budget >= self.max_rows):
            raise ValueError(
                f"token_budget must be >= max_rows ({self.max_rows}), since each row "
                f"takes a token of a step, got {self.token_budget}"
            )


def capacity_tokens(
    shape: ModelShape, *, device: Device, devices: int, assumed: Assumptions
) -> int:
    """Returns the KV tokens of an instance on so many devices, 0 without room."""
    free = devices * device.memory_bytes - shape.weight_bytes
    each = shape.kv_bytes_per_token * shape.kv_copies(devices)
    return max(0, int(assumed.kv_memory_fraction * free / each))


def profile_of(
    shape: ModelShape, *, device: Device, devices: int, assumed: Assumptions
) -> Profile:
    """Returns how fast one instance on so many devices is, as worked out.

    Raises:
      ValueError: the weights leave no room for a page.
    """
    bandwidth = devices * device.bytes_per_s * assumed.bandwidth_share
    speed = devices * device.flops_per_s * assumed.compute_share
    copies = shape.kv_copies(devices)
    layers = shape.parameters - shape.embedding - shape.head
    weights_s = shape.read_bytes / bandwidth
    row_s = 2 * (layers + shape.head) / speed
    sync_s, sync_token_s = _syncs(shape, device=device, devices=devices)
    windowed, pair = _attention(shape)
    fixed_s = weights_s + assumed.sync_s * sync_s
    token_s = (2 * layers + windowed) / speed + sync_token_s
    budget = assumed.token_budget or _budget(
        (assumed.step_s - fixed_s) / token_s, least=assumed.max_rows
    )
    return Profile(
        name=f"{shape.name} on {devices} x {device.kind}",
        step_time=StepTime(
            fixed_s=fixed_s,
            row_s=_beyond(weights_s, row_s=row_s, rows=assumed.max_rows) + sync_token_s,
            page_s=PAGE_TOKENS * shape.kv_bytes_per_token * copies / bandwidth,
        ),
        prefill_token_s=token_s,
        prefill_pair_s=1000 * pair / speed,
        token_budget=budget,
        max_rows=assumed.max_rows,
        capacity_tokens=capacity_tokens(
            shape, device=device, devices=devices, assumed=assumed
        ),
        page_tokens=PAGE_TOKENS,
        kv_bytes_per_token=shape.kv_bytes_per_token * copies,
        load_s=assumed.load_s,
        plans_ahead=True,  # as `mell-serve` does
        link_bytes_per_s=devices * device.link_bytes_per_s,
    )


def _budget(tokens: float, *, least: int) -> int:
    """The largest power of two up to `tokens` that an engine would be given."""
    budget = MOST_BUDGET
    while budget > least and budget > tokens:
        budget //= 2
    return max(budget, least)


def _beyond(weights_s: float, *, row_s: float, rows: int) -> float:
    """What a row adds to a step that reads weights anyhow.

    A step of b rows takes max(weights_s, b * row_s); this is the slope of the line over
    that curve from no row to `rows`.
    """
    return max(0.0, row_s - weights_s / rows)


def _syncs(shape: ModelShape, *, device: Device, devices: int) -> tuple[float, float]:
    """Sums over an instance's devices in a step, and what a token adds to their time.

    There are two in each layer and one of the embedding; a ring sends each value
    2 (n - 1) / n times.
    """
    if devices == 1:
        return 0.0, 0.0
    sums = 2 * shape.num_layers + 1
    sent = 2 * (devices - 1) / devices * 2 * shape.hidden_size
    return float(sums), sums * sent / device.link_bytes_per_s


def _attention(shape: ModelShape) -> tuple[float, float]:
    """Operations of attention: for a token of layers with a window, and for a token and
    one before it of the others."""
    windowed = pair = 0.0
    for window, width in zip(shape.windows, shape.attention_width, strict=True):
        if window is None:
            pair += 4 * width
        else:
            windowed += 4 * width * window  # short prompts see less: on the slow side
    return windowed, pair
