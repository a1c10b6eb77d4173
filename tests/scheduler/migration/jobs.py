"""Requests of the simulation, and what their tokens and pages must hold."""

from dataclasses import dataclass

from mell_jax.scheduler.ids import RequestId

SIZE = 2  # tokens per page
Content = tuple[str, int, int]
"""Whose tokens a page holds, which page of theirs it is, how many tokens it has."""


class ViolationError(Exception):
    """Something that must never happen; not an AssertionError of the code itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One request: `shared` tokens of its prompt are common to its group."""

    request: RequestId
    prompt: int
    output: int
    group: int
    shared: int  # whole pages

    def token(self, index: int) -> int:
        """The right token at an index of the output."""
        return (int(self.request) * 7919 + index * 104729) % 50021

    def content(self, page: int, count: int = SIZE) -> Content:
        """What page number `page` of this request must hold, filled so far."""
        if page * SIZE < self.shared:
            return f"group {self.group}", page, count
        return f"request {self.request}", page, count

    @property
    def max_pages(self) -> int:
        return -(-(self.prompt + self.output) // SIZE)
