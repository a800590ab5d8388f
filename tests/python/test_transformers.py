"""``generate`` with a PagedCache gives the tokens of eager attention, and stores what is shared once."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from tiny_models import FAMILIES, left_padded, make_model, prompts_with_shared_prefixes  # noqa: E402

from trunkline.transformers import PagedCache  # noqa: E402

GREEDY = {"max_new_tokens": 24, "do_sample": False}


def generate(family: str, ids, mask, cache_options=None, repeats=1, **options):
    """Tokens of eager attention, of PagedCache, and the cache."""
    expected = make_model(family).generate(ids, attention_mask=mask, **options)
    model = make_model(family, "trunkline")
    cache = PagedCache(model, ids, mask, repeats=repeats, **(cache_options or {}))
    got = model.generate(ids, attention_mask=mask, past_key_values=cache, **options)
    return expected, got, cache


@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_of_eager(family):
    ids, mask = left_padded(prompts_with_shared_prefixes())
    expected, got, _ = generate(family, ids, mask, {"page_size": 4}, **GREEDY)
    assert got.tolist() == expected.tolist()
    assert len({tuple(row) for row in got.tolist()}) >= 5  # not one constant continuation


@pytest.mark.parametrize("strategy", ["unshared", "two_phase", "hydragen"])
@pytest.mark.parametrize("page_size", [1, 5, 64])
def test_strategies_and_page_sizes(strategy, page_size):
    ids, mask = left_padded(prompts_with_shared_prefixes(1))
    options = {"page_size": page_size, "strategy": strategy}
    expected, got, _ = generate("llama", ids, mask, options, **GREEDY)
    assert got.tolist() == expected.tolist()


def test_no_padding_and_no_mask():
    prompts = [p[:9] for p in prompts_with_shared_prefixes(2)]
    ids = torch.tensor(prompts)
    expected, got, _ = generate("llama", ids, None, {"page_size": 4}, pad_token_id=96, **GREEDY)
    assert got.tolist() == expected.tolist()


def test_padding_takes_no_pages_and_prefixes_are_stored_once():
    prompts = prompts_with_shared_prefixes()
    ids, mask = left_padded(prompts)
    ids, mask = torch.nn.functional.pad(ids, (40, 0)), torch.nn.functional.pad(mask, (40, 0))
    cache = PagedCache(make_model("llama", "trunkline"), ids, mask, page_size=1)
    prefixes = {tuple(p[: i + 1]) for p in prompts for i in range(len(p))}
    assert cache.num_pages_in_use == len(prefixes)
    assert cache.forest.distinct_tokens == len(prefixes)
    assert cache.forest.total_tokens == sum(map(len, prompts))


def test_pages_grow_by_what_is_generated():
    ids, mask = left_padded(prompts_with_shared_prefixes())
    _, _, cache = generate("llama", ids, mask, {"page_size": 1}, **GREEDY)
    distinct = PagedCache(make_model("llama", "trunkline"), ids, mask, page_size=1).num_pages_in_use
    assert cache.num_pages_in_use == distinct + len(ids) * (GREEDY["max_new_tokens"] - 1)  # the last has no KV yet


def test_beam_search():
    ids, mask = left_padded(prompts_with_shared_prefixes()[:3])
    options = {"num_beams": 4, "max_new_tokens": 12, "do_sample": False, "num_return_sequences": 2}
    expected, got, cache = generate("llama", ids, mask, {"page_size": 4}, repeats=4, **options)
    assert got.tolist() == expected.tolist()
    assert cache.forest.share > 2  # beams share their prompt and more


def test_sampling_of_several_sequences():
    ids, mask = left_padded(prompts_with_shared_prefixes()[:2])
    options = {"max_new_tokens": 12, "do_sample": True, "num_return_sequences": 3, "temperature": 0.7, "top_k": 0}
    tokens = []
    for model in (make_model("llama"), make_model("llama", "trunkline")):
        paged = model.config._attn_implementation == "trunkline"
        cache = {"past_key_values": PagedCache(model, ids, mask, repeats=3)} if paged else {}
        torch.manual_seed(3)
        tokens.append(model.generate(ids, attention_mask=mask, **cache, **options).tolist())
    assert tokens[0] == tokens[1]


def count_tokens(model) -> list[int]:
    """Grows by the number of tokens of every forward pass."""
    counts: list[int] = []
    model.get_input_embeddings().register_forward_hook(lambda module, args, out: counts.append(args[0].numel()))
    return counts


@pytest.mark.parametrize("family", FAMILIES)
def test_prefill_computes_what_is_shared_once(family):
    prompts = prompts_with_shared_prefixes()
    ids, mask = left_padded(prompts)
    expected = make_model(family).generate(ids, attention_mask=mask, **GREEDY)
    for page_size in (1, 4, 16):
        model = make_model(family, "trunkline")
        counts = count_tokens(model)
        cache = PagedCache(model, ids, mask, page_size=page_size)
        cache.prefill(model)
        distinct = len({tuple(p[: i + 1]) for p in prompts for i in range(len(p) - 1)})
        # Those in a page that is shared up to its middle are computed again by whoever takes another way from there.
        assert distinct <= counts[0] <= distinct + len(prompts) * (page_size - 1) and len(counts) == 1
        assert cache.get_seq_length() == ids.shape[1] - 1
        got = model.generate(ids, attention_mask=mask, past_key_values=cache, **GREEDY)
        assert got.tolist() == expected.tolist()
        assert counts[1:] == [len(prompts)] * GREEDY["max_new_tokens"]


def test_prefill_of_beams_and_of_single_tokens():
    ids, mask = left_padded(prompts_with_shared_prefixes()[:3])
    options = {"num_beams": 4, "max_new_tokens": 12, "do_sample": False, "num_return_sequences": 2}
    one = torch.tensor([[5], [6], [5]])
    for prompt, repeats, how in ((ids, 4, options), (one, 1, GREEDY)):
        prompt_mask = mask if prompt is ids else torch.ones_like(one)
        expected = make_model("llama").generate(prompt, attention_mask=prompt_mask, **how)
        model = make_model("llama", "trunkline")
        cache = PagedCache(model, prompt, prompt_mask, repeats=repeats, page_size=4)
        cache.prefill(model)
        got = model.generate(prompt, attention_mask=prompt_mask, past_key_values=cache, **how)
        assert got.tolist() == expected.tolist()


def test_prefill_comes_first_and_needs_tokens():
    ids, mask = left_padded(prompts_with_shared_prefixes())
    model = make_model("llama", "trunkline")
    cache = PagedCache(model, ids, mask)
    cache.prefill(model)
    with pytest.raises(ValueError, match=f"prefill: expected an empty cache, got one of {ids.shape[1] - 1} columns"):
        cache.prefill(model)
    mask[2] = 0
    with pytest.raises(ValueError, match="prefill: expected a token in every row"):
        PagedCache(model, ids, mask).prefill(model)


def test_a_chat_goes_on_in_the_same_cache():
    model, eager = make_model("llama", "trunkline"), make_model("llama")
    ids, mask = left_padded(prompts_with_shared_prefixes()[:3])
    cache = PagedCache(model, ids, mask, page_size=4)
    first = model.generate(ids, attention_mask=mask, past_key_values=cache, max_new_tokens=6, do_sample=False)
    more = torch.tensor([[5, 6, 7], [5, 6, 8], [9, 10, 11]])
    ids = torch.cat((first, more), dim=1)
    mask = torch.cat((mask, torch.ones(3, 9, dtype=mask.dtype)), dim=1)
    got = model.generate(ids, attention_mask=mask, past_key_values=cache, max_new_tokens=6, do_sample=False)
    expected = eager.generate(ids, attention_mask=mask, max_new_tokens=6, do_sample=False)
    assert got.tolist() == expected.tolist()


def test_grows_past_the_models_longest_prompt_storage():
    ids, mask = left_padded(prompts_with_shared_prefixes()[:2])
    expected, got, _ = generate("llama", ids, mask, {"page_size": 2}, max_new_tokens=100, do_sample=False)
    assert got.tolist() == expected.tolist()


# Refusals.


def test_sliding_windows_are_refused_by_name():
    ids, _ = left_padded(prompts_with_shared_prefixes())
    with pytest.raises(ValueError, match="sliding_window: expected None .* got 8"):
        PagedCache(make_model("mistral", "trunkline", sliding_window=8), ids)
    mixed = make_model("qwen2", "trunkline", use_sliding_window=True, sliding_window=8, max_window_layers=1)
    with pytest.raises(ValueError, match=r"layer_types\[1\]: expected 'full_attention', got 'sliding_attention'"):
        PagedCache(mixed, ids)


def test_a_window_in_the_call_is_refused_by_name():
    model = make_model("mistral", "trunkline")
    ids, _ = left_padded(prompts_with_shared_prefixes())
    cache = PagedCache(model, ids)
    model.config.sliding_window = 8
    with pytest.raises(ValueError, match="sliding_window: expected None"), torch.no_grad():
        model.model.layers[0].self_attn(
            torch.zeros(6, 22, 64), model.model.rotary_emb(torch.zeros(1), torch.arange(22)[None]), None, cache
        )


def test_without_a_paged_cache():
    model = make_model("llama", "trunkline")
    ids, _ = left_padded(prompts_with_shared_prefixes())
    with pytest.raises(ValueError, match="past_key_values: expected a trunkline.transformers.PagedCache"):
        with torch.no_grad():
            model(ids)
    with pytest.raises(ValueError, match="past_key_values: expected a trunkline.transformers.PagedCache"):
        model.generate(ids, max_new_tokens=2)


def test_another_attention_implementation():
    ids, _ = left_padded(prompts_with_shared_prefixes())
    with pytest.raises(ValueError, match="model: expected attention implementation 'trunkline'.*got 'eager'"):
        PagedCache(make_model("llama"), ids)


def test_padding_on_the_right():
    ids = torch.tensor([[3, 4, 5], [3, 4, 0]])
    with pytest.raises(ValueError, match="attention_mask: expected padding on the left, got .* in row 1"):
        PagedCache(make_model("llama", "trunkline"), ids, torch.tensor([[1, 1, 1], [1, 1, 0]]))
    with pytest.raises(ValueError, match=r"attention_mask: expected shape \[2, 3\] like input_ids, got \[2, 2\]"):
        PagedCache(make_model("llama", "trunkline"), ids, torch.ones(2, 2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"page_size": 0}, "page_size: expected at least 1, got 0"),
        ({"page_size": 16.0}, "page_size: expected an integer, got 16.0"),
        ({"page_size": 1025}, "page_size: expected 1 to 1024 tokens, got 1025"),
        ({"repeats": 0}, "repeats: expected at least 1, got 0"),
        ({"repeats": 1.5}, "repeats: expected an integer, got 1.5"),
        ({"strategy": "best"}, "strategy: expected auto, unshared, two_phase or hydragen, got 'best'"),
        ({"num_threads": 0}, "num_threads: expected at least 1, got 0"),
        ({"input_ids": [[3, 4, 5]]}, "input_ids: expected a torch.Tensor, got list"),
        ({"input_ids": torch.ones(1, 3)}, "input_ids: expected torch.int64 or torch.int32, got torch.float32"),
        ({"input_ids": torch.ones(3, dtype=torch.int64)}, r"input_ids: expected shape \[batch, tokens\], .* got \[3\]"),
        ({"input_ids": torch.ones(0, 3, dtype=torch.int64)}, r"input_ids: expected shape .* got \[0, 3\]"),
        ({"input_ids": torch.ones(1, 0, dtype=torch.int64)}, r"input_ids: expected shape .* got \[1, 0\]"),
        ({"attention_mask": [[1, 1, 1]]}, "attention_mask: expected a torch.Tensor, got list"),
    ],
)
def test_bad_cache_arguments(options, message):
    arguments = {"input_ids": torch.tensor([[3, 4, 5]]), **options}
    with pytest.raises(ValueError, match=message):
        PagedCache(make_model("llama", "trunkline"), **arguments)


def test_another_batch_or_prompt_than_the_cache_was_made_for():
    model = make_model("llama", "trunkline")
    ids = torch.tensor(prompts_with_shared_prefixes()[:1])
    with pytest.raises(ValueError, match="input_ids: expected 1 rows as the cache was made for, got 2"):
        model.generate(ids, past_key_values=PagedCache(model, ids), num_return_sequences=2, do_sample=True)
    with pytest.raises(ValueError, match="input_ids: expected the 19 columns .* got 20"):
        model.generate(ids, past_key_values=PagedCache(model, ids[:, 1:]), max_new_tokens=2)


def test_a_layer_whose_attention_is_not_trunkline_is_noticed():
    model = make_model("llama", "trunkline")
    ids = torch.tensor(prompts_with_shared_prefixes()[:1])
    cache = PagedCache(model, ids)
    model.set_attn_implementation("eager")
    with pytest.raises(RuntimeError, match="layer_idx: expected 0, got 1"), torch.no_grad():
        model(ids, past_key_values=cache)


def test_gradients_are_refused():
    model = make_model("llama", "trunkline")
    ids = torch.tensor(prompts_with_shared_prefixes()[:1])
    with pytest.raises(ValueError, match=r"model: expected a call under torch.no_grad\(\)"):
        model(ids, past_key_values=PagedCache(model, ids))


def test_crop_and_reset_are_refused():
    model = make_model("llama", "trunkline")
    cache = PagedCache(model, torch.tensor([[3, 4, 5]]))
    cache.crop(0)
    with pytest.raises(ValueError, match="crop: expected 0 tokens"):
        cache.crop(1)
    with pytest.raises(ValueError, match="reset"):
        cache.reset()
