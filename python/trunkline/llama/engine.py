"""Continuous batching over a prefix tree."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist

import trunkline as tl

from ..checks import integer, integers
from ..paged_layers import KvPages, StepAttention
from .attention import AttentionBackend, DenseSdpaAttention, NoAttention, TrunklineAttention
from .batch_forest import BatchForest
from .graphs import DecodeGraphs, forward
from .model import Llama
from .sampling import SamplingParams, sample_rows
from .scheduler import Scheduler
from .step import Generation, Sequence, Step
from .transfer import Arriving, to_device


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

    Raises
    ------
    ValueError
        Naming the parameter.

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
        max_seq_len = model.config.max_position_embeddings if max_seq_len is None else max_seq_len
        num_pages, page_size = integer("num_pages", num_pages, least=1), integer("page_size", page_size, least=1)
        self._max_requests = max_requests = integer("max_requests", max_requests, least=1)
        self._max_seq_len = integer("max_seq_len", max_seq_len, least=1)
        self._max_prefill_tokens = max_prefill_tokens = integer("max_prefill_tokens", max_prefill_tokens, least=1)
        seed = integer("seed", seed)
        if num_threads is not None:
            integer("num_threads", num_threads, least=1)
        self.model = model
        self.stats = EngineStats()
        self._page_size = page_size
        self._pool = tl.PagePool(num_pages, page_size)
        self._tree = tl.PrefixTree(self._pool)
        config, weights = model.config, model.weights
        self._pages = KvPages(
            config.num_layers, page_size, weights.num_kv_heads, config.head_dim, model.dtype, model.device, num_pages
        )
        self._attention = self._make_attention(attention, num_threads)
        # The next step reads the sampled tokens here; the host sees them a step later.
        self._sampled = torch.zeros(max_requests, dtype=torch.int64, device=model.device)
        self._graphs = DecodeGraphs(model, self._attention, self._sampled, max_requests) if cuda_graphs else None
        self._generator = torch.Generator(model.device).manual_seed(seed)
        self._forest = BatchForest(self._tree)
        self._scheduler = Scheduler(self._tree, max_requests, max_prefill_tokens)
        self._under_way: tuple[Step, Arriving] | None = None  # on the device; its tokens are still to be taken

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
        """Sequences waiting or running, or with tokens on their way; a prompt that waits counts once."""
        return self._scheduler.num_unfinished

    def add(self, prompt: Iterable[int], params: SamplingParams | None = None) -> Generation:
        """Queue a prompt; the returned object fills while :meth:`step` is called.

        Raises
        ------
        ValueError
            For an empty prompt, tokens that are no integers or outside the vocabulary, more tokens or samples than the
            engine is made for, or more KV than all of its pages hold.
        """
        generation = self._generation("prompt", prompt, params or SamplingParams())
        self._queue(generation)
        return generation

    def _generation(self, name: str, prompt: Iterable[int], params: SamplingParams) -> Generation:
        tokens, vocab_size = integers(name, prompt), self.model.config.vocab_size
        if not tokens:
            raise ValueError(f"{name}: expected at least one token, got none")
        if min(tokens) < 0 or max(tokens) >= vocab_size:
            index = next(i for i, token in enumerate(tokens) if not 0 <= token < vocab_size)
            raise ValueError(f"{name}[{index}]: expected a token in [0, {vocab_size}), got {tokens[index]}")
        if len(tokens) + params.max_new_tokens > self._max_seq_len:
            raise ValueError(
                f"{name}: expected at most {self._max_seq_len} tokens with the new ones, "
                f"got {len(tokens)} + {params.max_new_tokens}"
            )
        num_kept = len(tokens) + params.max_new_tokens - 1  # nothing follows the last token, so its KV is not computed
        if num_kept > self._pool.num_pages * self._page_size:
            raise ValueError(
                f"{name}: expected KV of at most {self._pool.num_pages * self._page_size} tokens in "
                f"{self._pool.num_pages} pages, got {len(tokens)} + {params.max_new_tokens} - 1"
            )
        if params.n > self._max_requests:
            raise ValueError(f"n: expected at most max_requests {self._max_requests}, got {params.n}")
        return Generation(tokens, params)

    def _queue(self, generation: Generation) -> None:
        self._scheduler.add(Sequence(generation, generation.prompt.copy(), generation.params.n))

    def generate(self, prompts: Iterable[Iterable[int]], params: SamplingParams | None = None) -> list[list[list[int]]]:
        """The new tokens of every sample of every prompt.

        Raises
        ------
        ValueError
            As :meth:`add`; no prompt is queued then.
        MemoryError
            As :meth:`step`; what was not dropped stays queued.
        """
        params = params or SamplingParams()
        generations = [self._generation(f"prompts[{i}]", prompt, params) for i, prompt in enumerate(prompts)]
        for generation in generations:
            self._queue(generation)
        while self.num_unfinished:
            self.step()
        return [generation.samples for generation in generations]

    def step(self) -> None:
        """Admit what fits and run the model once. The tokens that this step samples are taken by the next one, which
        has the device at work before it waits for them; what ends by its length alone is not run any further.

        Raises
        ------
        MemoryError
            When nothing else runs and the first prompt that waits still does not fit, for somebody holds pages in
            :attr:`tree`. That prompt is dropped and its generation never finishes; the others go on with the next step.
        """
        if not self.num_unfinished:
            raise RuntimeError("step: expected a prompt, got none")
        if self._scheduler.may_run_short():
            self._take()
        launched = self._launch() if self._scheduler.has_work else None
        self._take()
        self._under_way = launched
        if not self._scheduler.has_work:
            self._take()

    def _launch(self) -> tuple[Step, Arriving]:
        """Have the device compute the next step. Nothing here waits for it."""
        step = self._scheduler.next_step()
        self._pages.copy(step.copies)
        self._attention.plan(self._forest.step(step))
        logits = self._logits(step)
        self._scheduler.launched(step)
        self.stats.steps += 1
        self.stats.computed_tokens += step.inputs.shape[1]
        self.stats.preemptions = self._scheduler.num_preemptions
        return step, Arriving(self._sample(step, logits))

    def _take(self) -> None:
        """Wait for the tokens of the step under way, if there is one."""
        if self._under_way is not None:
            step, tokens = self._under_way
            self._under_way = None
            self.stats.generated_tokens += self._scheduler.take(step, tokens.tolist())

    def _logits(self, step: Step) -> torch.Tensor:
        """Of the rows that have a next token to sample."""
        is_sampled, num_tokens = step.is_sampled, step.inputs.shape[1]
        every_token = np.count_nonzero(is_sampled) == num_tokens
        if self._graphs is not None and every_token:
            self.stats.graph_replays += 1
            return self._graphs.run(step.inputs)
        device = self.model.device
        hidden = forward(self.model, self._attention, to_device(step.inputs, device), self._sampled)
        if not every_token:
            last_tokens = step.num_new.cumsum(dtype=np.int64) - 1
            hidden = hidden[to_device(last_tokens[is_sampled], device)]
        return self.model.logits(hidden)

    def _sample(self, step: Step, logits: torch.Tensor) -> torch.Tensor:
        """The next token of each of the step's samples."""
        if len(step.drawn_from) > len(logits):
            row_of_logits = step.is_sampled.cumsum(dtype=np.int64) - 1
            logits = logits[to_device(row_of_logits[step.drawn_from], logits.device)]
        temperatures, top_ps = (step.rows[name][step.drawn_from] for name in ("temperature", "top_p"))
        tokens = sample_rows(logits, temperatures, top_ps, self._generator)
        if self.model.group is not None and len(tokens):  # sums of ranks may differ in the last bits
            dist.broadcast(tokens, group=self.model.group, group_src=0)
        self._sampled[: len(tokens)] = tokens
        return tokens
