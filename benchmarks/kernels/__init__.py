"""Compares attention and page moves with what the device can do."""
