"""Each model has a chat template, as its files and the operator say."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from mell_jax.serving.served_model import ServedModel
from mell_jax.text.chat_prompt import ChatPrompt
from mell_jax.text.chat_template import check_chat_template, load_chat_template


def check_chats(templates: Sequence[str], *, names: Sequence[str]) -> None:
    """Finds out early whether the operator's templates can be used.

    Args:
      templates: see `load_chats`.
      names: of the models that will be served.

    Raises:
      ValueError: a template is no template, or is for a model that is not served.
      OSError: a file cannot be read.
    """
    for path in _checked_paths(templates, names=names).values():
        check_chat_template(path)


def load_chats(
    models: Sequence[ServedModel], *, templates: Sequence[str]
) -> dict[str, ChatPrompt]:
    """Returns chat prompts by model, for those that have a tokenizer and a template.

    Args:
      models: that are served.
      templates: "file" for all models, or "name=file" for one.

    Raises:
      ValueError: a template is no template, or is for a model that is not served.
      OSError: a file cannot be read.
    """
    paths = _checked_paths(templates, names=[model.name for model in models])
    chats = {}
    for model in models:
        if model.tokenizer is None or model.tokenizer_dir is None:
            continue
        override = paths.get(model.name, paths.get(""))
        template = load_chat_template(model.tokenizer_dir, override=override)
        if template is not None:
            chats[model.name] = ChatPrompt(model.tokenizer, template=template)
    return chats


def _checked_paths(
    templates: Sequence[str], *, names: Sequence[str]
) -> Mapping[str, Path]:
    """Returns paths by model; that of "" is for all others."""
    paths = {}
    for text in templates:
        name, is_named, path = text.partition("=")
        paths[name if is_named else ""] = Path(path if is_named else text)
    if unknown := set(paths) - {"", *names}:
        raise ValueError(
            f"chat_template names {sorted(unknown)[0]!r}, which is not served"
        )
    return paths
