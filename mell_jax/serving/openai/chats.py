"""Each model has a chat template, as its files and the operator say."""

import contextlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from absl import logging

from mell_jax.serving.served_model import ServedModel
from mell_jax.text.chat_prompt import ChatPrompt
from mell_jax.text.special_tokens import SpecialTokens
from mell_jax.text.template_process import TemplateProcess
from mell_jax.text.template_source import find_template, read_template


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
        source = read_template(path, special=SpecialTokens())
        with contextlib.closing(TemplateProcess(source)) as template:
            template.check()


def load_chats(
    models: Sequence[ServedModel],
    *,
    templates: Sequence[str],
    ends: Mapping[str, Collection[int]],
    stack: contextlib.ExitStack,
) -> dict[str, ChatPrompt]:
    """Returns chat prompts by model, for those that have a tokenizer and a template.

    Args:
      models: that are served.
      templates: "file" for all models, or "name=file" for one.
      ends: the tokens that end a text, by model; a template whose answers end with
        another one is warned of.
      stack: ends the templates' processes.

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
        source = find_template(model.tokenizer_dir, override=override)
        if source is not None:
            template = stack.enter_context(contextlib.closing(TemplateProcess(source)))
            template.check()
            chat = ChatPrompt(model.tokenizer, template=template)
            _warn_of_turn_end(chat, name=model.name, ends=ends[model.name])
            chats[model.name] = chat
    return chats


def _warn_of_turn_end(chat: ChatPrompt, *, name: str, ends: Collection[int]) -> None:
    found = chat.find_turn_end()
    if found is not None and found[0] not in ends:
        logging.warning(
            "the chat template of %s ends an answer with %s (id %d), which ends no "
            "text by config.json, generation_config.json and the tokenizer: answers "
            "will go on behind it; add %d to eos_token_id",
            name,
            found[1],
            found[0],
            found[0],
        )


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
