"""Results against NumPy in double precision, from every kind of array; nothing is copied."""

import sys
import threading
import time
import tracemalloc

import numpy as np
import pytest

import trunkline as tl
from conftest import make_batch


def test_matches_double_precision(batch, kv):
    attention = batch.attention()
    forest = batch.forest()
    plan = attention.plan(forest)
    plan.check(forest)
    out, lse = attention.run(batch.q, kv, lse=True)
    batch.check(out, lse)
    assert plan.statistics()["num_nodes_shared"] == 1


@pytest.mark.parametrize("strategy", ["auto", "unshared", "two_phase", "hydragen"])
@pytest.mark.parametrize("num_threads", [1, 2])
def test_strategies_and_threads(batch, kv, strategy, num_threads):
    config = tl.AttentionConfig(4, 2, 32, 16, dtype="float32", strategy=strategy)
    attention = tl.Attention(config, max_requests=3, max_query_tokens=4, max_table_width=3, num_threads=num_threads)
    assert attention.plan(batch.forest()).strategy == strategy
    batch.check(attention.run(batch.q, kv))


def test_the_reference_agrees_and_bounds(batch, kv):
    reference = tl.reference_attention(batch.q, kv, batch.tables, batch.seq_lens, batch.qo_lens)
    np.testing.assert_allclose(reference.out, batch.expected[0], atol=1e-12)
    np.testing.assert_allclose(reference.lse, batch.expected[1], atol=1e-12)
    attention = batch.attention()
    attention.plan(batch.forest())
    out, lse = attention.run(batch.q, kv, lse=True)
    assert (np.abs(out - reference.out) <= reference.bound).all()
    assert attention.lse_bound_factor == 1
    assert (np.abs(lse - reference.lse) <= reference.lse_bound).all()


def test_out_and_lse_are_written_where_they_are(batch, kv):
    attention = batch.attention()
    attention.plan(batch.forest())
    out, lse = np.full_like(batch.q, np.nan), np.full((4, 4), np.nan, np.float32)
    result = attention.run(batch.q, kv, out, lse)
    assert result[0] is out and result[1] is lse
    batch.check(out, lse)
    assert attention.run(batch.q, kv, out) is out


def test_non_contiguous_out_is_written(batch, kv):
    """A binding that copies such an argument loses what is written into it."""
    attention = batch.attention()
    attention.plan(batch.forest())
    wide = np.full((9, 6, 40), np.nan, np.float32)
    out = wide[1::2, 1:5, 4:36]
    sums = np.full((4, 7), np.nan, np.float32)
    lse = sums[:, :4]
    assert not out.flags.c_contiguous and out.shape == batch.q.shape
    attention.run(batch.q, kv, out, lse)
    batch.check(out, lse)
    assert np.isnan(wide).sum() == wide.size - out.size and np.isnan(sums).sum() == sums.size - lse.size


def test_strided_q(batch, kv):
    packed = np.full((4, 8, 32), np.nan, np.float32)
    packed[:, 2:6] = batch.q
    attention = batch.attention()
    attention.plan(batch.forest())
    batch.check(attention.run(packed[:, 2:6], kv))


def test_padding_rows_are_left_alone(batch, kv):
    q = np.concatenate([batch.q, np.full_like(batch.q, np.nan)])
    out = np.full_like(q, 7)
    attention = batch.attention()
    attention.plan(batch.forest())
    attention.run(q, kv, out)
    batch.check(out[:4])
    assert (out[4:] == 7).all()


def test_an_idle_step_of_no_requests(batch, kv):
    """Arrays without elements have strides that say nothing."""
    attention, none = batch.attention(), np.zeros(0, np.int32)
    for tables in (np.zeros((0, 4), np.int32), np.zeros((0, 0), np.int32), batch.tables[:0], ([0], none)):
        forest = tl.Forest.from_block_tables(tables, none, 16, none)
        assert attention.plan(forest).num_items == 0 and forest.num_requests == 0
        out, lse = attention.run(np.zeros((0, 4, 32), np.float32), kv, lse=True, seq_lens=none)
        assert out.shape == (0, 4, 32) and lse.shape == (0, 4)
    before, rows = batch.pages.copy(), np.zeros((0, 2, 32), np.float32)
    tl.append_kv(kv, rows, rows, np.zeros(0, np.int64))
    np.testing.assert_array_equal(batch.pages, before)
    assert tl.merge(out, lse, out, lse)[0].shape == out.shape
    assert tl.reference_attention(out, kv, np.zeros((0, 4), np.int32), none).out.shape == out.shape


