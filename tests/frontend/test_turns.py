"""A tenant with many requests waits for itself, and nobody else for it."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mell_jax.frontend.turns import Turns


class Line:
    """Those who wait, by name such as "a1", and who has had a turn so far."""

    def __init__(self, count: int) -> None:
        self.turns = Turns(count)
        self.served: list[str] = []
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def come(self, *names: str) -> None:
        for name in names:
            self.tasks[name] = asyncio.ensure_future(self._take(name))
        await asyncio.sleep(0)

    async def go(self, *names: str) -> None:
        for name in names:
            self.turns.give_back(name[0])
            await asyncio.sleep(0)

    async def _take(self, name: str) -> None:
        await self.turns.take(name[0])
        self.served.append(name)


def test_one_alone_has_all_turns() -> None:
    async def scenario() -> None:
        line = Line(2)
        await line.come("a1", "a2", "a3")
        assert line.served == ["a1", "a2"]
        await line.go("a1")
        assert line.served == ["a1", "a2", "a3"]

    asyncio.run(scenario())


def test_who_holds_fewest_is_next() -> None:
    async def scenario() -> None:
        line = Line(2)
        await line.come("a1", "a2", "a3", "a4", "b1", "b2", "c1")
        await line.go("a1")  # a holds one, b and c none
        assert line.served[2:] == ["b1"]
        await line.go("b1")
        assert line.served[3:] == ["c1"]
        await line.go("c1")
        assert line.served[4:] == ["b2"]
        await line.go("a2", "b2")
        assert line.served[5:] == ["a3", "a4"]

    asyncio.run(scenario())


def test_who_leaves_is_passed_over() -> None:
    async def scenario() -> None:
        line = Line(1)
        await line.come("a1", "b1", "b2", "c1")
        line.tasks["b1"].cancel()
        line.tasks["c1"].cancel()
        await asyncio.sleep(0)
        await line.go("a1")
        assert line.served == ["a1", "b2"]

    asyncio.run(scenario())


def test_who_leaves_in_the_moment_of_its_turn_passes_it_on() -> None:
    async def scenario() -> None:
        line = Line(1)
        await line.come("a1", "b1", "c1")
        line.turns.give_back("a")
        line.tasks["b1"].cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert line.served == ["a1", "c1"]
        with pytest.raises(asyncio.CancelledError):
            await line.tasks["b1"]

    asyncio.run(scenario())


@given(
    count=st.integers(1, 3),
    steps=st.lists(
        st.tuples(st.sampled_from("abc"), st.sampled_from("+-x")), max_size=60
    ),
)
def test_all_turns_are_used_and_none_is_lost(
    count: int, steps: list[tuple[str, str]]
) -> None:
    async def scenario() -> None:
        line, held, waiting = Line(count), list[str](), list[str]()
        for number, (tenant, step) in enumerate(steps):
            if step == "+":
                await line.come(f"{tenant}{number}")
                waiting.append(f"{tenant}{number}")
            elif step == "x" and waiting:
                name = waiting.pop()
                line.tasks[name].cancel()
            elif step == "-" and held:
                await line.go(held.pop(0))
            for _ in range(3):
                await asyncio.sleep(0)
            new = [name for name in line.served if name in waiting]
            held += new
            waiting = [name for name in waiting if name not in new]
            assert len(held) == min(count, len(held) + len(waiting))
        for task in line.tasks.values():
            task.cancel()

    asyncio.run(scenario())
