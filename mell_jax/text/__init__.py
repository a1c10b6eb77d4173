"""Turns text into token ids and back, for every door; imports no jax.

text -> `Tokenizer.encode` -> ids -> engine -> ids -> `OutputText.add` -> text
"""
