"""What a request says of tools is checked once."""

import pytest

from mell_jax.text.answers import Choice, Tool, Toolbox, ToolChoice


@pytest.mark.parametrize("name", ["a", "get-weather_2", "x" * 64])
def test_names_are_those_of_openai(name: str) -> None:
    assert Tool(name=name).name == name


@pytest.mark.parametrize(
    "name", ["", "x" * 65, 'a"b', "a b", "a.b", "\u00e9", "a\n", 3]
)
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="a tool's name must have 1 to 64"):
        Tool(name=name)


@pytest.mark.parametrize("parameters", [{"type": "array"}, [], None, "x"])
def test_parameters_are_the_schema_of_an_object(parameters: object) -> None:
    with pytest.raises(
        ValueError, match="parameters of the tool f must be a JSON schema"
    ):
        Tool(name="f", parameters=parameters)  # type: ignore[arg-type]


def test_parameters_without_a_type_are_an_object() -> None:
    assert Tool(name="f", parameters={}).schema == {"type": "object"}


def test_tools_are_at_most_128() -> None:
    tools = [Tool(name=f"f{number}") for number in range(129)]
    assert len(Toolbox(tools=tools[:128]).callable) == 128
    with pytest.raises(ValueError, match="at most 128, got 129"):
        Toolbox(tools=tools)


def test_names_are_different() -> None:
    with pytest.raises(ValueError, match="two are f"):
        Toolbox(tools=[Tool(name="f"), Tool(name="g"), Tool(name="f")])


def test_a_choice_is_among_the_tools() -> None:
    f, g = Tool(name="f"), Tool(name="g")
    assert list(Toolbox(tools=[f, g]).callable) == ["f", "g"]
    assert list(Toolbox(tools=[f, g], choice=ToolChoice.named("g")).callable) == ["g"]
    none = Toolbox(tools=[f], choice=ToolChoice(kind=Choice.NONE))
    assert none.callable == {}
    with pytest.raises(ValueError, match="the chosen tool 'h' is none of"):
        Toolbox(tools=[f, g], choice=ToolChoice.named("h"))
    with pytest.raises(ValueError, match="a tool is required and there is none"):
        Toolbox(tools=[], choice=ToolChoice(kind=Choice.REQUIRED))


@pytest.mark.parametrize(("kind", "name"), [(Choice.NAMED, ""), (Choice.AUTO, "f")])
def test_a_name_is_there_if_it_is_wanted(kind: Choice, name: str) -> None:
    with pytest.raises(ValueError, match="has a name if it is named"):
        ToolChoice(kind=kind, name=name)
