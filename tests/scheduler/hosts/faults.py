"""What goes wrong in a schedule, drawn from its seed."""

import random
from dataclasses import dataclass

AIMED_AT = (
    *("Join", "Admit", "Retain", "Hosts", "Fenced", "Enter", "Reached", "Disowned"),
    *("Ask", "Start", "Started", "Reserve", "Reserved", "Begin", "Chunk", "Stopped"),
    *("Ready", "Commit", "Release", "Released", "Resume", "Resumed", "Opening"),
    *("Want", "Grant", "OpenGroup", "GroupOpened", "Over", "Gone", "Row", "Rooms"),
    *("Unreachable", "PeerCut", "Broken", "Drop", "Hello", "Carried"),
)
"""Messages at which faults are aimed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """So much goes wrong in a schedule."""

    kills: int  # of hosts
    controller_kills: int
    front_kills: int
    failures: int  # of device groups
    stops: int  # of any process
    cuts: int  # of any way between two
    slow_ways: int  # between two, for a while
    pairs: int  # of any faults at the same moment
    aimed: int  # faults at the moment of some message
    last_words: int  # controllers killed as they commit a move, on a slow way
    is_rolling: bool  # all hosts are restarted one after the other
    cancels: float

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
            aimed=rng.choice([0, 1, 2]),
            last_words=rng.choice([0, 0, 0, 1]),
            is_rolling=rng.random() < 0.1,
            cancels=rng.choice([0, 0.15]),
        )
