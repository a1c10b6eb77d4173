"""Protocols without a published Python package, and what `make protos` made of them.

`mell_admin.proto` is ours; `open_inference.proto` restates a public protocol.
"""
