"""Transformers' continuous batching gives the tokens of eager attention."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from tiny_models import make_model, prompts_with_shared_prefixes  # noqa: E402
from transformers import ContinuousBatchingConfig, GenerationConfig  # noqa: E402

from trunkline import paged_layers  # noqa: E402
from trunkline.transformers import init_continuous_batching  # noqa: E402

NUM_TOKENS = 12
GENERATION = {"max_new_tokens": NUM_TOKENS, "do_sample": False, "eos_token_id": -1, "pad_token_id": 0}


def small_config(**options) -> ContinuousBatchingConfig:
    return ContinuousBatchingConfig(**{"page_size": 8, "num_blocks": 64, "max_batch_tokens": 48, **options})


def eager_tokens(family: str, prompts: list[list[int]]) -> list[list[int]]:
    model = make_model(family)
    generated = []
    for prompt in prompts:
        out = model.generate(torch.tensor([prompt]), max_new_tokens=NUM_TOKENS, do_sample=False)
        generated.append(out[0, len(prompt) :].tolist())
    return generated


def batched_tokens(manager, prompts: list[list[int]], waves: int = 1) -> list[list[int]]:
    """Generated tokens per prompt; each wave waits for the one before it."""
    manager.start()
    generated = {}
    try:
        for wave in range(waves):
            names = [
                manager.add_request(p, request_id=f"{wave}:{i}") for i, p in enumerate(prompts) if i % waves == wave
            ]
            pending = set(names)
            while pending:
                result = manager.get_result(timeout=60)
                assert result is not None, "timed out"
                assert result.error is None, result.error
                if result.is_finished():
                    generated[int(result.request_id.split(":")[1])] = result.generated_tokens
                    pending.discard(result.request_id)
    finally:
        manager.stop(block=True, timeout=60)
    return [generated[i] for i in range(len(prompts))]


@pytest.mark.parametrize("family", ["llama", "llama_mqa_d24", "qwen2", "qwen3", "mistral"])
def test_tokens_of_eager(family):
    prompts = prompts_with_shared_prefixes()
    model = make_model(family, "trunkline")
    manager = init_continuous_batching(model, GenerationConfig(**GENERATION), small_config())
    assert model.config._attn_implementation == "trunkline"
    assert batched_tokens(manager, prompts) == eager_tokens(family, prompts)


def test_blocks_that_requests_share_are_read_once(monkeypatch):
    shares = []
    plan = paged_layers.StepAttention.plan
    monkeypatch.setattr(
        paged_layers.StepAttention, "plan", lambda self, forest: (shares.append(forest.share), plan(self, forest))[1]
    )
    prompts = [p for p in prompts_with_shared_prefixes() if len(p) > 11]
    model = make_model("llama", "eager")  # whatever it was before
    manager = init_continuous_batching(model, GenerationConfig(**GENERATION), small_config())
    assert batched_tokens(manager, prompts, waves=2) == eager_tokens("llama", prompts)
    assert max(shares) > 1.2  # of blocks that Transformers shares between requests, found in its tables
    assert len(shares) >= NUM_TOKENS


def test_two_managers_of_two_models():
    prompts = prompts_with_shared_prefixes()[:3]
    models = [make_model("llama", "trunkline", seed=s) for s in (0, 1)]
    managers = [init_continuous_batching(m, GenerationConfig(**GENERATION), small_config()) for m in models]
    first, second = (batched_tokens(manager, prompts) for manager in managers)
    assert first == eager_tokens("llama", prompts)
    assert first != second


def test_sliding_windows_are_refused_by_name():
    model = make_model("mistral", "sdpa", sliding_window=8)
    with pytest.raises(ValueError, match="sliding_window: expected None .* got 8"):
        init_continuous_batching(model, GenerationConfig(**GENERATION), small_config())
    assert model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("name", ["use_cuda_graph", "use_async_batching"])
def test_what_would_skip_planning_is_refused(name):
    model = make_model("llama", "sdpa")
    with pytest.raises(ValueError, match=f"{name}: expected none .* got True"):
        init_continuous_batching(model, GenerationConfig(**GENERATION), small_config(**{name: True}))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strategy": "foo"}, "strategy: expected auto, unshared, two_phase or hydragen, got 'foo'"),
        ({"num_threads": 0}, "num_threads: expected at least 1, got 0"),
    ],
)
def test_bad_options_are_refused_before_a_manager_is_made(options, message):
    model = make_model("llama", "sdpa")
    with pytest.raises(ValueError, match=message):
        init_continuous_batching(model, GenerationConfig(**GENERATION), small_config(), **options)
    assert model.config._attn_implementation == "sdpa"


def test_a_manager_made_without_the_helper():
    model = make_model("llama", "sdpa")
    config = small_config(auto_switch_to_flash=False, max_blocks_per_request=0)
    manager = model.init_continuous_batching(GenerationConfig(**GENERATION), continuous_batching_config=config)
    model.set_attn_implementation("trunkline")
    with pytest.raises(AssertionError, match="expected continuous batching started by init_continuous_batching"):
        batched_tokens(manager, prompts_with_shared_prefixes()[:1])


def test_the_given_config_is_left_alone():
    config = small_config()
    init_continuous_batching(make_model("llama"), GenerationConfig(**GENERATION), config)
    assert config.use_async_batching is None and config.auto_switch_to_flash
