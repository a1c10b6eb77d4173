"""A server shows what it does here: log, spans, health, and progress.

Nothing here decides anything about a request; figures are in `serving/metrics`.
"""
