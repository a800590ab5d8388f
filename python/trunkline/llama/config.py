"""The shape of a Llama."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch


@dataclass(frozen=True)
class LlamaConfig:
    """Sizes and constants of a Llama; the defaults are Llama 3 8B's.

    ``rope_scaling`` is None, ``("linear", factor)`` or ``("llama3", factor, low_freq_factor, high_freq_factor,
    original_max_position_embeddings)``.
    """

    vocab_size: int = 128256
    hidden_size: int = 4096
    intermediate_size: int = 14336
    num_layers: int = 32
    num_qo_heads: int = 32
    num_kv_heads: int = 8
    head_dim: int = 128
    rms_norm_eps: float = 1e-5
    rope_theta: float = 500000.0
    rope_scaling: tuple[Any, ...] | None = None
    tie_word_embeddings: bool = False
    max_position_embeddings: int = 8192

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LlamaConfig:
        """From a transformers configuration as a dict (``config.to_dict()`` or a ``config.json``).

        Raises
        ------
        ValueError
            For a model that is not this Llama: another type or activation, biases, another rope.
        """
        for name, expected in (("model_type", "llama"), ("hidden_act", "silu")):
            if values.get(name, expected) != expected:
                raise ValueError(f"{name}: expected '{expected}', got '{values[name]}'")
        for name in ("attention_bias", "mlp_bias"):
            if values.get(name):
                raise ValueError(f"{name}: expected False, got True")
        rope = dict(values.get("rope_parameters") or values.get("rope_scaling") or {})
        num_heads = values["num_attention_heads"]
        return cls(
            vocab_size=values["vocab_size"],
            hidden_size=values["hidden_size"],
            intermediate_size=values["intermediate_size"],
            num_layers=values["num_hidden_layers"],
            num_qo_heads=num_heads,
            num_kv_heads=values.get("num_key_value_heads") or num_heads,
            head_dim=values.get("head_dim") or values["hidden_size"] // num_heads,
            rms_norm_eps=values.get("rms_norm_eps", 1e-6),
            rope_theta=rope.get("rope_theta") or values.get("rope_theta", 10000.0),
            rope_scaling=_rope_scaling(rope),
            tie_word_embeddings=values.get("tie_word_embeddings", False),
            max_position_embeddings=values.get("max_position_embeddings", 2048),
        )

    @classmethod
    def from_folder(cls, folder: str | Path) -> LlamaConfig:
        """From the ``config.json`` of a model folder."""
        return cls.from_dict(json.loads((Path(folder) / "config.json").read_text()))

    def inverse_frequencies(self) -> torch.Tensor:
        """Radians per position of each pair of dimensions, f32 ``[head_dim / 2]``."""
        exponents = torch.arange(0, self.head_dim, 2, dtype=torch.int64).float() / self.head_dim
        frequencies = 1.0 / self.rope_theta**exponents
        if self.rope_scaling is None:
            return frequencies
        kind, factor, *rest = self.rope_scaling
        if kind == "linear":
            return frequencies / factor
        # llama3: long wavelengths are stretched, short ones kept, those between blended.
        low, high, original = rest
        wavelengths = 2 * math.pi / frequencies
        kept = ((original / wavelengths - low) / (high - low)).clamp(0, 1)
        return frequencies * kept + frequencies / factor * (1 - kept)


def _rope_scaling(rope: Mapping[str, Any]) -> tuple[Any, ...] | None:
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return None
    if kind == "linear":
        return ("linear", float(rope["factor"]))
    if kind == "llama3":
        names = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
        return ("llama3", *(float(rope[name]) for name in names))
    raise ValueError(f"rope_type: expected 'default', 'linear' or 'llama3', got '{kind}'")
