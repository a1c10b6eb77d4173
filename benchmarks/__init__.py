"""Measures the engine, one folder per part; see `python -m benchmarks --help`."""
