"""Every wrong argument: a clear error, and nothing written."""

import numpy as np
import pytest

import trunkline as tl


@pytest.fixture
def planned(batch):
    attention = batch.attention()
    attention.plan(batch.forest())
    return attention


BAD_QUERIES = {
    "dtype": (lambda q: q.astype(np.float64), r"q\.dtype: expected float32, float16 or bfloat16, got float64"),
    "other dtype": (lambda q: q.astype(np.float16), r"q\.dtype: expected float32, got float16"),
    "integers": (lambda q: q.astype(np.int32), r"q\.dtype"),
    "byte order": (lambda q: q.astype(">f4"), r"q: expected an array that DLPack"),
    "heads": (lambda q: q[:, :2], r"q\.shape: expected \[4 or more, 4, 32\], got \[4, 2, 32\]"),
    "too few tokens": (lambda q: q[:3], r"q\.shape"),
    "rank": (lambda q: q.reshape(4, 128), r"q\.shape"),
    "five dimensions": (lambda q: q[None, None], r"q\.shape: expected at most 4 dimensions"),
    "head_dim stride": (lambda q: np.repeat(q, 2, axis=2)[:, :, ::2], r"q\.strides\[2\]"),
    "negative strides": (lambda q: q[::-1], r"q\.strides"),
}


@pytest.mark.parametrize("case", BAD_QUERIES)
def test_bad_queries(batch, kv, planned, case):
    make, message = BAD_QUERIES[case]
    out = np.full_like(batch.q, 7)
    with pytest.raises(ValueError, match=message) as raised:
        planned.run(make(batch.q), kv, out)
    assert raised.value.code == "invalid_argument" and raised.value.expected and raised.value.got
    assert (out == 7).all()


def test_bad_outputs(batch, kv, planned):
    read_only = np.zeros_like(batch.q)
    read_only.flags.writeable = False
    cases = {
        r"out: expected an array that can be written": read_only,
        r"out\.dtype": np.zeros_like(batch.q, np.float16),
        r"out\.shape": np.zeros((3, 4, 32), np.float32),
        r"out\.strides: expected strides that keep elements apart": np.lib.stride_tricks.as_strided(
            np.zeros(200, np.float32), (4, 4, 32), (4, 128, 4)
        ),
        r"out: expected memory apart from q": batch.q,
    }
    before = batch.q.copy()
    for message, out in cases.items():
        with pytest.raises(ValueError, match=message):
            planned.run(batch.q, kv, out)
    for message, lse in {
        r"lse\.dtype: expected float32, got float64": np.zeros((4, 4)),
        r"lse\.dtype: expected float32, got float16": np.zeros((4, 4), np.float16),
        r"lse\.shape": np.zeros((4, 2), np.float32),
        r"lse: expected memory apart from q": batch.q[:, :, 0],
    }.items():
        with pytest.raises(ValueError, match=message):
            planned.run(batch.q, kv, np.zeros_like(batch.q), lse)
    np.testing.assert_array_equal(batch.q, before)


def test_not_an_array(batch, kv, planned):
    for q in ([[1.0]], "q", 3, object()):
        with pytest.raises(TypeError, match="q: expected an array"):
            planned.run(q, kv)
    with pytest.raises(TypeError):
        planned.run(None, kv)
    with pytest.raises(TypeError):
        planned.run(batch.q, batch.pages)  # KV is bound in a KvCache
    with pytest.raises(TypeError, match="workspace"):
        planned.run(batch.q, kv, workspace=planned)


def test_bad_seq_lens(batch, kv, planned):
    for message, lengths in {
        r"seq_lens\.dtype: expected int32, got int64": np.array([37, 48, 5]),
        r"seq_lens\.shape: expected \[3\]": np.array([37, 48], np.int32),
        r"seq_lens\[1\]": np.array([37, 49, 5], np.int32),
        r"seq_lens: expected one contiguous": np.zeros(6, np.int32)[::2],
    }.items():
        with pytest.raises(ValueError, match=message):
            planned.run(batch.q, kv, seq_lens=lengths)


def test_bad_caches(batch):
    pages = batch.pages
    k, v = pages[:, 0], pages[:, 1]
    cases = {
        r"k\.shape: expected \[num_pages, page_size, num_kv_heads, head_dim\]": lambda: tl.KvCache(k[0], v[0]),
        r"v\.shape": lambda: tl.KvCache(k, v[:4]),
        r"v: expected memory apart from k, got that of k": lambda: tl.KvCache(k, k),
        r"v\.dtype: expected float32, got float16": lambda: tl.KvCache(k, v.astype(np.float16)),
        r"kv\.shape: expected \[num_pages, 2, ": lambda: tl.KvCache.interleaved(k),
        r"kv\.shape\[1\]: expected 2": lambda: tl.KvCache.interleaved(pages[:, :1]),
        r"kv\.dtype": lambda: tl.KvCache.interleaved(pages.astype(np.int8)),
        r"kv\.strides\[4\]: expected 1": lambda: tl.KvCache.interleaved(pages[..., ::2]),
        r"layout": lambda: tl.KvCache(k, v, layout="NDH"),
        r"kv\.k strides": lambda: tl.KvCache(np.lib.stride_tricks.as_strided(k, k.shape, (64, *k.strides[1:])), v),
        r"kv\.page_size": lambda: tl.KvCache(np.zeros((1, 2000, 1, 8), np.float32), np.zeros((1, 2000, 1, 8), np.float32)),
    }
    for message, make in cases.items():
        with pytest.raises(ValueError, match=message):
            make()


