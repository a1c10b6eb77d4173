"""What was found out once is there the next time, if that is not too long ago."""

from mell_jax.engine.weights.programs import Recent


def test_the_last_ones_that_were_used_are_kept() -> None:
    recent: Recent[str] = Recent(most=2)
    made: list[str] = []

    def get(key: str) -> str:
        return recent.get(key, make=lambda: made.append(key) or f"{key}!")

    assert [get(key) for key in "abab"] == ["a!", "b!", "a!", "b!"]
    assert made == ["a", "b"]
    get("a")
    get("c")  # b goes, which was used before a
    get("a")
    get("b")
    assert made == ["a", "b", "c", "b"]