def test_layouts_and_planes(batch):
    k, v = batch.pages[:, 0], batch.pages[:, 1]  # strided views of one array
    padded = np.full((12, 2, 20, 2, 40), np.nan, np.float32)
    padded[:, :, :16, :, :32] = batch.pages
    hnd = np.ascontiguousarray(batch.pages.transpose(0, 1, 3, 2, 4))
    planes = np.ascontiguousarray(batch.pages.transpose(1, 0, 2, 3, 4))
    caches = {
        "views": tl.KvCache(k, v),
        "apart": tl.KvCache(k.copy(), v.copy()),
        "planes": tl.KvCache(planes[0], planes[1]),
        "padded": tl.KvCache.interleaved(padded[:, :, :16, :, :32]),
        "hnd": tl.KvCache.interleaved(hnd, layout="HND"),
        "hnd apart": tl.KvCache(hnd[:, 0], hnd[:, 1], layout="HND"),
        "transposed": tl.KvCache(hnd[:, 0].transpose(0, 2, 1, 3), hnd[:, 1].transpose(0, 2, 1, 3)),
    }
    attention = batch.attention()
    attention.plan(batch.forest())
    for name, cache in caches.items():
        assert (cache.num_pages, cache.page_size, cache.num_kv_heads, cache.head_dim) == (12, 16, 2, 32), name
        batch.check(attention.run(batch.q, cache))


def test_float16(tolerance=2e-3):
    batch = make_batch(np.float16)
    attention = batch.attention()
    attention.plan(batch.forest())
    out = attention.run(batch.q, tl.KvCache.interleaved(batch.pages))
    assert out.dtype == np.float16
    batch.check(out, tolerance=tolerance)


def test_bfloat16_of_ml_dtypes():
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    batch = make_batch(bfloat16)
    assert batch.config.dtype == "bfloat16"
    attention = batch.attention()
    attention.plan(batch.forest())
    kv = tl.KvCache.interleaved(batch.pages)
    assert kv.dtype == "bfloat16"
    out = attention.run(batch.q, kv)
    assert out.dtype == bfloat16
    batch.check(out, tolerance=2e-2)
    strided = np.zeros((4, 4, 64), bfloat16)[:, :, 16:48]
    attention.run(batch.q, kv, strided)
    np.testing.assert_array_equal(strided.view(np.uint16), out.view(np.uint16))


def test_kv_is_bound_not_copied(batch, kv):
    """What the engine writes after binding is what the next run sees."""
    attention = batch.attention()
    attention.plan(batch.forest())
    before = attention.run(batch.q, kv)
    batch.pages[:, 1] *= 2
    np.testing.assert_allclose(attention.run(batch.q, kv), 2 * before, rtol=1e-6)


def test_the_cache_keeps_its_arrays_alive(batch):
    pages = batch.pages.copy()
    references = sys.getrefcount(pages)
    kv = tl.KvCache.interleaved(pages)
    assert sys.getrefcount(pages) > references
    del pages
    attention = batch.attention()
    attention.plan(batch.forest())
    batch.check(attention.run(batch.q, kv))


