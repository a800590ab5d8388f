"""The forward pass: everything but the attention, which a backend brings."""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F

from .attention import AttentionBackend
from .weights import LayerWeights, Weights


class Llama:
    """A Llama over flat tokens: no batch dimension, no padding.

    Parameters
    ----------
    weights : Weights
        All of them, or one rank's part.
    group : torch.distributed.ProcessGroup, optional
        The ranks among which the heads are split; needed when ``weights`` is a part. Every rank calls alike.
    """

    def __init__(self, weights: Weights, group: dist.ProcessGroup | None = None) -> None:
        size = 1 if group is None else dist.get_world_size(group)
        if size != weights.world_size:
            raise ValueError(f"group: expected {weights.world_size} ranks as the weights are split, got {size}")
        self.weights = weights
        self.config = weights.config
        self.group = group
        self.dtype = weights.embedding.dtype
        self.device = weights.embedding.device
        self._inverse_frequencies = self.config.inverse_frequencies().to(self.device)

    @torch.inference_mode()
    def hidden_states(self, tokens: torch.Tensor, positions: torch.Tensor, attention: AttentionBackend) -> torch.Tensor:
        """The last hidden states of the new tokens, ``[tokens, hidden_size]``.

        Parameters
        ----------
        tokens, positions : torch.Tensor
            int64 ``[tokens]``, in the order that ``attention`` was planned for.
        attention : AttentionBackend
            Planned; it writes the new KV.
        """
        angles = torch.outer(positions.float(), self._inverse_frequencies).unsqueeze(1)
        cos, sin = angles.cos(), angles.sin()
        cos, sin = torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)
        x = F.embedding(tokens, self.weights.embedding)
        for index, layer in enumerate(self.weights.layers):
            x = x + self._attention(index, layer, self._norm(x, layer.input_norm), cos, sin, attention)
            x = x + self._mlp(layer, self._norm(x, layer.mlp_norm))
        return self._norm(x, self.weights.norm)

    @torch.inference_mode()
    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """f32 ``[rows, vocab_size]``."""
        return F.linear(hidden, self.weights.lm_head).float()

    def _attention(
        self,
        index: int,
        layer: LayerWeights,
        x: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        attention: AttentionBackend,
    ) -> torch.Tensor:
        heads, kv_heads = self.weights.num_qo_heads, self.weights.num_kv_heads
        qkv = F.linear(x, layer.qkv).unflatten(-1, (heads + 2 * kv_heads, self.config.head_dim))
        qk, v = qkv.split((heads + kv_heads, kv_heads), dim=1)
        # Rotary position embedding in f32: dimension i turns with dimension i + head_dim / 2.
        straight, turned = qk * cos, qk.roll(self.config.head_dim // 2, dims=-1) * sin
        q, k = (
            torch.add(a, b, out=torch.empty(a.shape, dtype=x.dtype, device=x.device))
            for a, b in zip(straight.split((heads, kv_heads), dim=1), turned.split((heads, kv_heads), dim=1))
        )
        out = attention.attend(index, q, k, v)
        return self._sum_of_ranks(F.linear(out.flatten(1), layer.output))

    def _mlp(self, layer: LayerWeights, x: torch.Tensor) -> torch.Tensor:
        gate, up = F.linear(x, layer.gate_up).chunk(2, dim=-1)
        return self._sum_of_ranks(F.linear(F.silu(gate) * up, layer.down))

    def _norm(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(x, (self.config.hidden_size,), weight, self.config.rms_norm_eps)

    def _sum_of_ranks(self, x: torch.Tensor) -> torch.Tensor:
        if self.group is not None:
            dist.all_reduce(x, group=self.group)
        return x