def test_a_cache_of_another_shape(batch, planned):
    def run(shape, dtype=np.float32):
        planned.run(batch.q, tl.KvCache.interleaved(np.zeros(shape, dtype)))

    for message, shape in {
        r"kv\.page_size: expected 16, got 8": (12, 2, 8, 2, 32),
        r"kv\.num_kv_heads: expected 2, got 4": (12, 2, 16, 4, 32),
        r"kv\.head_dim: expected 32, got 64": (12, 2, 16, 2, 64),
        r"kv\.num_pages: expected more than page 9": (9, 2, 16, 2, 32),
    }.items():
        with pytest.raises(ValueError, match=message):
            run(shape)
    with pytest.raises(ValueError, match=r"kv\.dtype: expected float32, got float16"):
        run((12, 2, 16, 2, 32), np.float16)


def test_mismatching_plans(batch, kv):
    attention = batch.attention()
    with pytest.raises(ValueError, match="call plan"):
        attention.run(batch.q, kv)
    with pytest.raises(ValueError, match=r"forest\.page_size: expected 16, got 8"):
        attention.plan(tl.Forest.from_block_tables(batch.tables, [20, 20, 5], 8))
    with pytest.raises(ValueError, match="1 too many") as raised:
        attention.plan(tl.Forest.from_block_tables(np.zeros((5, 1), np.int32), [1] * 5, 16))
    assert raised.value.code == "capacity_exceeded"
    other = tl.Attention(batch.config, max_requests=3, max_table_width=4)
    with pytest.raises(ValueError, match="workspace: expected one that was made for this attention"):
        attention.plan(batch.forest(), tl.Workspace(other))
    attention.plan(batch.forest())
    with pytest.raises(ValueError):  # the plan that was there stays
        attention.plan(tl.Forest.from_block_tables(batch.tables, [20, 20, 5], 8))
    batch.check(attention.run(batch.q, kv))


def test_bad_workspace_memory(batch):
    attention = batch.attention()
    size = attention.workspace_bytes
    memory = np.zeros(size + 128, np.uint8)
    start = -memory.ctypes.data % 64
    for message, array in {
        "aligned to 64 bytes": memory[start + 1 : start + 1 + size],
        "at least": memory[start : start + size - 1],
        "contiguous": np.zeros(2 * size, np.uint8)[::2],
        "can be written": np.frombuffer(bytes(size + 64), np.uint8),
    }.items():
        with pytest.raises(ValueError, match=message):
            tl.Workspace(attention, array)


def test_bad_tables(batch):
    make = tl.Forest.from_block_tables
    for message, call in {
        r"tables\.dtype: expected int32, got int64": lambda: make(batch.tables.astype(np.int64), batch.seq_lens, 16),
        r"tables\.shape: expected two dimensions": lambda: make(batch.tables[0], batch.seq_lens, 16),
        r"tables\.strides\[1\]": lambda: make(np.zeros((3, 8), np.int32)[:, ::2], [1, 1, 1], 16),
        r"tables\.strides\[0\]": lambda: make(batch.tables[::-1], batch.seq_lens, 16),
        r"tables: expected a tuple \(indptr, indices\)": lambda: make(([0], [1], [2]), [1], 16),
        r"seq_lens\.dtype": lambda: make(batch.tables, batch.seq_lens.astype(np.int64), 16),
        r"seq_lens": lambda: make(batch.tables, [37], 16),
        r"seq_lens\[0\]": lambda: make(batch.tables, [-1, 1, 1], 16),
        r"seq_lens\[1\]: expected int32, got 20\.0": lambda: make(batch.tables, [1, 20.0, 1], 16),
        r"seq_lens\[0\]: expected int32, got True": lambda: make(batch.tables, [True, 1, 1], 16),
        r"seq_lens\[2\]: expected int32, got '1'": lambda: make(batch.tables, [1, 1, "1"], 16),
        r"request_ids\[1\]: expected int64, got None": lambda: make(batch.tables, [1, 1, 1], 16, None, (1, None, 2)),
        r"qo_lens\[1\]": lambda: make(batch.tables, [1, 1, 1], 16, [1, 2, 1]),
        r"page_size": lambda: make(batch.tables, [1, 1, 1], 0),
        r"8": lambda: make(batch.tables, batch.seq_lens, 16, num_pages=8),
        r"grow: expected a tuple": lambda: batch.forest().advance(grow=[(1, 1)]),
        r"grow\.request: expected an integer of 64 bits, got 'one'": lambda: batch.forest().advance(
            grow=[("one", 1, [])]
        ),
        r"levels: expected a tuple": lambda: tl.Forest.from_levels([([0, 1], [0])], 16),
    }.items():
        with pytest.raises(ValueError, match=message):
            call()


