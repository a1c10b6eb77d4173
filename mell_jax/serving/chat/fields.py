"""Every field that clients know is honoured, harmless or refused: one table per route.

    honoured  it is read, and the answer is as it says
    harmless  it changes nothing of an answer, whatever its value
    refused   it asks for what this server does not have; 400 names it and the way out,
              unless its value asks for nothing

A field that is in no list is unknown: it is passed over, and the answer says so.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import final

from mell_jax.engine.params import InvalidRequestError


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A refused field has a way out, and values that ask for nothing; null always does.

    Attributes:
      way_out: what to do in place of it.
      neutral: with these nothing is asked for.
    """

    way_out: str = "leave it out"
    neutral: tuple[object, ...] = ()

    def asks(self, value: object) -> bool:
        """Returns whether a value asks for something."""
        return value is not None and not any(
            value == each and isinstance(value, bool) == isinstance(each, bool)
            for each in self.neutral
        )


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Fields:
    """A route, or an object inside a body, knows these fields.

    Attributes:
      inside: the fields of objects, or of lists of objects, that are honoured.
    """

    honoured: frozenset[str]
    harmless: frozenset[str] = field(default_factory=frozenset)
    refused: Mapping[str, Refusal] = field(default_factory=dict)
    inside: Mapping[str, "Fields"] = field(default_factory=dict)

    def knows(self, name: str) -> bool:
        """Returns whether a field is in any of the lists."""
        return name in self.honoured or name in self.harmless or name in self.refused

    def check(self, name: str, value: object, *, inside: str = "") -> None:
        """Refuses a field that asks for what is not there.

        Args:
          name: of the field.
          value: what it says.
          inside: the place of its object in the body, "text" or "tools[1]"; empty for
            the body itself.

        Raises:
          InvalidRequestError: names the field and the way out.
        """
        refusal = self.refused.get(name)
        if refusal is None or not refusal.asks(value):
            return
        top, bracket, rest = inside.partition("[")
        said = f" with {value!r:.60}" if refusal.neutral else ""
        rule = f"is not supported here{said}; {refusal.way_out}"
        if inside:
            rule = f"{bracket}{rest} has {name}, which {rule}".lstrip()
        raise InvalidRequestError(top or name, rule)

    def look_inside(self, name: str, value: object) -> set[str]:
        """Checks the objects of a field, and returns names in them that nobody knows.

        Raises:
          InvalidRequestError: names the field and the way out.
        """
        known, unknown = self.inside[name], set[str]()
        objects = {name: value}
        if isinstance(value, list):
            objects = {f"{name}[{i}]": each for i, each in enumerate(value)}
        for where, each in objects.items():
            if isinstance(each, Mapping):
                for inner, said in each.items():
                    known.check(inner, said, inside=where)
                    if not known.knows(inner):
                        unknown.add(f"{name}.{inner}")
        return unknown
