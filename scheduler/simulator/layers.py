"""The layers of a model that is simulated, given as a pattern of windows that repeats.

1024,1024,1024,1024,1024,0   62 layers of it: 10 see everything, 52 have a window
"""

from collections.abc import Sequence

from mell_jax.scheduler.cache_layout import CacheLayout, lay_out


def read_layers(
    pattern: Sequence[str], *, num_layers: int | None, context_tokens: int | None
) -> CacheLayout:
    """Returns where the layers of `pattern` lie.

    Args:
      pattern: of windows in tokens, 0 for a layer that sees everything.
      num_layers: that the pattern is repeated for; by default it stands once.
      context_tokens: of the longest request; needed if there are windows.

    Raises:
      ValueError: an entry is no window, or the three do not go together.
    """
    windows = [_window(text) for text in pattern]
    count = len(windows) if num_layers is None else num_layers
    if not (1 <= len(windows) <= count):
        raise ValueError(
            f"--layer_windows has {len(windows)} windows for {count} layers: give one "
            "at least and no more than --num_layers"
        )
    if context_tokens is None:
        if any(window is not None for window in windows):
            raise ValueError(
                "--layer_windows needs --context_tokens, of the longest request that "
                "the model serves: how layers are grouped depends on it"
            )
        context_tokens = 1  # nothing depends on it
    repeated = [windows[layer % len(windows)] for layer in range(count)]
    return lay_out(repeated, context=context_tokens)


def _window(text: str) -> int | None:
    if not text.strip().isdecimal():
        raise ValueError(
            "--layer_windows must be whole numbers of tokens, 0 for a layer that sees "
            f"everything, as in 1024,1024,0; got {text!r}"
        )
    return int(text) or None
