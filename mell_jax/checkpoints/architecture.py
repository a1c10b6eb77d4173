"""Says why `architectures` names nothing that is served, and what it should name."""

from collections.abc import Mapping, Sequence

_HEADLESS = ("Model", "ForSequenceClassification", "ForTokenClassification")


def explain_architectures(
    named: Sequence[str], *, model_type: str, known: Mapping[str, str]
) -> str:
    """Returns the rule that `named` breaks, with the way out where there is one.

    Args:
      named: what the file has under `architectures`; empty where it has nothing.
      model_type: what it has under `model_type`; "" where it has nothing.
      known: the architectures that are served, and their model types.

    >>> explain_architectures(["LLaMAForCausalLM"], model_type="llama", known=KNOWN)
    "'LLaMAForCausalLM' is an older spelling: write LlamaForCausalLM"
    """
    served = f"must name one of {', '.join(known)}; found {list(named)}"
    of_type = [name for name, each in known.items() if each == model_type]
    if not named:
        way_out = (
            f'; by model_type ({model_type}) it is "architectures": ["{of_type[0]}"]'
            if of_type
            else f"; it must name one of {', '.join(known)}"
        )
        return f"is missing{way_out}"
    if len(named) > 1:
        return served
    (name,) = named
    for right in known:
        if right.casefold() == name.casefold():
            return f"{name!r} is an older spelling: write {right}"
    if of_type and name.endswith(_HEADLESS):
        return (
            f"is {name!r}, a model that makes no tokens: it was saved without a head "
            f"for them; take the checkpoint that is {of_type[0]}"
        )
    return served
