"""Operators have doors of their own: `mell.v1.Admin`, and HTTP routes for trainers.

    message -> asked   ->.                                   .-> convert -> message
    JSON    -> trainer ->'-> Controls -> EngineThread.ask -> '-> trainer -> JSON

They run in the engine's process on threads of their own, so they answer when front ends
are busy, and no public port has them.
"""
