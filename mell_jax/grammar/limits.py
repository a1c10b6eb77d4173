"""Limits of one grammar are the same where it is checked and where it is followed."""

from llguidance import LLParserLimits


def limits() -> LLParserLimits:
    """Returns what a grammar may take: 64 MB of states, 20 ms of a step.

    Measured with 128,815 tokens; of ordinary schemas the largest, of 400 optional
    properties, takes a third of any of these.
    """
    return LLParserLimits(
        max_lexer_states=30_000,  # of 1 to 2 kB each
        max_grammar_size=200_000,
        initial_lexer_fuel=500_000,
        step_lexer_fuel=200_000,
        step_max_items=8_000,  # of 2 us each, and of ambiguous ones 20
        verbose_errors=False,
    )
