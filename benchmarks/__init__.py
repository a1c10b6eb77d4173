"""Measurements of the engine, one folder per part; `python -m benchmarks --help`."""
