"""A host tells front ends, once a beat, how busy it and its device groups are."""

from dataclasses import dataclass

from mell_jax.engine.frames import EngineLoad
from mell_jax.scheduler.ids import DeviceGroupId


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupLoad:
    """An instance on a device group is so busy."""

    device: DeviceGroupId
    running: int  # rows
    waiting: int  # requests without a row yet
    cached_pages: int  # of prefixes, that no request has now


@dataclass(frozen=True, slots=True, kw_only=True)
class HostLoad:
    """A host is so busy; what it has sent it counts since its process began."""

    load: EngineLoad
    groups: tuple[GroupLoad, ...]  # those that have an instance
    sent_bytes: int  # pages and tokens
    stages: int  # chunks that these were sent in
