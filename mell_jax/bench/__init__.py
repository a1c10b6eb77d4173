"""Measures how a server, or an engine in this process, serves: `mell-bench`.

Requests are sent as users send them, figures are those that users feel. Every figure
that is printed can also be written as JSON, with the settings and the machine that it
belongs to.
"""
