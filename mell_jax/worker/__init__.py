"""The hands of one device: resident state, compiled steps and the sampler."""
