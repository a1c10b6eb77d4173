"""OpenAI's HTTP API stands over `frontend.generate`: completions, chat, models.

body --wire--> request --asking--> prompts, SamplingParams --generate--> deltas
deltas --answers--> chunks or one object --exchange--> HTTP, SSE
"""

from mell_jax.serving.openai.routes import OpenAiDoor

__all__ = ["OpenAiDoor"]
