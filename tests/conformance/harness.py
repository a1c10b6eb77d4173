"""lm-evaluation-harness scores texts, also without a context: python harness.py URL DIR

Its `local-completions` asks for the log probabilities of a prompt and echoes it; an
empty context is a prompt of one token. DIR has the demo model's tokenizer. Runs in an
environment of its own, without mell_jax.
"""

import math
import sys

from lm_eval.api.instance import Instance
from lm_eval.models.openai_completions import LocalCompletionsAPI

PAIRS = [
    ("", "Once upon a time"),
    ("", "O"),
    ("Once upon", " a time"),
    ("Once upon a time, there was a little", " girl"),
]


def check_scores(url: str, directory: str) -> None:
    """Raises what is wrong with a score."""
    model = LocalCompletionsAPI(
        base_url=f"{url}/v1/completions",
        model="demo",
        tokenizer=directory,
        tokenizer_backend="huggingface",
        batch_size=2,
        max_retries=1,
    )
    asked = [
        Instance("loglikelihood", doc={}, arguments=pair, idx=number)
        for number, pair in enumerate(PAIRS)
    ]
    scores = model.loglikelihood(asked)
    again = model.loglikelihood(asked)
    assert len(scores) == len(PAIRS), scores
    for (score, is_greedy), (other, _) in zip(scores, again, strict=True):
        assert math.isfinite(score) and score < 0, scores
        assert math.isclose(score, other, rel_tol=1e-3), (scores, again)
        assert isinstance(is_greedy, bool), scores
    whole = Instance("loglikelihood_rolling", doc={}, arguments=(PAIRS[0][1],), idx=0)
    (rolling,) = model.loglikelihood_rolling([whole])
    assert math.isclose(rolling, scores[0][0], rel_tol=1e-2), (rolling, scores[0])


if __name__ == "__main__":
    check_scores(*sys.argv[1:])
    print("every text has a score, with a context and without")
