"""Measures what grammars cost, and what they save."""
