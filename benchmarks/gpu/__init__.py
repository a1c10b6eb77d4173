"""Measures a GPU from launches to tokens in one run of bounded length."""