def test_arguments_are_not_kept(batch, kv):
    attention = batch.attention()
    attention.plan(batch.forest())
    out, lse = np.empty_like(batch.q), np.empty((4, 4), np.float32)
    counts = [sys.getrefcount(array) for array in (batch.q, out, lse)]
    for _ in range(10):
        attention.run(batch.q, kv, out, lse)
    assert [sys.getrefcount(array) for array in (batch.q, out, lse)] == counts


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_nothing_is_copied(dtype):
    """A run over 64 MiB of q, out, K and V allocates next to nothing, as NumPy and Python count it."""
    if dtype == "bfloat16":
        dtype = pytest.importorskip("ml_dtypes").bfloat16
    q, out = np.ones((1, 256, 256), dtype), np.zeros((1, 512, 256), dtype)[:, ::2]
    pages = np.ones((512, 2, 16, 4, 256), dtype)
    attention = tl.Attention(tl.AttentionConfig(256, 4, 256, 16, dtype=dtype), max_requests=1, max_table_width=1)
    attention.plan(tl.Forest.from_block_tables(np.zeros((1, 1), np.int32), [2], 16))
    lse = np.zeros((1, 256), np.float32)
    tracemalloc.start()
    kv = tl.KvCache(pages[:, 0], pages[:, 1])
    attention.run(q, kv, out, lse)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10_000 and (out == 1).all()


def test_seq_lens_on_the_device_cut_the_rows(batch, kv):
    attention = batch.attention()
    attention.plan(batch.forest())
    _, lse = attention.run(batch.q, kv, lse=True, seq_lens=np.array([37, 48, 0], np.int32))
    np.testing.assert_allclose(lse[:3], batch.expected[1][:3], atol=1e-5)
    assert (lse[3] == -np.inf).all()


def test_workspaces_hold_a_plan_each(batch, kv):
    attention = batch.attention()
    memory = np.zeros(attention.workspace_bytes + 64, np.uint8)
    start = -memory.ctypes.data % 64
    mine = tl.Workspace(attention, memory[start : start + attention.workspace_bytes])
    other = tl.Workspace(attention)
    attention.plan(batch.forest(), mine)
    attention.plan(tl.Forest.from_block_tables(batch.tables[2:], [5], 16), other)
    batch.check(attention.run(batch.q, kv, workspace=mine))
    alone = attention.run(batch.q[3:], kv, workspace=other)
    np.testing.assert_allclose(alone[0], batch.expected[0][3], atol=1e-5)
    assert memory.any() and mine.plan.num_items > 0


