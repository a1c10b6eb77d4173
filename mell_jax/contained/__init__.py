"""Work that may hang, grow or crash is done in a process that can be ended.

    ContainedProcess.ask(message) -> [socket] -> contained.child.serve(...) -> answer

Nothing here knows what the work is: see `mell_jax.text.template_process` and
`mell_jax.grammar.check`.
"""
