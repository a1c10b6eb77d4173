"""Says how to serve what was planned: one `mell-serve` for each kind of device."""

import shlex

from mell_jax.planner.option import Option
from mell_jax.planner.question import Offer

DEFAULT_POLICY = "consolidate"


def serve_commands(offer: Offer, *, model: str) -> list[str]:
    """Returns a command for each option of an offer.

    Args:
      model: the directory that is served.
    """
    return [
        shlex.join(_words(option, count=count, policy=offer.trial.policy, model=model))
        for option, count in offer.instances.items()
    ]


def _words(option: Option, *, count: int, policy: str, model: str) -> list[str]:
    words = ["mell-serve", f"--model={model}"]
    if option.width > 1:
        words.append(f"--mesh={count}x{option.width}")
    elif count > 1:
        words.append(f"--devices={count}")
    words += [
        f"--max_rows={option.profile.max_rows}",
        f"--token_budget={option.profile.token_budget}",
    ]
    if policy != DEFAULT_POLICY:
        words.append(f"--policy={policy}")
    return words
