"""Each model speaks as its files and the operator say."""

import contextlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from absl import logging

from mell_jax.serving.chat.speech import Speech
from mell_jax.serving.served_model import ServedModel
from mell_jax.text.answers import FORMATS, find_format, find_reasoning
from mell_jax.text.chat_prompt import ChatPrompt
from mell_jax.text.special_tokens import SpecialTokens
from mell_jax.text.template_process import TemplateProcess
from mell_jax.text.template_source import find_template, read_template


def check_chats(
    templates: Sequence[str],
    *,
    names: Sequence[str],
    tool_formats: Sequence[str] = (),
) -> None:
    """Finds out early whether the operator's templates and formats can be used.

    Args:
      templates: see `load_speeches`.
      names: of the models that will be served.
      tool_formats: see `load_speeches`.

    Raises:
      ValueError: a format is unknown, a template is no template, or is for a model that
        is not served.
      OSError: a file cannot be read.
    """
    checked_formats(tool_formats, names=names)
    for path in _checked_paths(templates, names=names).values():
        source = read_template(path, special=SpecialTokens())
        with contextlib.closing(TemplateProcess(source)) as template:
            template.check()


def load_speeches(
    models: Sequence[ServedModel],
    *,
    templates: Sequence[str],
    tool_formats: Sequence[str] = (),
    ends: Mapping[str, Collection[int]],
    stack: contextlib.ExitStack,
) -> dict[str, Speech]:
    """Returns how models speak, by name, of those with a tokenizer and a template.

    Args:
      models: that are served.
      templates: "file" for all models, or "name=file" for one.
      tool_formats: "format" for all models, or "name=format" for one; of others it is
        found from the template.
      ends: the tokens that end a text, by model; a template whose answers end with
        another one is warned of.
      stack: ends the templates' processes.

    Raises:
      ValueError: a template is no template, or is for a model that is not served.
      OSError: a file cannot be read.
    """
    names = [model.name for model in models]
    paths = _checked_paths(templates, names=names)
    forms = checked_formats(tool_formats, names=names)
    speeches = {}
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
            found = forms.get(model.name, forms.get("")) or find_format(source.text)
            speeches[model.name] = Speech(
                chat=chat,
                tokenizer=model.tokenizer,
                form=FORMATS[found] if found else None,
                reasoning=find_reasoning(source.text),
            )
    return speeches


def checked_formats(
    tool_formats: Sequence[str], *, names: Sequence[str]
) -> Mapping[str, str]:
    """Returns names of formats by model; that of "" is for all others.

    Raises:
      ValueError: there is no such format, or no such model.
    """
    forms = _by_model(tool_formats, names=names, option="tool_format")
    for form in forms.values():
        if form not in FORMATS:
            raise ValueError(
                f"tool_format must be one of {', '.join(FORMATS)}, got {form!r:.60}"
            )
    return forms


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
    paths = _by_model(templates, names=names, option="chat_template")
    return {name: Path(path) for name, path in paths.items()}


def _by_model(
    texts: Sequence[str], *, names: Sequence[str], option: str
) -> Mapping[str, str]:
    """Returns what is said of each model; "" of all others."""
    said = {}
    for text in texts:
        name, is_named, value = text.partition("=")
        said[name if is_named else ""] = value if is_named else text
    if unknown := set(said) - {"", *names}:
        raise ValueError(f"{option} names {sorted(unknown)[0]!r}, which is not served")
    return said
