"""Programs by others use `LLM` by what stands here, each under its own name."""
