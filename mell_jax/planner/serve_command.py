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
        shlex.join(
            _words(
                option, count=count, fill=fill, policy=offer.trial.policy, model=model
            )
        )
        for option, count, fill in zip(
            offer.options, offer.trial.fleet, offer.trial.fills, strict=True
        )
        if count
    ]


def _words(
    option: Option, *, count: int, fill: float, policy: str, model: str
) -> list[str]:
    words = ["mell-serve", f"--model={model}"]
    if option.width > 1:
        words.append(f"--mesh={count}x{option.width}")
    elif count > 1:
        words.append(f"--devices={count}")
    words += [
        f"--max_rows={option.profile.max_rows}",
        f"--token_budget={option.profile.token_budget}",
    ]
    if fill < 1:  # by default all of the memory
        pages = int(fill * option.profile.capacity_tokens) // option.profile.page_tokens
        words.append(f"--kv_pages={pages}")
    if policy != DEFAULT_POLICY:
        words.append(f"--policy={policy}")
    return words
