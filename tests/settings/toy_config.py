"""A small configuration with one setting of each kind."""

from dataclasses import dataclass
from typing import Literal

from mell_jax.settings.setting import setting, settings_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Pot:
    """A pot of coffee."""

    cups: int = setting(2, is_flag=True, help="The pot holds this many cups.")
    warm_s: float | None = setting(None, help="The pot stays warm for so long.")
    roast: Literal["light", "dark"] = setting(
        "light", is_flag=True, help="The beans were roasted like this."
    )
    is_sweet: bool = setting(False, name="sweet", is_flag=True, help="Sugar is in it.")
    guests: tuple[str, ...] = setting((), is_flag=True, help="These people drink it.")
    sizes: tuple[int, ...] | None = setting(None, help="The cups have these sizes.")
    maker: str = "nobody"  # not a setting

    def __post_init__(self) -> None:
        if not (self.cups >= 1):
            raise ValueError(f"cups must be at least 1, got {self.cups}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table to drink it at."""

    legs: int = setting(4, help="The table has this many legs.")


POT = settings_of(Pot(), table="pot")
SETTINGS = (*POT, *settings_of(Table(), table="table"))
