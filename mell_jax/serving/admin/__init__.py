"""The operator's door serves `mell.v1.Admin` on a port for this machine alone.

    message -> convert -> EngineThread.ask -> convert -> message

It runs in the engine's process on threads of its own, so it answers when front ends are
busy, and none of them can reach it.
"""
