"""Keeps what a first update found out and compiled: a second one finds it here."""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Generic, TypeVar, final

import jax

from mell_jax.worker.settings import number_settings

MOST = 2048
"""So many programs are kept; a mapping of functions made anew each time fills it."""

T = TypeVar("T")


@final
class Recent(Generic[T]):
    """The last values that were used, by their keys.

    Args:
      most: so many.
    """

    def __init__(self, *, most: int) -> None:
        self._most = most
        self._values: OrderedDict[Hashable, T] = OrderedDict()

    def get(self, key: Hashable, *, make: Callable[[], T]) -> T:
        """Returns the value of a key, made if it is not there."""
        if key not in self._values:
            self._values[key] = make()
            if len(self._values) > self._most:
                self._values.popitem(last=False)
        self._values.move_to_end(key)
        return self._values[key]


@final
class ProgramCache:
    """Compiled programs by what they do and what they are given."""

    def __init__(self) -> None:
        self._programs: Recent[Any] = Recent(most=MOST)

    def get(
        self,
        what: Hashable,
        function: Callable[..., Any],
        arguments: Sequence[jax.ShapeDtypeStruct],
        *,
        out: Any = None,
        over: Sequence[jax.ShapeDtypeStruct] = (),
    ) -> Any:
        """Returns `function` compiled; it may be called from any thread.

        Args:
          what: names all that `function` does; equal ones are one program.
          function: of arrays.
          arguments: their shapes, types and shardings.
          out: shardings of its results; None leaves them to the compiler.
          over: arrays like its results, given before the arguments, whose memory
            becomes that of the results.
        """
        given = tuple((one.shape, one.dtype, one.sharding) for one in arguments)

        def compiled() -> Any:
            # What the program around it has set is no part of the key.
            with number_settings():
                jitted = jax.jit(
                    function,
                    out_shardings=out,
                    donate_argnums=range(len(over)),
                    keep_unused=bool(over),
                )
                return jitted.lower(*over, *arguments).compile()

        return self._programs.get((what, given, out, bool(over)), make=compiled)
