"""Keeps the small programs of updates, compiled: a second update finds them here."""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Any, final

import jax

from mell_jax.worker.settings import number_settings

MOST = 2048
"""So many programs are kept; a mapping of functions made anew each time fills it."""


@final
class ProgramCache:
    """Compiled programs by what they do and what they are given, the last ones used."""

    def __init__(self) -> None:
        self._programs: OrderedDict[Hashable, Any] = OrderedDict()

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
        key = (what, given, out, bool(over))
        if key not in self._programs:
            # What the program around it has set is no part of the key.
            with number_settings():
                jitted = jax.jit(
                    function,
                    out_shardings=out,
                    donate_argnums=range(len(over)),
                    keep_unused=bool(over),
                )
                self._programs[key] = jitted.lower(*over, *arguments).compile()
            if len(self._programs) > MOST:
                self._programs.popitem(last=False)
        self._programs.move_to_end(key)
        return self._programs[key]
