"""PyTorch tensors on the CPU: taken as they are, strided ones too."""

import gc
import weakref

import numpy as np
import pytest

import trunkline as tl
from conftest import make_batch

torch = pytest.importorskip("torch")


@pytest.fixture
def planned(batch):
    attention = batch.attention()
    attention.plan(batch.forest())
    return attention


def test_tensors_in_tensors_out(batch, planned):
    pages = torch.from_numpy(batch.pages)
    kv = tl.KvCache.interleaved(pages)
    out, lse = planned.run(torch.from_numpy(batch.q), kv, lse=True)
    assert isinstance(out, torch.Tensor) and out.dtype == torch.float32 and lse.dtype == torch.float32
    batch.check(out, lse)
    pages[:, 1] *= 2  # bound, not copied
    torch.testing.assert_close(planned.run(torch.from_numpy(batch.q), kv), 2 * out)


def test_bfloat16():
    torch_batch = make_batch()
    q = torch.from_numpy(torch_batch.q).bfloat16()
    pages = torch.from_numpy(torch_batch.pages).bfloat16()
    config = tl.AttentionConfig(4, 2, 32, 16, dtype=torch.bfloat16)
    attention = tl.Attention(config, max_requests=3, max_query_tokens=4, max_table_width=3, device=torch.device("cpu"))
    attention.plan(torch_batch.forest())
    kv = tl.KvCache(pages[:, 0], pages[:, 1])
    out = attention.run(q, kv)
    assert out.dtype == torch.bfloat16
    reference = tl.reference_attention(q, kv, torch_batch.tables, torch_batch.seq_lens, torch_batch.qo_lens)
    assert (np.abs(out.double().numpy() - reference.out) <= reference.bound).all()


def test_non_contiguous_out_is_written(batch, kv, planned):
    out = torch.full((4, 32, 4), torch.nan).transpose(1, 2)  # head_dim is not contiguous: refused, not copied
    with pytest.raises(ValueError, match=r"out\.strides\[2\]"):
        planned.run(torch.from_numpy(batch.q), kv, out)
    assert out.isnan().all()
    out = torch.full((4, 4, 32), torch.nan).transpose(0, 1)
    assert not out.is_contiguous()
    assert planned.run(torch.from_numpy(batch.q), kv, out) is out
    batch.check(out)


def test_tables_slots_and_lengths_are_tensors(batch, kv):
    forest = tl.Forest.from_block_tables(
        torch.from_numpy(batch.tables), torch.from_numpy(batch.seq_lens), 16, torch.tensor([1, 2, 1], dtype=torch.int32)
    )
    assert forest == batch.forest()
    with pytest.raises(ValueError, match=r"tables\.dtype: expected int32, got int64"):
        tl.Forest.from_block_tables(torch.from_numpy(batch.tables).long(), batch.seq_lens, 16)
    pages = torch.zeros(2, 2, 16, 2, 8)
    cache = tl.KvCache.interleaved(pages)
    rows = torch.randn(2, 2, 8)
    tl.append_kv(cache, rows, rows + 1, torch.tensor([3, 16]))
    torch.testing.assert_close(pages[1, 1, 0], rows[1] + 1)
    attention = batch.attention()
    attention.plan(forest)
    _, lse = attention.run(batch.q, kv, lse=True, seq_lens=torch.tensor([37, 48, 0], dtype=torch.int32))
    assert (lse[3] == -np.inf).all()


def test_without_the_exchange_interface(batch, monkeypatch):
    """PyTorch before DLPack's C exchange interface goes by __dlpack__."""
    if hasattr(torch.Tensor, "__dlpack_c_exchange_api__"):
        monkeypatch.delattr(torch.Tensor, "__dlpack_c_exchange_api__")
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 2e-2)):
        config = tl.AttentionConfig(4, 2, 32, 16, dtype=dtype)
        attention = tl.Attention(config, max_requests=3, max_query_tokens=4, max_table_width=3)
        attention.plan(batch.forest())
        q, pages = torch.from_numpy(batch.q).to(dtype), torch.from_numpy(batch.pages).to(dtype)
        out = torch.full((4, 4, 32), torch.nan, dtype=dtype).transpose(0, 1)
        attention.run(q, tl.KvCache(pages[:, 0], pages[:, 1]), out)
        batch.check(out.float(), tolerance=tolerance)
        torch.testing.assert_close(attention.run(q, tl.KvCache.interleaved(pages)), out)
    with pytest.raises(ValueError, match="q: expected an array that DLPack"):
        attention.run(q.to("meta"), tl.KvCache.interleaved(pages))


def test_libraries_mix(batch, planned):
    """NumPy pages, a tensor as q, an array as out."""
    out = np.zeros_like(batch.q)
    planned.run(torch.from_numpy(batch.q), tl.KvCache.interleaved(batch.pages), out)
    batch.check(out)
    a, sums = planned.run(torch.from_numpy(batch.q), tl.KvCache.interleaved(batch.pages), lse=True)
    merged, _ = tl.merge(a, sums, torch.zeros_like(a), torch.full_like(sums, -torch.inf))
    torch.testing.assert_close(merged, a)