def test_bad_streams(batch, kv, planned):
    """On the CPU too, where a stream means nothing."""
    rows, out = np.zeros((2, 2, 32), np.float32), np.full_like(batch.q, 7)
    before = batch.pages.copy()
    for stream, got in (("junk", "'junk'"), (-1, "-1"), (True, "True"), (1.0, r"1\.0"), (object(), "<object object")):
        for call in (
            lambda: planned.plan(batch.forest(), stream=stream),
            lambda: planned.run(batch.q, kv, out, stream=stream),
            lambda: tl.append_kv(kv, rows, rows, [0, 1], stream=stream),
            lambda: tl.copy_kv(kv, [(0, 1, 2)], stream=stream),
        ):
            with pytest.raises(ValueError, match=rf"stream: expected a CUDA stream, its address or None, got {got}"):
                call()
    assert (out == 7).all()
    np.testing.assert_array_equal(batch.pages, before)

    class Stream:
        cuda_stream = 0

    for stream in (None, 0, Stream()):
        batch.check(planned.run(batch.q, kv, stream=stream))


def test_bad_appends(batch, kv):
    rows = np.zeros((2, 2, 32), np.float32)
    before = batch.pages.copy()
    read_only = batch.pages.copy()
    read_only.flags.writeable = False
    fixed = tl.KvCache.interleaved(read_only)
    assert kv.writable and not fixed.writable
    for message, call in {
        r"slots\[1\]: expected less than": lambda: tl.append_kv(kv, rows, rows, [0, 12 * 16]),
        r"slots\.dtype: expected int64, got int32": lambda: tl.append_kv(kv, rows, rows, np.zeros(2, np.int32)),
        r"k\.shape": lambda: tl.append_kv(kv, rows[:, :1], rows, [0, 1]),
        r"v\.dtype": lambda: tl.append_kv(kv, rows, rows.astype(np.float16), [0, 1]),
        r"kv: expected arrays that can be written": lambda: tl.append_kv(fixed, rows, rows, [0, 1]),
        r"copies\[0\]\.dst: expected another page": lambda: tl.copy_kv(kv, [(1, 1, 2)]),
        r"copies\[0\]\.src": lambda: tl.copy_kv(kv, [(12, 1, 2)]),
        r"copies: expected a tuple": lambda: tl.copy_kv(kv, [(1, 2)]),
        r"copies\.num_tokens: expected an integer of 32 bits, got 1\.0": lambda: tl.copy_kv(kv, [(0, 1, 1.0)]),
    }.items():
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(TypeError, match="copies: expected a PageCopy, None or a sequence of them, got builtins.int"):
        tl.copy_kv(kv, 5)
    np.testing.assert_array_equal(batch.pages, before)


def test_bad_merges():
    rows, sums = np.zeros((2, 4, 8), np.float32), np.zeros((2, 4), np.float32)
    with pytest.raises(ValueError, match="lse_b"):
        tl.merge(rows, sums, rows, sums[:1])
    with pytest.raises(ValueError, match="out"):
        tl.merge(rows, sums, rows, sums, out=rows[:1])
    for position, name in ((1, "lse_a"), (3, "lse_b"), (5, "lse")):
        arguments = [rows, sums, rows, sums, rows.copy(), sums.copy()]
        arguments[position] = sums.astype(np.float64)
        with pytest.raises(ValueError, match=rf"{name}\.dtype: expected float32, got float64"):
            tl.merge(*arguments)


def test_devices(batch):
    for name in ("gpu", "cuda:x", "cuda:", "CPU"):
        with pytest.raises(ValueError, match="device"):
            batch.attention(device=name)
    with pytest.raises(ValueError, match="num_threads"):
        batch.attention(num_threads=0)
    with pytest.raises(RuntimeError, match="simd_target"):
        batch.attention(simd_target="avx1024")


@pytest.mark.skipif(any(b.name == "cuda" and b.built for b in tl.backends()), reason="this build has CUDA")
def test_cuda_without_a_cuda_build(batch):
    for call in (lambda: batch.attention(device="cuda"), lambda: tl.calibrate("cuda:0")):
        with pytest.raises(RuntimeError, match="no CUDA backend") as raised:
            call()
        assert raised.value.code == "unsupported"
