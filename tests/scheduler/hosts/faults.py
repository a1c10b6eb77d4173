"""What goes wrong in a schedule, drawn from its seed."""

import random
from dataclasses import dataclass

AIMED_AT = (
    *("Join", "Admit", "Retain", "Fenced", "Enter", "Reached", "Disowned"),
    *("Ask", "Start", "Started", "Reserve", "Reserved", "Begin", "Chunk", "Stopped"),
    *("Ready", "Commit", "Release", "Released", "Resume", "Resumed", "Opening"),
    *("Want", "Grant", "OpenGroup", "GroupOpened", "Over", "Gone", "Row", "Rooms"),
    *("Hosts", "HostsChanged"),
    *("Unreachable", "PeerCut", "Broken", "Drop", "Hello", "Carried"),
    *3 * ("Join", "Enter", "Retain", "Begin", "Chunk", "Stopped", "Ready", "Commit"),
)
"""Messages at which faults are aimed, some more often."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """So much goes wrong in a schedule."""

    kills: int = 0  # of hosts
    controller_kills: int = 0
    front_kills: int = 0
    failures: int = 0  # of device groups
    stops: int = 0  # of any process
    cuts: int = 0  # of any way between two
    slow_ways: int = 0  # between two, for a while
    pairs: int = 0  # of any faults at the same moment
    aimed: int = 0  # faults at the moment of some message
    last_words: int = 0  # controllers or sources killed at a commit, on a slow way
    torn_moves: int = 0  # links between hosts cut at a chunk
    lost_ways: int = 0  # from a front end to a host that stands still, without control
    breaks: int = 0  # of all streams at once, as if their tokens could not come
    wishes: int = 0  # of an operator: moves, groups set aside, other policies
    is_rolling: bool = False  # all hosts are restarted one after the other
    cancels: float = 0.0

    @classmethod
    def draw(cls, rng: random.Random) -> "Faults":
        return cls(
            kills=rng.choice([0, 0, 1, 2]),
            controller_kills=rng.choice([0, 0, 1, 2]),
            front_kills=rng.choice([0, 0, 0, 1]),
            failures=rng.choice([0, 0, 0, 1]),
            stops=rng.choice([0, 0, 1, 2]),
            cuts=rng.choice([0, 0, 1, 2]),
            slow_ways=rng.choice([0, 0, 1]),
            pairs=rng.choice([0, 0, 0, 1]),
            aimed=rng.choice([0, 1, 2, 3]),
            last_words=rng.choice([0, 0, 0, 1]),
            torn_moves=rng.choice([0, 0, 0, 1]),
            is_rolling=rng.random() < 0.1,
            cancels=rng.choice([0, 0.15]),
            lost_ways=rng.choice([0, 0, 0, 1]),
        )
