"""trunkline.llama on a CUDA device: a replayed decode step has the logits of the same step computed eagerly, and the host
never waits for the device but to read the tokens of the step before."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tiny_models import make_model, prompts_with_shared_prefixes  # noqa: E402

import trunkline as tl  # noqa: E402
from trunkline.llama import Engine, Llama, SamplingParams, Weights  # noqa: E402
from trunkline.llama.graphs import DecodeGraphs, forward  # noqa: E402

pytestmark = pytest.mark.skipif(
    not (torch.cuda.is_available() and any(b.name == "cuda" and b.available for b in tl.backends())),
    reason="needs a CUDA device and a build with CUDA",
)


def make_engine(attention: str = "auto", **options) -> Engine:
    weights = Weights.from_transformers(make_model("llama", head_dim=64), device="cuda", dtype=torch.bfloat16)
    defaults = {"num_pages": 256, "max_requests": 16, "attention": attention, "cuda_graphs": True}
    return Engine(Llama(weights), **{**defaults, **options})


@pytest.mark.parametrize("attention", ["auto", "unshared", "none"])
def test_graphs_replay_what_eager_steps_compute(attention, monkeypatch):
    replay, errors = DecodeGraphs.run, []

    def checked(self, inputs):
        logits = replay(self, inputs).clone()
        hidden = forward(self._model, self._attention, torch.from_numpy(inputs).cuda(), self._sampled)
        eager = self._model.logits(hidden)
        errors.append(((logits - eager).norm() / eager.norm()).item())
        return logits

    monkeypatch.setattr(DecodeGraphs, "run", checked)
    engine = make_engine(attention)
    engine.generate(prompts_with_shared_prefixes(), SamplingParams(max_new_tokens=20))
    # Later, other prompts and batch sizes: the same graphs, other plans.
    engine.generate(prompts_with_shared_prefixes(1)[:3], SamplingParams(max_new_tokens=20, n=2, temperature=1.0))
    assert len(errors) == engine.stats.graph_replays >= 30
    # Products of another batch size round in another order; bfloat16 has 8 bits. Another batch's plan would be off by 1.
    assert max(errors) < 0.05


SAMPLING = {
    "greedy": {},
    "top_p": {"temperature": 0.8, "top_p": 0.9},
    "stops": {"temperature": 1.0, "stop_tokens": (3, 5)},
}


@pytest.mark.parametrize("attention", ["auto", "none"])
@pytest.mark.parametrize("graphs", [True, False])
@pytest.mark.parametrize("sampling", SAMPLING)
def test_a_step_is_launched_while_the_device_is_busy(attention, graphs, sampling, monkeypatch):
    """The device sleeps before every step, and still does when the host has launched it: planned, with every input sent
    and the sampling behind it."""
    launch, left_behind = Engine._launch, []

    def timed(self):
        torch.cuda._sleep(60_000_000)  # cycles: at least 30 ms
        launched = launch(self)
        left_behind.append(not torch.cuda.current_stream().query())
        return launched

    engine = make_engine(attention, cuda_graphs=graphs)
    params = SamplingParams(max_new_tokens=20, **SAMPLING[sampling])
    for seed in (0, 1):  # captures graphs, pins memory and loads kernels, all of which wait
        engine.generate(prompts_with_shared_prefixes(seed), params)
    monkeypatch.setattr(Engine, "_launch", timed)
    torch.cuda.set_sync_debug_mode("error")  # raises where PyTorch would wait
    try:
        generations = [engine.add(prompt, params) for prompt in prompts_with_shared_prefixes(2)]
        while engine.num_unfinished:
            engine.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(generation.finished for generation in generations)
    assert len(left_behind) > 5 and all(left_behind[2:])


def test_the_same_seed_draws_the_same_tokens():
    params = SamplingParams(max_new_tokens=20, temperature=1.0, top_p=0.9, n=2)
    drawn = [make_engine(seed=seed).generate(prompts_with_shared_prefixes(), params) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_steps_ahead_have_the_tokens_of_steps_that_wait():
    """With each step's tokens read before the next is made: the same batches and sharing, so the same bits."""
    prompts, params = prompts_with_shared_prefixes()[:3], SamplingParams(max_new_tokens=20)
    waits = make_engine()
    generations = [waits.add(prompt, params) for prompt in prompts]
    while waits.num_unfinished:
        waits.step()
        waits._take()
        torch.cuda.synchronize()
    assert make_engine().generate(prompts, params) == [generation.samples for generation in generations]
