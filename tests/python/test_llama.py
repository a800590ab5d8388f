"""trunkline.llama gives the tokens of transformers, computes what is shared once, and copes with few pages."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from tiny_models import make_model, prompts_with_shared_prefixes  # noqa: E402

import trunkline as tl  # noqa: E402
from trunkline.llama import Engine, Llama, LlamaConfig, SamplingParams, Weights  # noqa: E402
from trunkline.llama.attention import TrunklineAttention  # noqa: E402
from trunkline.llama.batch_forest import BatchForest  # noqa: E402
from trunkline.llama.graphs import DecodeGraphs  # noqa: E402
from trunkline.llama.transfer import Arriving  # noqa: E402

NEW = 16
ATTENTIONS = ["auto", "unshared", "two_phase", "hydragen", "sdpa"]


def expected_tokens(model, prompts, num_tokens=NEW) -> list[list[int]]:
    generated = []
    for prompt in prompts:
        out = model.generate(torch.tensor([prompt]), max_new_tokens=num_tokens, do_sample=False)
        generated.append(out[0, len(prompt) :].tolist())
    return generated


def make_engine(model, **options) -> Engine:
    defaults = {"num_pages": 256, "page_size": 4, "max_requests": 16, "max_prefill_tokens": 64}
    return Engine(Llama(Weights.from_transformers(model)), **{**defaults, **options})


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_tokens_of_transformers(attention):
    model, prompts = make_model("llama"), prompts_with_shared_prefixes()
    engine = make_engine(model, attention=attention)
    samples = engine.generate(prompts, SamplingParams(max_new_tokens=NEW))
    assert [s for (s,) in samples] == expected_tokens(model, prompts)


@pytest.mark.parametrize("family", ["llama_mha", "llama_mqa_d24"])
@pytest.mark.parametrize("page_size", [1, 16])
def test_heads_and_page_sizes(family, page_size):
    model, prompts = make_model(family), prompts_with_shared_prefixes(1)
    samples = make_engine(model, page_size=page_size).generate(prompts, SamplingParams(max_new_tokens=NEW))
    assert [s for (s,) in samples] == expected_tokens(model, prompts)


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "linear", "rope_theta": 1000.0, "factor": 2.0},
        {
            "rope_type": "llama3",
            "rope_theta": 10000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        },
    ],
)
def test_rope_scaling(rope):
    model, prompts = make_model("llama", rope_parameters=rope), prompts_with_shared_prefixes()
    assert make_engine(model).model.config.rope_scaling[0] == rope["rope_type"]
    samples = make_engine(model).generate(prompts, SamplingParams(max_new_tokens=NEW))
    assert [s for (s,) in samples] == expected_tokens(model, prompts)


def test_weights_from_a_safetensors_folder(tmp_path):
    for tied in (False, True):
        model, prompts = make_model("llama", tie_word_embeddings=tied), prompts_with_shared_prefixes()
        model.save_pretrained(tmp_path / str(tied), max_shard_size="100KB" if tied else "1GB")
        engine = Engine(Llama(Weights.from_safetensors(tmp_path / str(tied))), num_pages=256, page_size=4)
        samples = engine.generate(prompts, SamplingParams(max_new_tokens=NEW))
        assert [s for (s,) in samples] == expected_tokens(model, prompts)


def test_bfloat16_runs():
    model = make_model("llama")
    engine = Engine(Llama(Weights.from_transformers(model, dtype=torch.bfloat16)), num_pages=64, page_size=4)
    samples = engine.generate(prompts_with_shared_prefixes(), SamplingParams(max_new_tokens=4))
    assert [len(s) for (s,) in samples] == [4] * 6


# Sharing.


def num_distinct_prefixes(prompts) -> int:
    return len({tuple(p[: i + 1]) for p in prompts for i in range(len(p))})


def test_shared_prefixes_are_computed_once():
    prompts = prompts_with_shared_prefixes()
    engine = make_engine(make_model("llama"))
    engine.generate(prompts, SamplingParams(max_new_tokens=1))
    # Beside the distinct prefixes: the last token of a prompt that is cached whole, for its logits.
    cached_whole = sum(any(p == q[: len(p)] for j, q in enumerate(prompts) if j != i) for i, p in enumerate(prompts))
    assert cached_whole == 3
    assert engine.stats.computed_tokens <= num_distinct_prefixes(prompts) + cached_whole
    assert engine.stats.computed_tokens < sum(map(len, prompts)) - 30


def test_a_later_prompt_finds_what_an_earlier_one_left():
    model = make_model("llama")
    engine = make_engine(model)
    prompt = prompts_with_shared_prefixes()[0]
    ((answer,),) = engine.generate([prompt], SamplingParams(max_new_tokens=NEW))
    chat = prompt + answer + [5, 6, 7]
    before = engine.stats.computed_tokens
    ((second,),) = engine.generate([chat], SamplingParams(max_new_tokens=1))
    assert engine.stats.computed_tokens - before == 4  # the answer's last token was never computed
    assert [second] == expected_tokens(model, [chat], 1)


def test_samples_of_a_prompt_share_its_pages():
    prompt = list(range(2, 42))
    engine = make_engine(make_model("llama"), page_size=4, num_pages=10 + 8 * 2)
    engine.add(prompt, SamplingParams(max_new_tokens=8, temperature=1.0, n=8))
    used = []
    while engine.num_unfinished:
        engine.step()
        used.append(engine.tree.stats().pages_in_use if engine.num_unfinished else 0)
    assert max(used) <= 10 + 8 * 2  # ten full pages in common, up to two of each sample
    assert engine.stats.computed_tokens == 40 + 8 * 7
    engine.tree.check_integrity()


def test_greedy_samples_are_equal_and_sampled_ones_differ():
    model, prompt = make_model("llama"), prompts_with_shared_prefixes()[0]
    ((*greedy,),) = make_engine(model).generate([prompt], SamplingParams(max_new_tokens=NEW, n=3))
    assert greedy == expected_tokens(model, [prompt]) * 3
    params = SamplingParams(max_new_tokens=NEW, n=6, temperature=2.0)
    ((*sampled,),) = make_engine(model, seed=1).generate([prompt], params)
    assert len(set(map(tuple, sampled))) > 3
    assert make_engine(model, seed=1).generate([prompt], params) == [sampled]
    assert make_engine(model, seed=2).generate([prompt], params) != [sampled]


def test_stop_tokens():
    model, prompt = make_model("llama"), prompts_with_shared_prefixes()[0]
    (expected,) = expected_tokens(model, [prompt])
    stop = expected[5]
    ((got,),) = make_engine(model).generate([prompt], SamplingParams(max_new_tokens=NEW, stop_tokens=(stop,)))
    assert got == expected[: expected.index(stop) + 1]


# Running ahead.


def test_a_step_is_launched_before_the_tokens_of_the_last_one_are_read(monkeypatch):
    events = []

    def recorded(function, name):
        def call(self):
            events.append(name)
            return function(self)

        return call

    monkeypatch.setattr(Engine, "_launch", recorded(Engine._launch, "launch"))
    monkeypatch.setattr(Arriving, "tolist", recorded(Arriving.tolist, "read"))
    engine = make_engine(make_model("llama"))
    engine.generate([[5, 6, 7]], SamplingParams(max_new_tokens=4))
    assert events == ["launch", "launch", "read", "launch", "read", "launch", "read", "read"]
    assert engine.stats.computed_tokens == 3 + 3  # nothing ran on after the last token


def test_a_stop_is_seen_a_step_late_and_what_came_of_it_is_dropped():
    model, prompts = make_model("llama"), prompts_with_shared_prefixes()
    expected = expected_tokens(model, prompts)
    alone = make_engine(model)
    stop = expected[0][5]
    length = expected[0].index(stop) + 1
    never = next(token for token in range(97) if token not in expected[0])
    params = SamplingParams(max_new_tokens=NEW, stop_tokens=(never, stop))
    assert alone.generate(prompts[:1], params) == [[expected[0][:length]]]
    assert alone.stats.generated_tokens == length
    assert alone.stats.computed_tokens == len(prompts[0]) + length  # the stop token too
    assert alone.tree.stats().num_requests == 0
    # Others go on in the same batch, and the pages are used again.
    together = make_engine(model, num_pages=40, max_requests=4)
    stops = [tokens[i] for i, tokens in enumerate(expected)]
    generations = [
        together.add(prompt, SamplingParams(max_new_tokens=NEW, stop_tokens=(stop,) if i % 3 else (), n=i % 2 + 1))
        for _ in range(2)
        for i, (prompt, stop) in enumerate(zip(prompts, stops))
    ]
    while together.num_unfinished:
        together.step()
        together.tree.check_integrity()
    for i, generation in enumerate(generations):
        tokens = expected[i % 6]
        whole = tokens[: tokens.index(stops[i % 6]) + 1] if i % 6 % 3 else tokens
        assert generation.samples == [whole] * (i % 2 + 1)
    assert together.stats.generated_tokens == sum(len(s) for g in generations for s in g.samples)
    assert together.tree.stats().num_requests == 0


def test_a_stop_in_the_last_step_but_one():
    model, prompt = make_model("llama"), prompts_with_shared_prefixes()[0]
    (expected,) = expected_tokens(model, [prompt])
    for length in range(1, 8):
        params = SamplingParams(max_new_tokens=length, stop_tokens=(expected[5],))
        end = min(length, expected.index(expected[5]) + 1)
        engine = make_engine(model)
        assert engine.generate([prompt, prompt], params) == [[expected[:end]]] * 2
        assert engine.num_unfinished == 0


def test_the_same_seed_draws_the_same_tokens_while_requests_come_and_go():
    model, prompts = make_model("llama"), prompts_with_shared_prefixes()

    def draw(seed: int) -> list:
        engine, generations = make_engine(model, seed=seed, max_requests=5), []
        for i, prompt in enumerate(prompts):
            params = SamplingParams(
                max_new_tokens=5 + i,
                temperature=(i % 3) * 0.8,
                top_p=1 - 0.1 * (i % 2),
                stop_tokens=(7, 8),
                n=i % 2 + 1,
            )
            generations.append(engine.add(prompt, params))
            engine.step()
        while engine.num_unfinished:
            engine.step()
        return [generation.samples for generation in generations]

    assert draw(3) == draw(3) != draw(4)
    greedy = expected_tokens(model, prompts)
    assert draw(3)[0] == [greedy[0][:5]]  # beside others that are sampled


# Scheduling.


@pytest.mark.parametrize("max_prefill_tokens", [1, 7])
def test_prompts_in_pieces(max_prefill_tokens):
    model, prompts = make_model("llama"), prompts_with_shared_prefixes()
    engine = make_engine(model, max_prefill_tokens=max_prefill_tokens)
    samples = engine.generate(prompts, SamplingParams(max_new_tokens=NEW))
    assert [s for (s,) in samples] == expected_tokens(model, prompts)


def test_requests_wait_for_each_other():
    model, prompts = make_model("llama"), prompts_with_shared_prefixes()
    samples = make_engine(model, max_requests=2).generate(prompts, SamplingParams(max_new_tokens=NEW))
    assert [s for (s,) in samples] == expected_tokens(model, prompts)


@pytest.mark.parametrize("attention", ["auto", "sdpa"])
def test_prompts_join_while_others_decode(attention):
    model, prompts = make_model("llama"), prompts_with_shared_prefixes()
    engine, generations = make_engine(model, attention=attention), []
    for prompt in prompts:
        generations.append(engine.add(prompt, SamplingParams(max_new_tokens=NEW)))
        engine.step()
        engine.step()
    while engine.num_unfinished:
        engine.step()
    assert [g.samples[0] for g in generations] == expected_tokens(model, prompts)


@pytest.mark.parametrize("num_pages", [12, 16, 20])
def test_few_pages(num_pages):
    model, prompts = make_model("llama"), prompts_with_shared_prefixes()
    engine = make_engine(model, num_pages=num_pages)
    samples = engine.generate(prompts, SamplingParams(max_new_tokens=NEW))
    assert [s for (s,) in samples] == expected_tokens(model, prompts)
    assert engine.stats.preemptions > 0
    engine.tree.check_integrity()


def test_what_the_pages_never_hold_is_refused():
    model, base = make_model("llama"), list(range(2, 40))
    engine = make_engine(model, num_pages=4)
    for num_tokens, num_new in ((18, 2), (16, 2), (14, 4)):
        message = rf"prompt: expected KV of at most 16 tokens in 4 pages, got {num_tokens} \+ {num_new} - 1"
        with pytest.raises(ValueError, match=message):
            engine.add(base[:num_tokens], SamplingParams(max_new_tokens=num_new))
    assert engine.num_unfinished == 0
    # As many as they hold are served, side by side and sample by sample.
    for num_tokens, num_new in ((16, 1), (14, 3), (3, 14)):
        prompts = [base[i : i + num_tokens] for i in range(2)]
        samples = engine.generate(prompts, SamplingParams(max_new_tokens=num_new, n=3))
        assert samples == [[expected] * 3 for expected in expected_tokens(model, prompts, num_new)]
        engine.tree.check_integrity()


@pytest.mark.parametrize("max_prefill_tokens", [5, 64])
def test_a_prompt_that_does_not_fit_beside_held_pages_is_dropped(max_prefill_tokens):
    model, base = make_model("llama"), list(range(2, 40))
    engine = make_engine(model, num_pages=4, max_prefill_tokens=max_prefill_tokens)
    engine.generate([base[:8]], SamplingParams(max_new_tokens=1))
    lock = engine.tree.lock(base[:8])
    large, small = base[20:34], base[30:34]
    dropped, kept = (engine.add(prompt, SamplingParams(max_new_tokens=3)) for prompt in (large, small))
    with pytest.raises(MemoryError):
        for _ in range(4):
            engine.step()
    assert engine.num_unfinished == 1
    while engine.num_unfinished:
        engine.step()
    assert not dropped.finished and kept.samples == expected_tokens(model, [small], 3)
    engine.tree.unlock(lock)
    assert engine.generate([large], SamplingParams(max_new_tokens=3)) == [expected_tokens(model, [large], 3)]
    engine.tree.check_integrity()


@pytest.mark.parametrize("num_new", [1, 20])
def test_a_prefix_that_holds_too_many_pages_is_let_go(num_new):
    """Ways part at tokens 3, 6, 9 and 12 of a page, so what is cached of a prompt lies in copies of it, all of them held
    with the last."""
    model, base = make_model("llama"), list(range(2, 32))
    engine = make_engine(model, num_pages=4, page_size=16)
    for length in (3, 6, 9, 12):
        engine.generate([[*base[:length], 90, 91]], SamplingParams(max_new_tokens=1))
    assert engine.tree.stats().pages_cached == 4
    prompt = base if num_new == 1 else base[:13]
    samples = engine.generate([prompt], SamplingParams(max_new_tokens=num_new))
    assert samples == [expected_tokens(model, [prompt], num_new)]
    engine.tree.check_integrity()


def test_the_forest_that_advances_is_the_one_of_the_tree(monkeypatch):
    step, steps = BatchForest.step, []

    def checked(self, batch):
        forest = step(self, batch)
        assert forest == tl.Forest.from_tree(self._tree, batch.rows["request"].copy(), batch.num_new)
        steps.append(forest.version)
        return forest

    monkeypatch.setattr(BatchForest, "step", checked)
    engine = make_engine(make_model("llama"), num_pages=24, max_prefill_tokens=9)
    params = [SamplingParams(max_new_tokens=n, n=n % 3 + 1, temperature=1.0) for n in range(3, 15)]
    for i, prompt in enumerate(prompts_with_shared_prefixes() + prompts_with_shared_prefixes()):
        engine.add(prompt, params[i])
        engine.step()
    while engine.num_unfinished:
        engine.step()
    assert engine.stats.preemptions > 0 and engine.tree.stats().duplicate_pages > 0
    assert max(steps) > 10  # advanced, not rebuilt


class _ReplayByCalling:
    """Stands in for a CUDA graph: replaying calls the step again, on the same buffers."""

    def __init__(self, graphs: DecodeGraphs, size: int) -> None:
        self._step = lambda: graphs._step(size)
        self.logits = self._step().clone()

    def replay(self) -> None:
        self.logits.copy_(self._step())


def test_padded_decode_steps(monkeypatch):
    """What a decode step in a graph does, on the CPU: batches of 6 and less, padded to 8, 4 and 2 rows in fixed
    buffers. What attention leaves in padding rows does no harm."""
    attend, planned = TrunklineAttention.attend, []

    def poisoned(self, layer, q, k, v):
        out = attend(self, layer, q, k, v)
        out[planned[-1] :] = torch.nan
        return out

    def plan(self, forest):
        planned.append(forest.num_query_tokens)
        self._step.plan(forest)

    def capture(self, size):
        graph = _ReplayByCalling(self, size)
        return graph, graph.logits

    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: 0)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self)
    monkeypatch.setattr(DecodeGraphs, "_capture", capture)
    monkeypatch.setattr(TrunklineAttention, "attend", poisoned)
    monkeypatch.setattr(TrunklineAttention, "plan", plan)
    model, prompts = make_model("llama"), prompts_with_shared_prefixes()
    engine = make_engine(model)
    engine._graphs = DecodeGraphs(engine.model, engine._attention, engine._sampled, 16)
    with torch.inference_mode():
        lengths = [NEW, 5, NEW - 2, 6, NEW - 4, 7]
        generations = [engine.add(p, SamplingParams(max_new_tokens=n)) for p, n in zip(prompts, lengths)]
        while engine.num_unfinished:
            engine.step()
    for generation, length, expected in zip(generations, lengths, expected_tokens(model, prompts)):
        assert generation.samples == [expected[:length]]
    assert engine.stats.graph_replays > NEW // 2
    assert set(engine._graphs._graphs) == {1, 2, 4, 8}


# Sampling.


def test_top_p_keeps_the_fewest_likely_tokens():
    from trunkline.llama.sampling import sample

    logits = torch.tensor([[0.4, 0.3, 0.2, 0.1]]).log().repeat(2000, 1)
    generator = torch.Generator().manual_seed(0)
    for top_p, kept in ((0.01, 1), (0.39, 1), (0.41, 2), (0.75, 3), (1.0, 4)):
        tokens = sample(logits, [SamplingParams(temperature=1.0, top_p=top_p)] * 2000, generator)
        assert sorted(set(tokens.tolist())) == list(range(kept))
    share = (sample(logits, [SamplingParams(temperature=1.0, top_p=0.41)] * 2000, generator) == 0).float().mean()
    assert abs(share - 4 / 7) < 0.05  # 4.5 standard deviations
    mixed = sample(logits[:3], [SamplingParams(), SamplingParams(temperature=1e-4), SamplingParams()], generator)
    assert mixed.tolist() == [0, 0, 0]


# Refusals.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens: expected at least 1, got 0"),
        ({"max_new_tokens": 2.5}, "max_new_tokens: expected an integer, got 2.5"),
        ({"temperature": -1.0}, "temperature: expected a number of at least 0, got -1.0"),
        ({"temperature": float("nan")}, "temperature: expected a number of at least 0, got nan"),
        ({"temperature": "hot"}, "temperature: expected a number of at least 0, got 'hot'"),
        ({"top_p": 0.0}, r"top_p: expected a number within \(0, 1\], got 0.0"),
        ({"top_p": None}, r"top_p: expected a number within \(0, 1\], got None"),
        ({"n": 0}, "n: expected at least 1, got 0"),
        ({"n": 1.5}, "n: expected an integer, got 1.5"),
        ({"n": True}, "n: expected an integer, got True"),
        ({"stop_tokens": 5}, "stop_tokens: expected integers, got 5"),
        ({"stop_tokens": (5, 6.0)}, r"stop_tokens\[1\]: expected an integer, got 6.0"),
    ],
)
def test_bad_sampling_params(options, message):
    with pytest.raises(ValueError, match=message):
        SamplingParams(**options)


def test_integers_of_other_libraries_are_taken():
    params = SamplingParams(max_new_tokens=np.int64(4), n=torch.tensor(2), stop_tokens=[np.int32(3), 4])
    assert params == SamplingParams(max_new_tokens=4, n=2, stop_tokens=(3, 4))
    engine, prompt = make_engine(make_model("llama")), [5, 6, 7]
    for given in (np.array(prompt, np.int32), torch.tensor(prompt), iter(prompt)):
        assert engine.add(given).prompt == prompt


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_pages": 0}, "num_pages: expected at least 1, got 0"),
        ({"page_size": 4.0}, "page_size: expected an integer, got 4.0"),
        ({"max_requests": 0}, "max_requests: expected at least 1, got 0"),
        ({"max_seq_len": -5}, "max_seq_len: expected at least 1, got -5"),
        ({"max_prefill_tokens": 0}, "max_prefill_tokens: expected at least 1, got 0"),
        ({"seed": "1"}, "seed: expected an integer, got '1'"),
        ({"num_threads": 0, "attention": "none"}, "num_threads: expected at least 1, got 0"),
    ],
)
def test_bad_engine_options(options, message):
    with pytest.raises(ValueError, match=message):
        make_engine(make_model("llama"), **options)


def test_bad_prompts():
    engine = make_engine(make_model("llama"))
    for prompt, message in (
        ([], "prompt: expected at least one token, got none"),
        ([5, 97], r"prompt\[1\]: expected a token in \[0, 97\), got 97"),
        ([-1], r"prompt\[0\]: expected a token in \[0, 97\), got -1"),
        ([1.7, 2.2], r"prompt\[0\]: expected an integer, got 1.7"),
        ("12", r"prompt\[0\]: expected an integer, got '1'"),
        (12, "prompt: expected integers, got 12"),
    ):
        with pytest.raises(ValueError, match=message):
            engine.add(prompt)
    with pytest.raises(ValueError, match=r"prompts\[1\]\[0\]: expected a token in \[0, 97\), got 99"):
        engine.generate([[1, 2], [99]])
    assert engine.num_unfinished == 0  # not the good one either
    with pytest.raises(ValueError, match=r"prompt: expected at most 256 tokens with the new ones, got 250 \+ 16"):
        engine.add([2] * 250, SamplingParams(max_new_tokens=16))
    with pytest.raises(ValueError, match="n: expected at most max_requests 16, got 17"):
        engine.add([2], SamplingParams(n=17))
    with pytest.raises(RuntimeError, match="step: expected a prompt, got none"):
        engine.step()


def test_models_that_are_no_plain_llama():
    config = make_model("llama").config.to_dict()
    for change, message in (
        ({"model_type": "qwen2"}, "model_type: expected 'llama', got 'qwen2'"),
        ({"hidden_act": "gelu"}, "hidden_act: expected 'silu', got 'gelu'"),
        ({"attention_bias": True}, "attention_bias: expected False, got True"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "rope_type: expected .* got 'yarn'"),
    ):
        with pytest.raises(ValueError, match=message):
            LlamaConfig.from_dict({**config, **change})


def test_cuda_graphs_need_cuda():
    with pytest.raises(ValueError, match="cuda_graphs: expected False on cpu"):
        make_engine(make_model("llama"), cuda_graphs=True)
