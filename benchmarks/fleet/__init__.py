"""Measures a fleet under a trace, and what moving requests costs."""
