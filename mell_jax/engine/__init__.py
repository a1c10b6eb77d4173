"""The engine turns submitted requests into frames of token ids."""
