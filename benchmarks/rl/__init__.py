"""Measures what training pays to serve in the same loop."""