def test_threads_share_an_attention(batch, kv):
    attention = batch.attention()
    outs = [np.zeros_like(batch.q) for _ in range(4)]

    def work(out):
        workspace = tl.Workspace(attention)
        for _ in range(50):
            attention.plan(batch.forest(), workspace)
            attention.run(batch.q, kv, out, workspace=workspace)

    threads = [threading.Thread(target=work, args=(out,)) for out in outs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for out in outs:
        batch.check(out)


def test_others_work_during_a_run():
    """Were the interpreter's lock held, nothing else could happen for as long as a run takes."""
    length = 1 << 15
    config = tl.AttentionConfig(32, 4, 128, 16, dtype="float32")
    attention = tl.Attention(config, max_requests=1, max_query_tokens=8, max_table_width=length // 16)
    tables = np.zeros((1, length // 16), np.int32)  # one page, read over and over
    attention.plan(tl.Forest.from_block_tables(tables, [length], 16, [8]))
    kv = tl.KvCache.interleaved(np.ones((1, 2, 16, 4, 128), np.float32))
    q = np.ones((8, 32, 128), np.float32)

    def longest_pause():
        """As a share of the run's time, of a thread that does nothing but look at the clock."""
        span = []

        def work():
            start = time.perf_counter()
            attention.run(q, kv)
            span.extend((start, time.perf_counter()))

        thread = threading.Thread(target=work)
        thread.start()
        looks = [time.perf_counter()]
        while thread.is_alive():
            looks.append(time.perf_counter())
        during = [t for t in looks if span[0] <= t <= span[1]]
        return np.diff([span[0], *during, span[1]]).max() / (span[1] - span[0])

    assert min(longest_pause() for _ in range(5)) < 0.7


def test_a_forest_advances_while_others_plan_it(batch):
    """Neither deadlock nor a torn forest: every plan is one of some step."""
    attention = batch.attention()
    forest = tl.Forest.from_block_tables(np.array([[0], [0]], np.int32), [1, 1], 16)
    stop = threading.Event()
    failures = []

    def work():
        workspace = tl.Workspace(attention)
        try:
            while not stop.is_set():
                attention.plan(forest, workspace)
                forest.nodes, forest.seq_lens
        except Exception as error:  # the main thread reports it
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(300):
        forest.advance(join=[(5, 3, 1, [2])])
        forest.advance(leave=[5])
    stop.set()
    for thread in threads:
        thread.join(timeout=60)
        assert not thread.is_alive()
    assert not failures and forest.version == 600


def test_a_plan_is_looked_at_while_others_plan():
    """A plan is a view of its workspace; whoever looks sees one plan, whole."""
    config = tl.AttentionConfig(4, 2, 32, 16, dtype="float32")
    attention = tl.Attention(config, max_requests=1000, max_table_width=64)
    tables = np.arange(1000 * 64, dtype=np.int32).reshape(1000, 64)
    forests = [tl.Forest.from_block_tables(tables, [length] * 1000, 16) for length in (1, 1024)]
    plan = attention.plan(forests[0])

    def look():
        try:
            plan.check(forests[0])
            found = "nothing"
        except RuntimeError as error:
            found = str(error)
        return found, plan.explain_json(forests[0]), repr(plan), plan.statistics()

    seen = [look()]
    attention.plan(forests[1])
    seen.append(look())
    assert seen[0][0] == "nothing" and "visible_end" in seen[1][0]
    stop = threading.Event()
    failures = []

    def work(call):
        try:
            while not stop.is_set():
                call()
        except Exception as error:  # the main thread reports it
            failures.append(error)

    def compare():
        for facts, *known in zip(look(), *seen):
            assert facts in known

    calls = [compare, *(lambda forest=forest: attention.plan(forest) for forest in forests)]
    threads = [threading.Thread(target=work, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    time.sleep(1)
    stop.set()
    for thread in threads:
        thread.join(timeout=60)
        assert not thread.is_alive()
    assert not failures


def test_a_plan_outlives_what_it_is_of(batch):
    attention, forest = batch.attention(), batch.forest()
    plan, view = attention.plan(forest), attention.workspace.plan
    del attention
    plan.check(forest)
    assert plan.statistics() == view.statistics() and repr(plan) == repr(view)


def test_merge(batch, kv):
    """Attention over the first two pages merged with the third is attention over all."""
    tables = batch.tables[1:2]
    config = batch.config
    q = batch.q[2:3]
    attention = tl.Attention(config, max_requests=1, max_table_width=3)
    parts = []
    for table, length in [(tables[:, :2], 32), (tables[:, 2:], 16)]:
        attention.plan(tl.Forest.from_block_tables(table, [length], 16))
        parts += attention.run(q, kv, lse=True)
    out, lse = tl.merge(*parts)
    np.testing.assert_allclose(out[0], batch.expected[0][2], atol=1e-5)
    np.testing.assert_allclose(lse[0], batch.expected[1][2], atol=1e-5)
    mine = np.empty((1, 8, 32), np.float32)[:, ::2]
    assert tl.merge(*parts, out=mine)[0] is mine
    np.testing.assert_array_equal(mine, out)


def test_append_and_copy_kv():
    pages = np.zeros((4, 2, 16, 2, 8), np.float32)
    kv = tl.KvCache.interleaved(pages)
    rng = np.random.default_rng(1)
    k, v = rng.standard_normal((2, 3, 2, 8)).astype(np.float32)
    tl.append_kv(kv, k, v, np.array([17, -1, 63]))
    np.testing.assert_array_equal(pages[1, 0, 1], k[0])
    np.testing.assert_array_equal(pages[3, 1, 15], v[2])
    assert np.count_nonzero(pages) == 2 * 2 * 2 * 8
    tl.copy_kv(kv, tl.PageCopy(1, 2, 2))
    np.testing.assert_array_equal(pages[2, :, :2], pages[1, :, :2])
    tl.copy_kv(kv, None)
    tl.copy_kv(kv, [None, (2, 0, 2)])
    np.testing.assert_array_equal(pages[0, :, :2], pages[1, :, :2])
