"""How a server shows what it does: log, spans, health, and whether it makes progress.

Nothing here decides anything about a request; figures are in `serving/metrics`.
"""
