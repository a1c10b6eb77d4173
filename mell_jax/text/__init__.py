"""Everything between text and token ids, for both doors; imports no jax.

text -> `Tokenizer.encode` -> ids -> engine -> ids -> `OutputText.add` -> text
"""
