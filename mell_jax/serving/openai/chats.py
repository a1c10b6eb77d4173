"""Which chat template each model has, as its files and the operator say."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from mell_jax.serving.servicer import ServedModel
from mell_jax.text.chat_prompt import ChatPrompt
from mell_jax.text.chat_template import load_chat_template


def load_chats(
    models: Sequence[ServedModel], *, templates: Sequence[str]
) -> dict[str, ChatPrompt]:
    """Of the models that have a tokenizer and a template, by name.

    Args:
      models: that are served.
      templates: "file" for all models, or "name=file" for one.

    Raises:
      ValueError: a template is no template, or is for a model that is not served.
      OSError: a file cannot be read.
    """
    paths = _paths_of(templates)
    if unknown := set(paths) - {"", *(model.name for model in models)}:
        raise ValueError(
            f"chat_template names {sorted(unknown)[0]!r}, which is not served"
        )
    chats = {}
    for model in models:
        if model.tokenizer is None or model.tokenizer_dir is None:
            continue
        override = paths.get(model.name, paths.get(""))
        template = load_chat_template(model.tokenizer_dir, override=override)
        if template is not None:
            chats[model.name] = ChatPrompt(model.tokenizer, template=template)
    return chats


def _paths_of(templates: Sequence[str]) -> Mapping[str, Path]:
    """Paths by model; that of "" is for all others."""
    paths = {}
    for text in templates:
        name, is_named, path = text.partition("=")
        paths[name if is_named else ""] = Path(path if is_named else text)
    return paths
