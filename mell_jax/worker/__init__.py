"""A worker is the hands of one instance: resident state, compiled steps, sampler."""
