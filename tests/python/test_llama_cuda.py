"""trunkline.llama on a CUDA device: decode in graphs gives the tokens of eager steps and of transformers."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tiny_models import make_model, prompts_with_shared_prefixes  # noqa: E402

import trunkline as tl  # noqa: E402
from trunkline.llama import Engine, Llama, SamplingParams, Weights  # noqa: E402

pytestmark = pytest.mark.skipif(
    not (torch.cuda.is_available() and any(b.name == "cuda" and b.available for b in tl.backends())),
    reason="needs a CUDA device and a build with CUDA",
)


def make_engine(dtype, **options) -> Engine:
    weights = Weights.from_transformers(make_model("llama", head_dim=64), device="cuda", dtype=dtype)
    return Engine(Llama(weights), num_pages=256, max_requests=16, **options)


@pytest.mark.parametrize("attention", ["auto", "unshared", "none"])
def test_graphs_replay_what_eager_steps_compute(attention):
    tokens = []
    for cuda_graphs in (False, True):
        engine = make_engine(torch.bfloat16, attention=attention, cuda_graphs=cuda_graphs)
        tokens.append(engine.generate(prompts_with_shared_prefixes(), SamplingParams(max_new_tokens=16)))
        # Prompts of other lengths later: the same graphs, other plans.
        tokens[-1] += engine.generate(prompts_with_shared_prefixes(1)[:3], SamplingParams(max_new_tokens=16, n=2))
        assert (engine.stats.graph_replays > 20) == cuda_graphs
    assert tokens[0] == tokens[1]
