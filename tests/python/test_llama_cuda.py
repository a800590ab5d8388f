"""trunkline.llama on a CUDA device: a replayed decode step has the logits of the same step computed eagerly."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tiny_models import make_model, prompts_with_shared_prefixes  # noqa: E402

import trunkline as tl  # noqa: E402
from trunkline.llama import Engine, Llama, SamplingParams, Weights  # noqa: E402
from trunkline.llama.graphs import DecodeGraphs  # noqa: E402

pytestmark = pytest.mark.skipif(
    not (torch.cuda.is_available() and any(b.name == "cuda" and b.available for b in tl.backends())),
    reason="needs a CUDA device and a build with CUDA",
)


@pytest.mark.parametrize("attention", ["auto", "unshared", "none"])
def test_graphs_replay_what_eager_steps_compute(attention, monkeypatch):
    replay, errors = DecodeGraphs.run, []

    def checked(self, inputs):
        logits = replay(self, inputs).clone()
        tokens, positions, slots = inputs.cuda()
        self._attention.set_slots(slots)
        eager = self._model.logits(self._model.hidden_states(tokens, positions, self._attention))
        errors.append(((logits - eager).norm() / eager.norm()).item())
        return logits

    monkeypatch.setattr(DecodeGraphs, "run", checked)
    weights = Weights.from_transformers(make_model("llama", head_dim=64), device="cuda", dtype=torch.bfloat16)
    engine = Engine(Llama(weights), num_pages=256, max_requests=16, attention=attention, cuda_graphs=True)
    engine.generate(prompts_with_shared_prefixes(), SamplingParams(max_new_tokens=20))
    # Later, other prompts and batch sizes: the same graphs, other plans.
    engine.generate(prompts_with_shared_prefixes(1)[:3], SamplingParams(max_new_tokens=20, n=2, temperature=1.0))
    assert len(errors) == engine.stats.graph_replays >= 30
    # Products of another batch size round in another order; bfloat16 has 8 bits. Another batch's plan would be off by 1.
    assert max(errors) < 0.05
