"""CUDA tensors of PyTorch, where there is a device and a build for it."""

import numpy as np
import pytest

import trunkline as tl
from conftest import make_batch

torch = pytest.importorskip("torch")

available = torch.cuda.is_available() and any(b.name == "cuda" and b.available for b in tl.backends())
pytestmark = pytest.mark.skipif(not available, reason="needs a CUDA device and a build with CUDA")


@pytest.fixture
def cuda():
    """The batch of `conftest` in bfloat16 and head_dim 64: numbers, arguments on the device, a planned attention."""
    batch = make_batch(np.float32, head_dim=64)
    q, pages = torch.from_numpy(batch.q).bfloat16().cuda(), torch.from_numpy(batch.pages).bfloat16().cuda()
    attention = tl.Attention(
        tl.AttentionConfig(4, 2, 64, 16, dtype=torch.bfloat16),
        max_requests=4, max_query_tokens=8, max_table_width=8, device="cuda",
    )  # fmt: skip
    attention.plan(batch.forest())
    return batch, attention, q, pages, tl.KvCache.interleaved(pages)


def expected(batch, q, pages):
    host = tl.KvCache.interleaved(pages.cpu())
    return tl.reference_attention(q.cpu(), host, batch.tables, batch.seq_lens, batch.qo_lens)


def check(attention, reference, out, lse):
    assert (np.abs(out.double().cpu().numpy() - reference.out) <= reference.bound).all()
    assert (np.abs(lse.double().cpu().numpy() - reference.lse) <= reference.lse_bound * attention.lse_bound_factor).all()


def test_matches_the_reference(cuda):
    batch, attention, q, pages, kv = cuda
    assert attention.kernel.startswith("cuda/") and kv.device == "cuda:0"
    out, lse = attention.run(q, kv, lse=True)
    assert out.device == q.device and lse.dtype == torch.float32
    check(attention, expected(batch, q, pages), out, lse)


def test_no_memory_is_taken(cuda):
    _, attention, q, _, kv = cuda
    out = torch.empty(4, 8, 64, dtype=q.dtype, device="cuda")[:, ::2]
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    attention.run(q, kv, out)
    torch.cuda.synchronize()
    assert torch.cuda.max_memory_allocated() == before
    torch.testing.assert_close(out, attention.run(q, kv))


def test_the_current_stream_is_used(cuda):
    """q is written on another stream, behind a long wait: a run on the wrong stream would read the poison."""
    batch, attention, q, pages, kv = cuda
    late = torch.full_like(q, torch.nan)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        late.copy_(q)
        attention.plan(batch.forest())
        out, lse = attention.run(late, kv, lse=True)
    by_name, _ = attention.run(late, kv, lse=True, stream=stream)
    by_address, _ = attention.run(late, kv, lse=True, stream=stream.cuda_stream)
    stream.synchronize()
    check(attention, expected(batch, q, pages), out, lse)
    assert torch.equal(by_name, out) and torch.equal(by_address, out)


def test_a_captured_run_follows_the_plan(cuda):
    batch, attention, q, pages, kv = cuda
    out, lse = torch.zeros_like(q), torch.zeros(4, 4, device="cuda")
    k = torch.ones(1, 2, 64, dtype=q.dtype, device="cuda")
    slots = torch.full((1,), -1, dtype=torch.int64, device="cuda")
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        attention.plan(batch.forest())
        attention.run(q, kv, out, lse)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            with pytest.raises(ValueError, match="captur"):
                attention.plan(batch.forest())
            tl.append_kv(kv, k, k, slots)
            attention.run(q, kv, out, lse)
        other = tl.Forest.from_block_tables(batch.tables[1:], batch.seq_lens[1:], 16)
        attention.plan(other)
        slots.fill_(4 * 16 + 4)  # the newest token of the second request
        out.zero_()
        graph.replay()
    stream.synchronize()
    assert (pages[4, :, 4] == 1).all()
    host = tl.KvCache.interleaved(pages.cpu())
    reference = tl.reference_attention(q[:2].cpu(), host, batch.tables[1:], batch.seq_lens[1:])
    check(attention, reference, out[:2], lse[:2])
    assert (out[2:] == 0).all()


def test_wrong_devices(cuda):
    batch, attention, q, pages, kv = cuda
    for message, call in {
        r"q\.device: expected cuda:0, got cpu": lambda: attention.run(q.cpu(), kv),
        r"out\.device": lambda: attention.run(q, kv, torch.empty_like(q, device="cpu")),
        r"kv\.device": lambda: attention.run(q, tl.KvCache.interleaved(pages.cpu())),
        r"v\.device": lambda: tl.KvCache(pages[:, 0], pages[:, 1].cpu()),
        r"seq_lens\.device": lambda: attention.run(q, kv, seq_lens=batch.seq_lens),
        r"tables\.device: expected cpu": lambda: tl.Forest.from_block_tables(
            torch.from_numpy(batch.tables).cuda(), batch.seq_lens, 16
        ),
        r"memory\.device": lambda: tl.Workspace(attention, np.zeros(attention.workspace_bytes, np.uint8)),
        r"stream": lambda: attention.run(q, kv, stream="default"),
    }.items():
        with pytest.raises(ValueError, match=message):
            call()
