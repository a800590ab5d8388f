"""Continuous batching over a prefix tree."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist

import trunkline as tl

from ..paged_layers import KvPages, StepAttention
from .attention import AttentionBackend, DenseSdpaAttention, NoAttention, TrunklineAttention
from .batch_forest import Advance, BatchForest
from .graphs import DecodeGraphs
from .model import Llama
from .sampling import SamplingParams, sample
from .scheduler import Generation, Scheduler, Sequence, Turn


@dataclass
class EngineStats:
    """Since construction."""

    steps: int = 0
    computed_tokens: int = 0  # that went through the model
    generated_tokens: int = 0
    preemptions: int = 0  # sequences that went back to the queue for lack of pages
    graph_replays: int = 0


class Engine:
    """Generates from a :class:`Llama` for many prompts at once.

    Shared prefixes are found, computed once, and read once in every step. What requests leave behind stays cached.

    Parameters
    ----------
    model : Llama
    num_pages : int
        Pages of KV, allocated in every layer at once.
    page_size : int
    max_requests : int
        Sequences in a step.
    max_seq_len : int, optional
        Default: the model's.
    max_prefill_tokens : int
        Prompt tokens in a step, beside one token of each sequence that decodes; longer prompts take several steps.
    attention : str
        A strategy of Trunkline (``"auto"``, ``"unshared"``, ``"two_phase"``, ``"hydragen"``), or for comparison
        ``"sdpa"`` (PyTorch's, over a dense copy of each request's KV) or ``"none"`` (left out).
    cuda_graphs : bool
        Replay decode steps from CUDA graphs; CUDA models only.
    seed : int
        Of the sampling.
    num_threads : int, optional
        CPU threads of the attention; default PyTorch's.

    Examples
    --------
    >>> from trunkline.llama import Engine, Llama, LlamaConfig, SamplingParams, Weights
    >>> config = LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=32, num_layers=1, num_qo_heads=2,
    ...                      num_kv_heads=1, head_dim=16)
    >>> engine = Engine(Llama(Weights.random(config)), num_pages=64, page_size=4)
    >>> samples = engine.generate([[1, 2, 3, 4], [1, 2, 3, 5]], SamplingParams(max_new_tokens=3, temperature=1.0, n=2))
    >>> [[len(tokens) for tokens in of_prompt] for of_prompt in samples]
    [[3, 3], [3, 3]]
    >>> engine.stats.computed_tokens  # 4 and 1 of the prompts, 2 more of each sample
    13
    """

    def __init__(
        self,
        model: Llama,
        *,
        num_pages: int,
        page_size: int = 16,
        max_requests: int = 256,
        max_seq_len: int | None = None,
        max_prefill_tokens: int = 8192,
        attention: str = "auto",
        cuda_graphs: bool = False,
        seed: int = 0,
        num_threads: int | None = None,
    ) -> None:
        if cuda_graphs and (model.device.type != "cuda" or attention == "sdpa"):
            raise ValueError(f"cuda_graphs: expected False on {model.device.type} with attention '{attention}'")
        self.model = model
        self.stats = EngineStats()
        self._max_requests = max_requests
        self._max_seq_len = model.config.max_position_embeddings if max_seq_len is None else max_seq_len
        self._max_prefill_tokens = max_prefill_tokens
        self._page_size = page_size
        self._pool = tl.PagePool(num_pages, page_size)
        self._tree = tl.PrefixTree(self._pool)
        config, weights = model.config, model.weights
        self._pages = KvPages(
            config.num_layers, page_size, weights.num_kv_heads, config.head_dim, model.dtype, model.device, num_pages
        )
        self._attention = self._make_attention(attention, num_threads)
        self._graphs = DecodeGraphs(model, self._attention, max_requests) if cuda_graphs else None
        self._generator = torch.Generator(model.device).manual_seed(seed)
        self._forest = BatchForest(self._tree, page_size)
        self._scheduler = Scheduler(self._tree, max_requests, max_prefill_tokens)

    def _make_attention(self, name: str, num_threads: int | None) -> AttentionBackend:
        if name == "none":
            return NoAttention()
        if name == "sdpa":
            return DenseSdpaAttention(self._pages, self._tree, self._max_requests, self._max_seq_len)
        step = StepAttention(
            self.model.weights.num_qo_heads,
            self.model.weights.num_kv_heads,
            self.model.config.head_dim,
            self._page_size,
            self.model.dtype,
            self.model.device,
            strategy=name,
            num_threads=num_threads,
        )
        # All at once: a graph keeps the attention it was captured with.
        max_tokens = self._max_requests + self._max_prefill_tokens
        step.reserve(self._max_requests, max_tokens, -(-self._max_seq_len // self._page_size))
        return TrunklineAttention(self._pages, step)

    @property
    def tree(self) -> tl.PrefixTree:
        """The cache's index: ``tree.stats()`` tells what was found in it."""
        return self._tree

    @property
    def num_unfinished(self) -> int:
        """Sequences waiting or running; a prompt that waits counts once."""
        return self._scheduler.num_unfinished

    def add(self, prompt: Iterable[int], params: SamplingParams | None = None) -> Generation:
        """Queue a prompt; the returned object fills while :meth:`step` is called.

        Raises
        ------
        ValueError
            For an empty prompt, tokens outside the vocabulary, or more tokens or samples than the engine is made for.
        """
        params = params or SamplingParams()
        prompt = [int(token) for token in prompt]
        if not prompt or not all(0 <= token < self.model.config.vocab_size for token in prompt):
            raise ValueError(f"prompt: expected at least one token in [0, {self.model.config.vocab_size})")
        if len(prompt) + params.max_new_tokens > self._max_seq_len:
            raise ValueError(
                f"prompt: expected at most {self._max_seq_len} tokens with the new ones, "
                f"got {len(prompt)} + {params.max_new_tokens}"
            )
        if params.n > self._max_requests:
            raise ValueError(f"n: expected at most max_requests {self._max_requests}, got {params.n}")
        generation = Generation(prompt, params)
        self._scheduler.add(Sequence(generation, list(prompt), params.n))
        return generation

    def generate(self, prompts: Iterable[Iterable[int]], params: SamplingParams | None = None) -> list[list[list[int]]]:
        """The new tokens of every sample of every prompt."""
        generations = [self.add(prompt, params) for prompt in prompts]
        while self.num_unfinished:
            self.step()
        return [generation.samples for generation in generations]

    def step(self) -> None:
        """Admit what fits, run the model once, sample."""
        turns, copies = self._scheduler.next_step()
        self.stats.preemptions = self._scheduler.num_preemptions
        self._pages.copy(copies)
        logits = self._forward(turns)
        ready = [turn.sequence for turn in turns if turn.has_next]
        next_tokens = self._sample(ready, logits) if ready else None
        for turn in turns:  # while a GPU computes: what is written is read by later steps only
            self._forest.commit(turn.sequence.request, turn.end)
            turn.sequence.num_done = turn.end
        if next_tokens is not None:
            self._extend(ready, next_tokens.tolist())
        self.stats.steps += 1

    def _forward(self, turns: list[Turn]) -> torch.Tensor:
        """Compute the new tokens. Returns the logits of the turns that have a next token."""
        advances = [Advance(t.sequence.request, t.end - t.begin, t.appended) for t in turns]
        self._attention.plan(self._forest.step(advances))
        last_rows = itertools.accumulate((advance.num_new for advance in advances), initial=-1)
        rows = [row for row, turn in zip(itertools.islice(last_rows, 1, None), turns) if turn.has_next]
        inputs = torch.from_numpy(self._inputs(turns))
        self.stats.computed_tokens += inputs.shape[1]
        if self._graphs is not None and len(rows) == inputs.shape[1]:
            self.stats.graph_replays += 1
            return self._graphs.run(inputs)
        tokens, positions, slots = inputs.to(self.model.device)
        self._attention.set_slots(slots)
        hidden = self.model.hidden_states(tokens, positions, self._attention)
        return self.model.logits(hidden if len(rows) == len(hidden) else hidden[rows])

    def _inputs(self, turns: list[Turn]) -> np.ndarray:
        """Token, position and slot of each new token, int64 ``[3, tokens]``."""
        tokens: list[int] = []
        positions: list[int] = []
        slots: list[np.ndarray] = []
        for turn in turns:
            tokens.extend(turn.sequence.tokens[turn.begin : turn.end])
            positions.extend(range(turn.begin, turn.end))
            slots.append(self._tree.slots(turn.sequence.request, turn.begin, turn.end))
        inputs = np.empty((3, len(tokens)), np.int64)
        inputs[0], inputs[1] = tokens, positions
        np.concatenate(slots, out=inputs[2])
        return inputs

    def _sample(self, ready: list[Sequence], logits: torch.Tensor) -> torch.Tensor:
        """The next token of each sample that the sequences stand for, in order."""
        of_row = [row for row, sequence in enumerate(ready) for _ in range(sequence.num_samples)]
        if len(of_row) > len(ready):
            logits = logits[of_row]
        next_tokens = sample(logits, [ready[row].generation.params for row in of_row], self._generator)
        if self.model.group is not None:  # sums of ranks may differ in the last bits
            dist.broadcast(next_tokens, group=self.model.group, group_src=0)
        return next_tokens

    def _extend(self, ready: list[Sequence], next_tokens: list[int]) -> None:
        """Append what was sampled; a prompt with n samples parts into n sequences with its first."""
        tokens = iter(next_tokens)
        for sequence in ready:
            forks = [self._scheduler.fork(sequence) for _ in range(sequence.num_samples - 1)]
            sequence.num_samples = 1
            for sample_under_way in (sequence, *forks):
                sample_under_way.tokens.append(next(tokens))
                if sample_under_way.finished:
                    self._scheduler.finish(sample_under_way)
        self.stats.generated_tokens += len(next_tokens)
