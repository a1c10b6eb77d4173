"""Measures decoding, host overhead and start-up of one instance."""
