"""Placement decides which request lives on which instance: events in, a plan out."""
