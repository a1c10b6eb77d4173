"""Attention and page moves against what the device can do."""