def test_parameters_and_subclasses(batch, kv, planned):
    with torch.no_grad():
        batch.check(planned.run(torch.nn.Parameter(torch.from_numpy(batch.q)), kv))
    frozen = torch.nn.Parameter(torch.from_numpy(batch.q), requires_grad=False)
    batch.check(planned.run(frozen, kv).detach())


@pytest.mark.parametrize("exchange", [True, False])
def test_gradients_are_refused(batch, kv, planned, monkeypatch, exchange):
    if not exchange and hasattr(torch.Tensor, "__dlpack_c_exchange_api__"):
        monkeypatch.delattr(torch.Tensor, "__dlpack_c_exchange_api__")
    q, pages = torch.from_numpy(batch.q), torch.from_numpy(batch.pages)
    wanted, rows = q.clone().requires_grad_(), torch.ones(2, 2, 32)
    sums, out = torch.full((4, 4), 7.0), torch.full((4, 4, 32), 7.0)
    before = batch.pages.copy()
    for name, call in {
        "q": lambda: planned.run(wanted * 1, kv, out),  # as of a layer with weights that learn
        "out": lambda: planned.run(q, kv, wanted),
        "lse": lambda: planned.run(q, kv, out, sums.clone().requires_grad_()),
        "k": lambda: tl.append_kv(kv, rows.clone().requires_grad_(), rows, [0, 1]),
        "v": lambda: tl.append_kv(kv, rows, rows.clone().requires_grad_(), [0, 1]),
        "kv": lambda: tl.KvCache.interleaved(pages.clone().requires_grad_()),
        "out_b": lambda: tl.merge(q, sums, wanted, sums),
    }.items():
        with pytest.raises(ValueError, match=rf"{name}: expected a tensor that no gradient is wanted of") as raised:
            call()
        assert raised.value.got == "one that requires grad"
    assert (out == 7).all()
    np.testing.assert_array_equal(batch.pages, before)
    with torch.no_grad():
        planned.run(wanted, kv, out)
    batch.check(out)
    with torch.inference_mode():
        batch.check(planned.run(wanted, kv))


def test_bad_tensors(batch, kv, planned):
    q = torch.from_numpy(batch.q)
    for message, bad in {
        "q": q.to("meta"),
        r"q\.dtype: expected float32, float16 or bfloat16, got float64": q.double(),
        r"q\.dtype: expected float32, got bfloat16": q.bfloat16(),
        r"q\.strides\[2\]": q.transpose(1, 2).contiguous().transpose(1, 2),
        "q: expected": q.to_sparse(),
    }.items():
        with pytest.raises(ValueError, match=message):
            planned.run(bad, kv)
    with pytest.raises(ValueError, match=r"out"):
        planned.run(q, kv, torch.empty(4, 4, 32, device="meta"))


def test_freed_memory_is_noticed(batch, planned):
    pages = torch.from_numpy(batch.pages.copy()).clone()
    kv = tl.KvCache.interleaved(pages)
    pages.untyped_storage().resize_(0)
    out = torch.full((4, 4, 32), 7.0)
    for call in (
        lambda: planned.run(torch.from_numpy(batch.q), kv, out),
        lambda: tl.append_kv(kv, torch.zeros(1, 2, 32), torch.zeros(1, 2, 32), [0]),
        lambda: tl.copy_kv(kv, [(0, 1, 2)]),
    ):
        with pytest.raises(ValueError, match="freed or moved"):
            call()
    assert (out == 7).all()
    q = torch.from_numpy(batch.q.copy()).clone()
    q.untyped_storage().resize_(0)
    kv = tl.KvCache.interleaved(batch.pages)
    with pytest.raises(ValueError, match=r"q\.data: expected a pointer to the elements, got null"):
        planned.run(q, kv)
    lengths = torch.from_numpy(batch.seq_lens).clone()
    lengths.untyped_storage().resize_(0)
    sums = torch.zeros(4, 4)
    sums.untyped_storage().resize_(0)
    for name, call in {
        "seq_lens": lambda: tl.Forest.from_block_tables(batch.tables, lengths, 16),
        "lse": lambda: planned.run(batch.q, kv, lse=sums),
    }.items():
        with pytest.raises(ValueError, match=rf"{name}\.data: expected a pointer to the elements, got null"):
            call()


def test_the_cache_keeps_tensors_alive_and_lets_them_go(batch, planned):
    pages = torch.from_numpy(batch.pages.copy())
    alive = weakref.ref(pages)
    kv = tl.KvCache(pages[:, 0], pages[:, 1])
    batch.check(planned.run(batch.q, kv))
    kv = tl.KvCache.interleaved(pages)
    del pages
    gc.collect()
    assert alive() is not None
    batch.check(planned.run(batch.q, kv))
    del kv
    gc.collect()
    assert alive() is None


def test_workspace_in_a_tensor(batch, kv):
    attention = batch.attention()
    memory = torch.zeros(attention.workspace_bytes + 64, dtype=torch.uint8)
    start = -memory.data_ptr() % 64
    workspace = tl.Workspace(attention, memory[start:])
    del memory
    gc.collect()
    attention.plan(batch.forest(), workspace)
    batch.check(attention.run(batch.q, kv, workspace=workspace))


def test_a_cuda_tensor_needs_a_cuda_build(batch, kv, planned):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    q = torch.from_numpy(batch.q).cuda()
    with pytest.raises((ValueError, RuntimeError), match="q"):
        planned.run(q, kv)
