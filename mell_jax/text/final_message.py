"""A text ends inside the last message, so that a model goes on with it.

Templates end every message; where the last one's text ends is found by a tag that is
put behind it, as transformers does:

    "Once" -> template("Once TAG") -> "...assistant\\nOnce TAG<|im_end|>" -> "...Once"
"""

from collections.abc import Callable
from typing import Any, final

import msgspec

from mell_jax.text.chat_template import ChatTemplateError, Variables
from mell_jax.text.conversation import text_parts


@final
class FinalMessage:
    """The last message of variables, which has a text."""

    def __init__(self, variables: Variables, *, tag: str) -> None:
        """Looks at the last message.

        Args:
          variables: of a conversation that continues.
          tag: that nobody can guess.
        """
        self._variables = variables
        self._tag = f"{tag} "  # the space shows whether the template trims
        self._content: Any = variables.messages[-1].get("content") or ""
        self._parts = text_parts(self._content)
        self._text = str(self._parts[-1]["text"] if self._parts else self._content)

    def tagged(self) -> Variables:
        """Returns the variables with the tag behind the last text."""
        *before, last = self._variables.messages
        text = self._text + self._tag
        content: Any = text
        if self._parts:
            content = [
                {**part, "text": text} if part is self._parts[-1] else part
                for part in self._content
            ]
        messages = [*before, {**last, "content": content}]
        return msgspec.structs.replace(self._variables, messages=messages)

    def cut(self, text: str, *, remove_marks: Callable[[str], str]) -> str:
        """Returns a template's text up to where the last message's text ends.

        Raises:
          ChatTemplateError: the text is not there as it was said.
        """
        bare = self._tag.strip()
        where = text.rfind(bare)
        said = remove_marks(self._text).strip()
        if where < 0 or said not in remove_marks(text[:where]):
            raise ChatTemplateError(
                "end with a text that the model's chat template changes or leaves out: "
                "it cannot be continued"
            )
        is_kept = text.startswith(self._tag, where)
        before = text[:where] if is_kept else text[:where].rstrip()
        return before.replace(self._tag, "").replace(bare, "")  # written twice
