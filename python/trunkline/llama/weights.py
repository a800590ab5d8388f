"""Weights of a Llama, whole or one rank's part of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .config import LlamaConfig

# A checkpoint by parameter name ("model.layers.0.self_attn.q_proj.weight").
Lookup = Callable[[str], torch.Tensor]


@dataclass
class LayerWeights:
    """Matrices are ``[outputs, inputs]``; those that read the same input are one."""

    input_norm: torch.Tensor
    qkv: torch.Tensor  # this rank's query heads, then its key heads, then its value heads
    output: torch.Tensor
    mlp_norm: torch.Tensor
    gate_up: torch.Tensor
    down: torch.Tensor


@dataclass
class Weights:
    """The part of rank ``rank`` of ``world_size``: heads and the MLP's inner dimension are split, the rest is whole."""

    config: LlamaConfig
    embedding: torch.Tensor
    layers: list[LayerWeights]
    norm: torch.Tensor
    lm_head: torch.Tensor
    rank: int = 0
    world_size: int = 1

    @property
    def num_qo_heads(self) -> int:
        return self.config.num_qo_heads // self.world_size

    @property
    def num_kv_heads(self) -> int:
        return self.config.num_kv_heads // self.world_size

    @classmethod
    def from_lookup(
        cls,
        config: LlamaConfig,
        lookup: Lookup,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str = "cpu",
        rank: int = 0,
        world_size: int = 1,
    ) -> Weights:
        """Take the weights by their names in a transformers checkpoint.

        Parameters
        ----------
        config : LlamaConfig
        lookup : callable
            Name to tensor.
        dtype : torch.dtype, optional
            Default: as stored.
        device : torch.device or str
        rank, world_size : int
            Which part to keep; world_size divides the heads and the MLP's inner dimension.
        """
        for name in ("num_kv_heads", "num_qo_heads", "intermediate_size"):
            if getattr(config, name) % world_size:
                raise ValueError(f"world_size: expected a divisor of {name} {getattr(config, name)}, got {world_size}")

        def get(name: str) -> torch.Tensor:
            return lookup(name).detach().to(device=device, dtype=dtype)

        def split(name: str, dim: int) -> torch.Tensor:
            return lookup(name).detach().chunk(world_size, dim)[rank].to(device=device, dtype=dtype)

        layers = []
        for i in range(config.num_layers):
            layer = f"model.layers.{i}."
            qkv = [split(f"{layer}self_attn.{part}_proj.weight", 0) for part in "qkv"]
            gate_up = [split(f"{layer}mlp.{part}_proj.weight", 0) for part in ("gate", "up")]
            layers.append(
                LayerWeights(
                    input_norm=get(layer + "input_layernorm.weight"),
                    qkv=torch.cat(qkv),
                    output=split(layer + "self_attn.o_proj.weight", 1).contiguous(),
                    mlp_norm=get(layer + "post_attention_layernorm.weight"),
                    gate_up=torch.cat(gate_up),
                    down=split(layer + "mlp.down_proj.weight", 1).contiguous(),
                )
            )
        embedding = get("model.embed_tokens.weight")
        lm_head = embedding if config.tie_word_embeddings else get("lm_head.weight")
        return cls(config, embedding, layers, get("model.norm.weight"), lm_head, rank, world_size)

    @classmethod
    def from_transformers(cls, model: Any, **options: Any) -> Weights:
        """From a ``transformers.LlamaForCausalLM``; options as in :meth:`from_lookup`."""
        config = LlamaConfig.from_dict(model.config.to_dict())
        return cls.from_lookup(config, model.state_dict().__getitem__, **options)

    @classmethod
    def from_safetensors(cls, folder: str | Path, **options: Any) -> Weights:
        """From a folder with ``config.json`` and weights in ``*.safetensors``; options as in :meth:`from_lookup`."""
        from safetensors import safe_open

        folder = Path(folder)
        index = folder / "model.safetensors.index.json"
        if index.exists():
            file_of = json.loads(index.read_text())["weight_map"]
        else:
            with safe_open(folder / "model.safetensors", framework="pt") as file:
                file_of = dict.fromkeys(file.keys(), "model.safetensors")

        def lookup(name: str) -> torch.Tensor:
            if name not in file_of:
                raise ValueError(f"folder: expected a weight '{name}' in {folder}, got none")
            with safe_open(folder / file_of[name], framework="pt") as file:
                return file.get_tensor(name)

        return cls.from_lookup(LlamaConfig.from_folder(folder), lookup, **options)

    @classmethod
    def random(
        cls,
        config: LlamaConfig,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        rank: int = 0,
        world_size: int = 1,
        seed: int = 0,
    ) -> Weights:
        """Weights to measure with: normal, scaled so that activations keep their size. Ranks get different parts."""
        generator = torch.Generator(device).manual_seed(seed + rank)

        def matrix(outputs: int, inputs: int) -> torch.Tensor:
            values = torch.randn(outputs, inputs, generator=generator, dtype=dtype, device=device)
            return values.mul_(inputs**-0.5)

        ones = torch.ones(config.hidden_size, dtype=dtype, device=device)
        q_size = config.num_qo_heads // world_size * config.head_dim
        kv_size = config.num_kv_heads // world_size * config.head_dim
        inner = config.intermediate_size // world_size
        layers = [
            LayerWeights(
                input_norm=ones,
                qkv=matrix(q_size + 2 * kv_size, config.hidden_size),
                output=matrix(config.hidden_size, q_size),
                mlp_norm=ones,
                gate_up=matrix(2 * inner, config.hidden_size),
                down=matrix(config.hidden_size, inner),
            )
            for _ in range(config.num_layers)
        ]
        generator.manual_seed(seed + world_size)  # what is not split is the same on every rank
        embedding = matrix(config.vocab_size, config.hidden_size)
        lm_head = embedding if config.tie_word_embeddings else matrix(config.vocab_size, config.hidden_size)
        return cls(config, embedding, layers, ones, lm_head, rank, world_size)
