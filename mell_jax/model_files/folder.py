"""Shows a model as a folder of files, also where it is a single GGUF file.

folder / "tokenizer.json"   lies in the directory, or beside the GGUF file,
                            or else is made of what is inside it
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, final

from mell_jax.model_files.gguf_file import GgufHead, read_head
from mell_jax.model_files.gguf_path import find_gguf
from mell_jax.model_files.gguf_tokenizer import makers_of


class File(Protocol):
    """A file can be read, if it is there; as a string it is its place, for messages."""

    @property
    def name(self) -> str: ...

    def is_file(self) -> bool: ...

    def read_bytes(self) -> bytes: ...

    def read_text(self, encoding: str) -> str: ...


class Folder(Protocol):
    """A folder has files by name; as a string it is its place, for messages."""

    def __truediv__(self, name: str, /) -> File: ...


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class MadeFile:
    """A made file is what a GGUF file says, in the words of another format."""

    path: Path
    name: str
    make: Callable[[], bytes]

    def __str__(self) -> str:
        return f"{self.path} ({self.name})"

    def is_file(self) -> bool:
        return True

    def read_bytes(self) -> bytes:
        """Returns the contents, made anew.

        Raises:
          GgufError: the file does not say enough, or nothing that is known.
        """
        return self.make()

    def read_text(self, encoding: str) -> str:
        return self.read_bytes().decode(encoding)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class GgufFolder:
    """The folder around a GGUF file; files that lie in it win."""

    head: GgufHead

    def __str__(self) -> str:
        return str(self.head.path)

    def __truediv__(self, name: str, /) -> File:
        beside = self.head.path.parent / name
        make = makers_of(self.head).get(name)
        if make is None or beside.is_file():
            return beside
        return MadeFile(path=self.head.path, name=name, make=make)


def open_folder(model: Path) -> Folder:
    """Returns the files of a model, which is a directory or a GGUF file.

    Raises:
      GgufError: it is a file, and not a whole GGUF file.
    """
    path = find_gguf(model)
    return model if path is None else GgufFolder(head=read_head(path))
