"""What transformers makes of a real model: python real_model_goldens.py FILE.gguf

The reference shares nothing with mell_jax: the package `gguf` reads and dequantises the
file, queries and keys are put back as transformers does it, and its Llama computes in
float32. Written to `real_model.json`, for machines without torch.
"""

import json
import sys
from pathlib import Path
from typing import Any

GOLDENS = Path(__file__).parent / "real_model.json"
NEW_TOKENS = 64
SMALLEST_GAP = 1e-2
"""Between the best two logits of a step, so that rounding cannot choose."""
PROMPTS = (
    "Once upon a time, in a small village by the sea, there lived",
    "The capital of France is",
    "def fibonacci(n):\n",
)
CHATS = (
    ("What is the capital of France?", "Paris"),
    ("How many days are in a week?", "7"),
)


def reference(path: Path) -> tuple[Any, Any]:
    """The model and the tokenizer in a file."""
    import gguf  # noqa: PLC0415 (slow, and missing where there is no torch)
    import torch  # noqa: PLC0415
    from transformers import (  # noqa: PLC0415
        AutoTokenizer,
        LlamaConfig,
        LlamaForCausalLM,
    )

    reader = gguf.GGUFReader(path)

    def value(name: str) -> Any:
        return reader.fields[f"llama.{name}"].contents()

    heads, kv_heads = value("attention.head_count"), value("attention.head_count_kv")
    config = LlamaConfig(
        vocab_size=value("vocab_size"),
        hidden_size=value("embedding_length"),
        intermediate_size=value("feed_forward_length"),
        num_hidden_layers=value("block_count"),
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=value("context_length"),
        rms_norm_eps=value("attention.layer_norm_rms_epsilon"),
        rope_theta=value("rope.freq_base"),
        tie_word_embeddings=True,
    )
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    model = LlamaForCausalLM(config)
    ours = {
        names.get_name(key, try_suffixes=(".weight",)): key
        for key in model.state_dict()
        if key != "lm_head.weight"
    }
    state = {}
    for tensor in reader.tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        for part, count in (("attn_q.", heads), ("attn_k.", kv_heads)):
            if part in tensor.name:
                half = values.shape[0] // count // 2
                pairs = values.reshape(count, half, 2, -1).swapaxes(1, 2)
                values = pairs.reshape(values.shape)
        state[ours[tensor.name]] = torch.from_numpy(values.copy())
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert (missing, unexpected) == (["lm_head.weight"], []), (missing, unexpected)
    model.tie_weights()
    model.generation_config.eos_token_id = None
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    return model.eval(), tokenizer


def greedy(
    model: Any, prompt_ids: list[int], **options: Any
) -> tuple[list[int], float]:
    """The ids of an answer, and the smallest gap between its best two logits."""
    import torch  # noqa: PLC0415

    with torch.inference_mode():
        done = model.generate(
            torch.tensor([prompt_ids]),
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
            pad_token_id=0,
            **options,
        )
    best = [step[0].topk(2).values for step in done.logits]
    return done.sequences[0][len(prompt_ids) :].tolist(), min(
        float(first - second) for first, second in best
    )


def make(path: Path, *, prompts: int | None = None) -> dict[str, Any]:
    """All answers of the reference, or to the first prompts alone."""
    model, tokenizer = reference(path)
    completions = []
    for text in PROMPTS[:prompts]:
        prompt_ids = tokenizer(text).input_ids
        ids, gap = greedy(model, prompt_ids)
        completions.append({"text": text, "prompt_ids": prompt_ids, "ids": ids})
        print(f"{gap:.4f} {text!r} -> {tokenizer.decode(ids)!r}")
        assert gap > SMALLEST_GAP, "two tokens are nearly a tie: take another prompt"
    chats = []
    for question, word in () if prompts else CHATS:
        prompt_ids = tokenizer.apply_chat_template(
            [{"role": "user", "content": question}],
            add_generation_prompt=True,
            return_dict=True,
        )["input_ids"]
        ids, gap = greedy(model, prompt_ids, eos_token_id=tokenizer.eos_token_id)
        answer = tokenizer.decode(ids, skip_special_tokens=True)
        print(f"{gap:.4f} {question!r} -> {answer!r}")
        assert word in answer, "the model does not know: ask something else"
        chats.append(
            {"question": question, "word": word, "prompt_tokens": len(prompt_ids)}
        )
    return {"completions": completions, "chats": chats}


if __name__ == "__main__":
    GOLDENS.write_text(json.dumps(make(Path(sys.argv[1])), indent=1) + "\n")
