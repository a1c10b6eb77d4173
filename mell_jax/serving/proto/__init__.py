"""`make protos` makes these from protocols without a published Python package.

`mell_admin.proto` is ours; `open_inference.proto` restates a public protocol.
"""
