"""A KV cache for ``generate`` that finds what the prompts share."""

from __future__ import annotations

from typing import Any

import torch
from transformers import Cache, PreTrainedModel

import trunkline as tl

from ..checks import integer
from ..paged_layers import KvPages, StepAttention, check_options
from .attention import CACHE_MARK, NAME, refuse_gradients, refuse_sliding_layers


class PagedCache(Cache):
    """Paged KV of a batch in which equal beginnings of prompts are stored, and read, once.

    A cache never sees token ids, so it takes the prompt's at construction. Generated tokens are each request's own;
    beam search shares them by reordering. One cache serves one call of ``generate`` and its continuations.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        With attention implementation ``"trunkline"`` and full-attention layers only.
    input_ids : torch.Tensor
        int64 or int32 ``[batch, tokens]``, neither of them 0: what ``generate`` will get.
    attention_mask : torch.Tensor, optional
        ``[batch, tokens]``, 0 for padding, which must be on the left. Padding takes no pages.
    repeats : int
        Sequences per prompt: pass the larger of ``num_beams`` and ``num_return_sequences``.
    page_size : int
    strategy : str
        ``"auto"``, ``"unshared"``, ``"two_phase"`` or ``"hydragen"``.
    num_threads : int, optional
        CPU threads; default PyTorch's.

    Raises
    ------
    ValueError
        For another attention implementation, sliding-window layers, padding that is not on the left, and whatever else
        an argument may not be; it names the argument.

    Examples
    --------
    >>> import torch, transformers
    >>> from trunkline.transformers import PagedCache
    >>> config = transformers.LlamaConfig(
    ...     vocab_size=64, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
    >>> model = transformers.LlamaForCausalLM._from_config(config, attn_implementation="trunkline").eval()
    >>> ids = torch.tensor([[5, 6, 7, 8], [5, 6, 7, 9]])
    >>> cache = PagedCache(model, ids)
    >>> cache.prefill(model)  # 4 tokens; without it, generate runs all 8
    >>> model.generate(ids, past_key_values=cache, max_new_tokens=4, min_new_tokens=4, do_sample=False).shape
    torch.Size([2, 8])
    """

    def __init__(
        self,
        model: PreTrainedModel,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        *,
        repeats: int = 1,
        page_size: int = 16,
        strategy: str = "auto",
        num_threads: int | None = None,
    ) -> None:
        super().__init__(layers=[])
        config = model.config.get_text_config(decoder=True)
        if config._attn_implementation != NAME:
            raise ValueError(
                f"model: expected attention implementation '{NAME}' (model.set_attn_implementation('{NAME}')), "
                f"got '{config._attn_implementation}'"
            )
        refuse_sliding_layers(config)
        check_options(strategy, num_threads, page_size)
        repeats = integer("repeats", repeats, least=1)
        self._num_layers = config.num_hidden_layers
        self._page_size = page_size
        self._options: dict[str, Any] = {"strategy": strategy, "num_threads": num_threads}
        self._first_name = int(config.vocab_size)
        self._prompts = [p for p in _prompts(input_ids, attention_mask) for _ in range(repeats)]
        self._prompt_columns = int(input_ids.shape[1])
        self._columns = 0
        # Page numbers cost 4 bytes each, so there are enough for the longest sequences; storage follows their use.
        longest = max(getattr(config, "max_position_embeddings", 0) or 0, 2 * self._prompt_columns)
        per_request = -(-longest // page_size) + 1
        self._pool = tl.PagePool(per_request * len(self._prompts), page_size)
        self._tree = tl.PrefixTree(self._pool)
        self._written = self._insert(self._prompts)
        self._packed: torch.Tensor | None = None  # in prefill: the slots of tokens that come in one row
        self._pages: KvPages | None = None
        self._attention: StepAttention | None = None
        self._rows: torch.Tensor | None = None  # flat rows of q that hold tokens; None: all of them
        self._expected_layer = 0  # whose attention comes next

    def _insert(self, prompts: list[list[int]]) -> list[tuple[int, int]]:
        """Insert the prompts; per request the first position it must write and its padding."""
        self._requests: list[int] = []
        written = []
        for prompt in prompts:
            inserted = self._tree.insert(prompt)
            # Committed before it is written, so that the next prompt finds it: the KV of all prompts is written in one
            # go, before any is read. A copy would come too early for that; such a page's tokens are written again.
            self._tree.commit(inserted.request, len(prompt))
            first = inserted.num_cached_tokens
            if inserted.copy is not None:
                first -= inserted.copy.num_tokens
            self._requests.append(inserted.request)
            written.append((first, self._prompt_columns - len(prompt)))
        return written

    @torch.no_grad()
    def prefill(self, model: PreTrainedModel) -> None:
        """Run the prompts through the model, without their last tokens, and what they share only once.

        Left to itself ``generate`` computes every row's whole prompt. After this it finds the cache filled and computes
        the last token of each, for its logits.

        Parameters
        ----------
        model : transformers.PreTrainedModel
            The cache's own.

        Raises
        ------
        ValueError
            When something was written before, or a row is all padding.
        """
        if self._columns:
            raise ValueError(f"prefill: expected an empty cache, got one of {self._columns} columns")
        if not all(self._prompts):
            raise ValueError("prefill: expected a token in every row, got one that is all padding")
        if self._prompt_columns == 1:
            return
        self._tree.clear()
        prompts = [prompt[:-1] for prompt in self._prompts]
        # The distinct tokens in one row: each request's own follow those that it finds with others.
        begins = [first for first, _ in self._insert(prompts)]
        self._qo_lens = [len(prompt) - begin for prompt, begin in zip(prompts, begins)]
        parts = list(zip(self._requests, begins, prompts))
        tokens = torch.tensor([[token for _, begin, prompt in parts for token in prompt[begin:]]], device=model.device)
        positions = [position for _, begin, prompt in parts for position in range(begin, len(prompt))]
        if tokens.numel():
            self._packed = torch.cat([torch.as_tensor(self._tree.slots(r, b, len(prompt))) for r, b, prompt in parts])
            model.base_model(
                input_ids=tokens,
                position_ids=torch.tensor([positions], device=model.device),
                past_key_values=self,
                use_cache=True,
            )
            self._packed = None
        self._columns = self._prompt_columns - 1

    @property
    def forest(self) -> tl.Forest:
        """The batch as it is stored now: its ``share``, ``distinct_tokens`` and ``total_tokens`` tell what is saved."""
        return tl.Forest.from_tree(self._tree, self._requests)

    @property
    def num_pages_in_use(self) -> int:
        """Pages that hold the batch, each of them in every layer."""
        return self._pool.num_used

    # What Transformers calls.

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write a layer's new KV into its pages. Returns what came: the attention reads the pages."""
        refuse_gradients(key_states)
        if layer_idx != self._expected_layer:
            raise RuntimeError(
                f"layer_idx: expected {self._expected_layer}, got {layer_idx}: is every layer's attention 'trunkline'?"
            )
        if layer_idx == 0:
            self._begin_step(key_states)
        assert self._pages is not None
        self._pages.write(layer_idx, _tokens_first(key_states), _tokens_first(value_states), self._slots)
        setattr(key_states, CACHE_MARK, self)
        return key_states, value_states

    def attend(self, layer: int, q: torch.Tensor, scale: float) -> torch.Tensor:
        """A layer's attention in the step under way; called by the attention function."""
        assert self._pages is not None
        batch, num_heads, num_tokens, head_dim = q.shape
        if layer == 0:
            self._plan(num_heads, head_dim, scale)
        assert self._attention is not None
        self._attention.check_scale(scale)
        flat = _tokens_first(q)
        if self._rows is None:
            out = self._attention.run(flat, self._pages[layer])
        else:
            out = torch.zeros_like(flat)
            out[self._rows] = self._attention.run(flat[self._rows], self._pages[layer])
        self._expected_layer = (layer + 1) % self._num_layers
        return out.view(batch, num_tokens, num_heads, head_dim)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Columns seen so far, padding included."""
        return self._columns

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        return self._columns + query_length, 0

    def get_max_length(self, layer_idx: int | None = None) -> int:
        return -1

    @property
    def batch_size(self) -> int:
        return len(self._requests)

    @property
    def is_initialized(self) -> bool:
        return self._columns > 0

    @property
    def is_compileable(self) -> bool:
        return False

    @property
    def is_croppable(self) -> bool:
        return False

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Row r goes on from row ``beam_idx[r]``: beams share all they have in common."""
        for request in self._requests:
            self._tree.commit(request, self._tree.seq_len(request))
        old = self._requests
        self._requests = [self._tree.fork(old[i]) for i in beam_idx.tolist()]
        for request in old:
            self._tree.remove(request)
        self._tree.evict(self._pool.num_pages)  # what no row continues is never read again

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        self.reorder_cache(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        self.reorder_cache(torch.arange(len(self._requests)).repeat_interleave(repeats))

    def crop(self, tokens_to_remove: int) -> None:
        if tokens_to_remove:
            raise ValueError(f"crop: expected 0 tokens to remove (not supported by PagedCache), got {tokens_to_remove}")

    def reset(self) -> None:
        raise ValueError("reset: a PagedCache belongs to its prompt; make another one")

    # A step: all layers of one forward pass.

    def _begin_step(self, key_states: torch.Tensor) -> None:
        batch, num_kv_heads, num_tokens, head_dim = key_states.shape
        num_rows = len(self._requests) if self._packed is None else 1
        if batch != num_rows:
            raise ValueError(f"input_ids: expected {num_rows} rows as the cache was made for, got {batch}")
        copies: list[tl.PageCopy] = []
        if self._packed is not None:
            slots, self._rows = self._packed, None
        elif self._columns == 0:
            slots = self._begin_prompt(num_tokens, key_states)
        else:
            slots, copies = self._grow(num_tokens)
            self._rows = None
            self._qo_lens = [num_tokens] * batch
        if self._pages is None:
            self._pages = KvPages(
                self._num_layers, self._page_size, num_kv_heads, head_dim, key_states.dtype, key_states.device
            )
        self._pages.reserve(self._pool.peak_used)  # a pool hands out no higher page before it needs one
        self._pages.copy(copies)
        self._slots = slots.to(key_states.device)
        self._columns += num_tokens

    def _begin_prompt(self, num_tokens: int, key_states: torch.Tensor) -> torch.Tensor:
        if num_tokens != self._prompt_columns:
            raise ValueError(
                f"input_ids: expected the {self._prompt_columns} columns that the cache was made for in one pass "
                f"(no prefill_chunk_size), got {num_tokens}"
            )
        slots = torch.full((len(self._requests), num_tokens), -1, dtype=torch.int64)
        self._qo_lens = []
        for row, request, (first, padding) in zip(slots, self._requests, self._written):
            end = num_tokens - padding
            row[padding + first :] = torch.as_tensor(self._tree.slots(request, first, end))
            self._qo_lens.append(end)
        self._rows = None
        if any(padding for _, padding in self._written):
            is_token = [torch.arange(num_tokens) >= padding for _, padding in self._written]
            self._rows = torch.stack(is_token).flatten().nonzero().flatten().to(key_states.device)
        return slots.flatten()

    def _grow(self, num_tokens: int) -> tuple[torch.Tensor, list[tl.PageCopy]]:
        slots, copies = [], []
        for row, request in enumerate(self._requests):
            begin = self._tree.seq_len(request)
            # Ids are unknown. Rows get different names, beyond the vocabulary, so that no two share what they generate.
            appended = self._tree.append(request, [self._first_name + row] * num_tokens)
            if appended.copy is not None:
                copies.append(appended.copy)
            slots.append(torch.as_tensor(self._tree.slots(request, begin, begin + num_tokens)))
        return torch.cat(slots), copies

    def _plan(self, num_qo_heads: int, head_dim: int, scale: float) -> None:
        assert self._pages is not None
        k, _ = self._pages.tensors(0)
        if self._attention is None:
            self._attention = StepAttention(
                num_qo_heads, k.shape[2], head_dim, self._page_size, k.dtype, k.device, sm_scale=scale, **self._options
            )
        self._attention.plan(tl.Forest.from_tree(self._tree, self._requests, self._qo_lens))


def _tokens_first(states: torch.Tensor) -> torch.Tensor:
    """``[batch, heads, tokens, head_dim]`` as ``[batch * tokens, heads, head_dim]``; a view where it can be one."""
    return states.transpose(1, 2).flatten(0, 1)


def _prompts(input_ids: torch.Tensor, attention_mask: torch.Tensor | None) -> list[list[int]]:
    """The tokens of every row without its padding."""
    for name, value in (("input_ids", input_ids), ("attention_mask", attention_mask)):
        if value is not None and not isinstance(value, torch.Tensor):
            raise ValueError(f"{name}: expected a torch.Tensor, got {type(value).__name__}")
    if input_ids.dtype not in (torch.int64, torch.int32):  # what an embedding takes
        raise ValueError(f"input_ids: expected torch.int64 or torch.int32, got {input_ids.dtype}")
    if input_ids.ndim != 2 or 0 in input_ids.shape:
        raise ValueError(f"input_ids: expected shape [batch, tokens], neither of them 0, got {list(input_ids.shape)}")
    if attention_mask is None:
        return input_ids.tolist()
    if attention_mask.shape != input_ids.shape:
        raise ValueError(
            f"attention_mask: expected shape {list(input_ids.shape)} like input_ids, got {list(attention_mask.shape)}"
        )
    prompts = []
    for row, (ids, mask) in enumerate(zip(input_ids.tolist(), attention_mask.bool().tolist())):
        padding = mask.index(True) if True in mask else len(mask)
        if not all(mask[padding:]):
            raise ValueError(f"attention_mask: expected padding on the left, got padding after a token in row {row}")
        prompts.append(ids[padding:])
    return prompts
