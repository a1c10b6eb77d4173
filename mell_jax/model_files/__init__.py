"""Finds the files of a model, in its directory or inside one GGUF file."""
