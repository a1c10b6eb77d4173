"""A fake engine with a fleet, whose next view is made when a test says so."""

import dataclasses
from typing import final

from mell_jax.engine.frames import EngineLoad
from tests.page.views import VIEW
from tests.serving.fake_engine import FakeEngine


@final
class WatchedEngine(FakeEngine):
    """An engine with the view of `tests.page.views`."""

    def __init__(self, *, is_manual: bool = False) -> None:
        super().__init__(is_manual=is_manual)
        self.number = 1  # of the view
        self.looks = 0

    def load(self) -> EngineLoad:
        self.looks += 1
        view = dataclasses.replace(VIEW, number=self.number)
        return dataclasses.replace(super().load(), fleet=view)
