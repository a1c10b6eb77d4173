"""Comparisons of policies, as tables, plots and the results page.

compare -> RunOutcome -> plot                    (`mell-simulate --policies=...`)
cases -> publish -> compare -> page -> RESULTS.md      (`mell-simulate --results`)
scale                                             (`mell-simulate --scale`)
"""
