"""Small random models for the tests: every token depends on the whole prompt."""

from __future__ import annotations

import torch
import transformers

SIZES = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,  # the usual 0.02 would make logits of random weights nearly constant
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": None,
    "tie_word_embeddings": False,
}

FAMILIES = {
    "llama": (transformers.LlamaConfig, {}),
    "llama_mha": (transformers.LlamaConfig, {"num_key_value_heads": 4}),
    "llama_mqa_d24": (transformers.LlamaConfig, {"num_key_value_heads": 1, "head_dim": 24}),
    "qwen2": (transformers.Qwen2Config, {"use_sliding_window": False}),
    "qwen3": (transformers.Qwen3Config, {"head_dim": 32}),
    "mistral": (transformers.MistralConfig, {"sliding_window": None}),
}


def make_model(family: str, attention: str = "eager", seed: int = 0, **options) -> transformers.PreTrainedModel:
    """The same weights for the same family, seed and options, whatever the attention."""
    config_class, own = FAMILIES[family]
    torch.manual_seed(seed)
    config = config_class(**{**SIZES, **own, **options})
    return transformers.AutoModelForCausalLM.from_config(config, attn_implementation=attention).float().eval()


def prompts_with_shared_prefixes(seed: int = 0) -> list[list[int]]:
    """A shared beginning of 11 tokens, a branch of two within it, an identical pair, a prefix of another, a loner."""
    generator = torch.Generator().manual_seed(seed)

    def tokens(n: int) -> list[int]:
        return torch.randint(2, SIZES["vocab_size"], (n,), generator=generator).tolist()

    system, branch = tokens(11), tokens(6)
    first = system + branch + tokens(3)
    return [first, system + branch + tokens(5), system + tokens(2), first, system + branch, tokens(9)]


def left_padded(prompts: list[list[int]], pad: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """input_ids and attention_mask."""
    width = max(map(len, prompts))
    ids = torch.tensor([[pad] * (width - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    return ids, mask
