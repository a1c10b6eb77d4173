"""Parts of the library door: what an `LLM` does besides answering."""
