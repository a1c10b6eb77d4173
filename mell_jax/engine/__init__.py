"""Intake, plan, step, emit: turns submitted requests into frames of token ids."""
