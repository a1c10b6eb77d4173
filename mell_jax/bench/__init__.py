"""Measures how a server, or an engine in this process, serves: `mell-bench`.

    serving   requests against a server or an engine in this process, as users see them
    decode    the engine beside its own bare step and beside transformers
    overhead  what the engine's host side adds to a step, and where it goes
    startup   seconds until ready, with an empty and a filled compilation cache

Every figure that is printed can also be written as JSON, with the settings and the
machine that it belongs to.
"""
