"""The PyTorch operators: opcheck, torch.compile, and the results of the calls beneath them."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import trunkline as tl  # noqa: E402
from trunkline import torch_ops  # noqa: E402

PAGE, HEADS, KV_HEADS = 4, 4, 2
DIM = {"cpu": 16, "cuda": 64}
DTYPE = {"cpu": torch.float32, "cuda": torch.float16}
TOLERANCE = {"cpu": 1e-5, "cuda": 1e-2}
TABLES, SEQ_LENS = np.array([[0, 1, 2], [0, 1, 3], [4, 5, 0]], np.int32), [10, 9, 6]
DEVICES = ["cpu"]
if torch.cuda.is_available() and any(b.name == "cuda" and b.available for b in tl.backends()):
    DEVICES.append("cuda")


class Case:
    """Three requests, two of which share two pages; their newest tokens are still to be written."""

    def __init__(self, device: str) -> None:
        generator = torch.Generator().manual_seed(0)

        def random(*shape: int) -> torch.Tensor:
            return torch.randn(*shape, generator=generator).to(device, DTYPE[device])

        self.dim, self.tolerance = DIM[device], TOLERANCE[device]
        config = tl.AttentionConfig(HEADS, KV_HEADS, self.dim, PAGE, dtype=DTYPE[device])
        attention = tl.Attention(config, max_requests=3, max_table_width=4, device=device)
        self.attention = torch_ops.TorchAttention(attention)
        self.attention.plan(tl.Forest.from_block_tables(TABLES, SEQ_LENS, PAGE))
        self.k_cache, self.v_cache = random(6, PAGE, KV_HEADS, self.dim), random(6, PAGE, KV_HEADS, self.dim)
        self.q, self.k, self.v = (random(3, heads, self.dim) for heads in (HEADS, KV_HEADS, KV_HEADS))
        slots = [int(table[(n - 1) // PAGE]) * PAGE + (n - 1) % PAGE for table, n in zip(TABLES, SEQ_LENS)]
        self.slots = torch.tensor(slots, device=device)

    def step(self, q, k, v, slots):
        torch_ops.append_kv(self.k_cache, self.v_cache, k, v, slots)
        return self.attention(q * 2, self.k_cache, self.v_cache) + 1

    def expected(self) -> torch.Tensor:
        """Of :meth:`step`, by PyTorch alone."""
        k_cache, v_cache = self.k_cache.clone(), self.v_cache.clone()
        k_cache.flatten(0, 1)[self.slots], v_cache.flatten(0, 1)[self.slots] = self.k, self.v
        rows = []
        for q, table, n in zip(self.q, TABLES, SEQ_LENS):
            k, v = (c[table].flatten(0, 1)[:n].repeat_interleave(HEADS // KV_HEADS, 1) for c in (k_cache, v_cache))
            weights = torch.softmax(torch.einsum("hd,thd->ht", q * 2, k) * self.dim**-0.5, dim=-1)
            rows.append(torch.einsum("ht,thd->hd", weights, v) + 1)
        return torch.stack(rows)


@pytest.fixture(params=DEVICES)
def case(request) -> Case:
    return Case(request.param)


def test_opcheck(case):
    handle = case.attention.handle
    torch.library.opcheck(torch_ops.run, (case.q, case.k_cache, case.v_cache, handle))
    torch.library.opcheck(torch_ops.run_with_lse, (case.q, case.k_cache, case.v_cache, handle))
    torch.library.opcheck(torch_ops.append_kv, (case.k_cache, case.v_cache, case.k, case.v, case.slots))


def test_eager(case):
    expected = case.expected()
    torch.testing.assert_close(case.step(case.q, case.k, case.v, case.slots), expected, rtol=case.tolerance, atol=case.tolerance)


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled_code_attends_to_what_it_appended(case, backend):
    expected = case.expected()
    compiled = torch.compile(case.step, backend=backend, fullgraph=True)
    got = compiled(case.q, case.k, case.v, case.slots)
    torch.testing.assert_close(got, expected, rtol=case.tolerance, atol=case.tolerance)
    # The next plan is that of the next call: nothing of a plan is in the compiled code.
    case.attention.plan(tl.Forest.from_block_tables(TABLES, [8, 8, 6], PAGE))
    assert not torch.allclose(compiled(case.q, case.k, case.v, case.slots), expected)


def test_lse(case):
    out, lse = case.attention.with_lse(case.q, case.k_cache, case.v_cache)
    assert torch.equal(out, case.attention(case.q, case.k_cache, case.v_cache))
    assert lse.shape == (3, HEADS) and lse.dtype == torch.float32 and bool(lse.isfinite().all())


def test_an_attention_that_is_gone(case):
    handle = case.attention.handle
    del case.attention
    with pytest.raises(ValueError, match=f"attention: expected the handle of a living TorchAttention, got {handle}"):
        torch_ops.run(case.q, case.k_cache, case.v_cache, handle)


def test_errors_of_the_core_come_through(case):
    with pytest.raises(ValueError, match="q"):
        case.attention(case.q.double(), case.k_cache, case.v_cache)


@pytest.mark.skipif("cuda" not in DEVICES, reason="needs a CUDA device and a build with CUDA")
def test_cuda_graph_capture():
    case = Case("cuda")
    expected = case.expected()
    case.step(case.q, case.k, case.v, case.slots)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = case.step(case.q, case.k, case.v, case.slots)
    out.fill_(float("nan"))
    graph.replay()
    torch.testing.assert_close(out, expected, rtol=case.tolerance, atol=case.tolerance)
