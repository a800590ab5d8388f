"""Forest, Plan, Planner, configuration: made, advanced, printed, refused."""

import json

import numpy as np
import pytest

import trunkline as tl


def test_builders_agree(batch):
    dense = batch.forest()
    pages = np.array([7, 3, 1, 7, 3, 9, 4], np.int32)
    csr = tl.Forest.from_block_tables((np.array([0, 3, 6, 7], np.int32), pages), batch.seq_lens, 16, batch.qo_lens)
    lists = tl.Forest.from_block_tables(([0, 3, 6, 7], pages.tolist()), [37, 48, 5], 16, [1, 2, 1])
    levels = tl.Forest.from_levels(
        [
            ([0, 2, 3], [0, 2, 3], [7, 3, 4], [32, 5]),
            ([0, 1, 2], [0, 1, 2], [1, 9], [5, 16]),
        ],
        page_size=16,
        qo_lens=batch.qo_lens,
    )
    assert dense == csr == lists == levels
    assert dense != tl.Forest.from_block_tables(batch.tables, batch.seq_lens, 16)
    assert [(n.parent, n.first_token, n.num_tokens, n.request_begin, n.request_end) for n in dense.nodes] == [
        (-1, 0, 32, 0, 2),
        (0, 32, 5, 0, 1),
        (0, 32, 16, 1, 2),
        (-1, 0, 5, 2, 3),
    ]
    assert (dense.num_requests, dense.num_query_tokens, dense.total_tokens, dense.distinct_tokens) == (3, 4, 90, 58)
    assert dense.share == pytest.approx(90 / 58)
    np.testing.assert_array_equal(dense.request_order, [0, 1, 2])


def test_tables_are_read_without_a_copy():
    """A table of 64 GiB of address space, of which one page is touched, cannot be copied."""
    tables = np.lib.stride_tricks.as_strided(np.arange(64, dtype=np.int32), (1, 1 << 30), (4, 4))
    forest = tl.Forest.from_block_tables(tables, [64 * 16], 16)
    assert forest.total_tokens == 1024
    wide = np.arange(40, dtype=np.int32).reshape(4, 10)
    strided = tl.Forest.from_block_tables(wide[::2, 2:5], [33, 33], 16)
    assert strided == tl.Forest.from_block_tables(wide[::2, 2:5].copy(), [33, 33], 16)


def test_advance_is_the_forest_of_the_next_tables(batch):
    forest = batch.forest()
    again = forest.copy()
    forest.advance(
        leave=[0], replace=[(1, 2, [11])], grow=[(2, 12, [5])], qo_lens=[(1, 1)], join=[(9, 20, 2, np.int32([7, 8]))]
    )
    built = tl.Forest.from_block_tables(
        ([0, 3, 5, 7], [7, 3, 11, 4, 5, 7, 8]), [48, 17, 20], 16, [1, 1, 2], request_ids=[1, 2, 9]
    )
    assert forest == built and forest.version == 1
    np.testing.assert_array_equal(forest.request_ids, [1, 2, 9])
    assert again == batch.forest() and again.uid != forest.uid
    with pytest.raises(ValueError, match="77"):
        forest.advance(leave=[77])
    assert forest == built


def test_advance_takes_growth_as_arrays(batch):
    forest, same = batch.forest(), batch.forest()
    growth = [(0, 12, [5]), (1, 1, [6]), (2, 30, [8, 9])]
    forest.advance(grow=growth)
    requests, num_tokens, indptr = np.arange(3), np.array([12, 1, 30], np.int32), np.array([0, 1, 2, 4], np.int32)
    pages = np.array([5, 6, 8, 9], np.int32)
    same.advance(grow_each=(requests, num_tokens, indptr, pages))
    assert forest == same
    for change, message in (
        ({1: num_tokens[:2]}, r"grow_each\.num_tokens\.size: expected 3, got 2"),
        ({2: indptr[1:]}, r"grow_each\.page_indptr\.size: expected 4, got 3"),
        ({2: indptr + 1}, r"grow_each\.page_indptr: expected ascending numbers from 0 to 4, .* got 1 to 5"),
        ({2: indptr[::-1].copy()}, r"grow_each\.page_indptr: expected ascending .* got some that descend"),
        ({0: np.arange(3, dtype=np.int32)}, r"grow_each\.requests\.dtype: expected int64, got int32"),
        ({}, r"deltas\.grow\[0\]\.pages: expected 0 pages, got 1"),  # a second time
    ):
        arrays = [requests, num_tokens, indptr, pages]
        for index, array in change.items():
            arrays[index] = array
        with pytest.raises(ValueError, match=message):
            same.advance(grow_each=tuple(arrays))
    with pytest.raises(ValueError, match="grow_each: expected a tuple"):
        same.advance(grow_each=(requests, num_tokens))
    assert forest == same


def test_forest_of_a_tree():
    tree = tl.PrefixTree(tl.PagePool(32, 16))
    first = tree.insert(np.arange(40, dtype=np.int32)).request
    tree.commit(first, 40)
    second = tree.fork(first)
    made = tree.append(second, [1, 2])
    assert made.copy is None and made.new_pages.size == 0
    made = tree.append(first, [3])
    assert made.copy is not None and made.copy.num_tokens == 8  # page 2 is the fork's from its slot 8 on
    forest = tl.Forest.from_tree(tree)
    np.testing.assert_array_equal(forest.seq_lens, [41, 42])
    assert forest == tl.Forest.from_tree(tree, [first, second]) and forest.nodes[0].num_tokens == 32
    np.testing.assert_array_equal(tree.slots(second, 40, 42), tree.block_table(second)[2] * 16 + np.array([8, 9]))
    tree.check_integrity()
    assert tree.stats().requests_forked == 1 and first in tree and 99 not in tree


def test_pool_and_tree_say_what_is_missing():
    pool = tl.PagePool(4, 16)
    with pytest.raises(MemoryError) as raised:
        pool.allocate(6)
    assert raised.value.missing == 2 and raised.value.code == "out_of_pages" and pool.num_free == 4
    tree = tl.PrefixTree(pool)
    with pytest.raises(MemoryError) as raised:
        tree.insert(range(100))
    assert raised.value.missing == 3
    with pytest.raises(ValueError, match="request"):
        tree.append(5, [1])
    with pytest.raises(ValueError, match=r"tokens\.dtype: expected int32, got int64"):
        tree.insert(np.arange(3))
    with pytest.raises(ValueError, match=r"tokens\[1\]: expected int32, got 4294967296"):
        tree.insert([1, 1 << 32])
    with pytest.raises(ValueError, match=r"tokens\[0\]: expected int32, got 1\.5"):
        tree.insert([1.5])
    with pytest.raises(ValueError, match="begin, end"):
        tree.slots(tree.insert([1, 2]).request, 1, 3)
    tree.clear()
    assert pool.num_free == 4


def test_a_batch_grows_and_commits_in_one_call_as_request_by_request():
    trees = [tl.PrefixTree(tl.PagePool(64, 4)) for _ in range(2)]
    for tree in trees:
        tree.commit(tree.insert(range(6)).request, 6)
        for _ in range(2):
            tree.fork(0)
    together, apart = trees
    requests, counts = np.arange(3), np.array([1, 3, 1], np.int32)
    made = together.append_each(requests, counts, np.array([7, 1, 2, 3, 7], np.int32))
    ones = [apart.append(0, [7]), apart.append(1, [1, 2, 3]), apart.append(2, [7])]
    assert made.num_requests == 3
    assert made.copies == [(i, one.copy) for i, one in enumerate(ones) if one.copy is not None]
    assert [index for index, _ in made.copies] == [1, 2]
    slots = [apart.slots(r, 6, 6 + n) for r, n in zip(requests.tolist(), counts)]
    np.testing.assert_array_equal(made.slots, np.concatenate(slots))

    together.append_each([0, 2], [1, 1], [0, 0])  # to be named
    replaced = together.commit_each(requests, [7, 9, 7], [7, 3, 7])
    assert replaced == [] and together.match_length([*range(6), 1, 2, 3]) == 9
    together.commit(1, 9)
    (exchanged,) = together.commit_each([0, 2], [8, 8], [8, 8])  # both turned out to be 8
    assert exchanged[:2] == (2, 1) and exchanged[2].tolist() == [together.block_table(0)[1]]
    assert together.match_length([*range(6), 7, 8]) == 8
    together.append(1, [0, 0])
    together.commit(1, 10, [5])
    assert together.match_length([*range(6), 1, 2, 3, 5, 0]) == 10
    together.check_integrity()


def test_a_batch_grows_until_pages_run_out():
    tree = tl.PrefixTree(tl.PagePool(3, 4))
    requests = [tree.insert([i]).request for i in range(2)]
    made = tree.append_each(requests, [4, 8], range(12))
    assert made.num_requests == 1 and tree.seq_len(1) == 1 and len(made.slots) == 4
    with pytest.raises(MemoryError) as raised:
        tree.append_each([1], [8], range(8))
    assert raised.value.missing == 2
    for arguments, message in (
        (([0, 7], [1, 1], [1, 1]), "request: expected a request of this tree, got 7"),
        (([0, 1], [1], [1]), r"num_tokens\.shape: expected \[2\], got \[1\]"),
        (([0, 1], [1, 2], [1, 1]), r"tokens\.shape: expected \[3\], got \[2\]"),
        (([0, 1], [3, -1], [1, 1]), r"num_tokens\[1\]: expected at least 0, got -1"),
        (([0, 1], [1, 1], [1, -2]), r"tokens\[1\]: expected at least 0, got -2"),
    ):
        with pytest.raises(ValueError, match=message):
            tree.append_each(*arguments)
    for arguments, message in (
        (([0, 0], [1, 2], [1, 1]), "requests: expected distinct ones, got 0 twice"),
        (([0, 1], [1, 2], [1, 1]), r"num_tokens\[1\]: expected above 0 \(committed\) and at most 1 \(seq_len\), got 2"),
        (([0, 1], [1, 1], [1]), r"tokens\.shape: expected \[2\], got \[1\]"),
        (([0, 1], [1, 1], [1, -1]), r"tokens\[1\]: expected at least 0, got -1"),
    ):
        with pytest.raises(ValueError, match=message):
            tree.commit_each(*arguments)
    with pytest.raises(ValueError, match="last_tokens: expected at most the 1 tokens that are committed now, got 2"):
        tree.commit(0, 1, [0, 0])
    assert [tree.seq_len(r) for r in requests] == [5, 1] and tree.num_committed(0) == 0


def test_locks_and_matches():
    tree = tl.PrefixTree(tl.PagePool(8, 4))
    request = tree.insert(range(10)).request
    tree.commit(request, 10)
    tree.remove(request)
    match = tree.match_prefix([0, 1, 2, 3, 4, 9])
    assert match.num_tokens == 5 and match.pages.size == 2 and tree.match_length(range(20)) == 10
    lock = tree.lock(range(8))
    assert lock.num_tokens == 8 and tree.evict(8) == 1
    other = tl.PrefixTree(tl.PagePool(8, 4))
    other.insert(range(10))
    foreign = other.lock(range(10))
    assert foreign.id == lock.id
    with pytest.raises(ValueError, match="lock: expected a lock of this tree, got one of another"):
        tree.unlock(foreign)
    assert tree.evict(8) == 0
    tree.unlock(lock)
    assert tree.evict(8) == 2
    with pytest.raises(ValueError, match="lock: expected a lock of this tree"):
        tree.unlock(lock)
    other.unlock(foreign)


def test_plan_explains_itself(batch):
    forest = batch.forest()
    plan = tl.Planner(batch.config, tl.DeviceSpec.generic_cpu(2)).plan(forest)
    plan.check(forest)
    facts = json.loads(plan.explain_json(forest))
    assert isinstance(facts, dict) and plan.explain(forest)
    other = tl.Forest.from_block_tables(batch.tables[:1], [3], 16)
    with pytest.raises(ValueError, match="forest: expected the planned one, of [0-9]+ nodes and 4 query tokens, got"):
        plan.explain(other)
    with pytest.raises(ValueError, match="forest: expected the planned one"):
        plan.explain_json(other)
    statistics = plan.statistics()
    assert statistics["num_query_tokens"] == 4 and statistics["num_workers"] == 2
    assert statistics["num_items"] == plan.num_items and statistics["model_seconds"] > 0
    with pytest.raises(RuntimeError) as raised:
        plan.check(tl.Forest.from_block_tables(batch.tables[:1], [3], 16))
    assert raised.value.code == "corrupt"


def test_dtypes_by_any_name():
    def config(dtype):
        return tl.AttentionConfig(4, 2, 32, 16, dtype=dtype).dtype

    assert config("f16") == config(np.float16) == config(np.dtype("float16")) == "float16"
    assert config(np.float32) == "float32"
    mixed = tl.AttentionConfig(4, 2, 32, 16, dtype="float32", kv_dtype="bfloat16")
    assert (mixed.dtype, mixed.kv_dtype) == ("float32", "bfloat16")
    with pytest.raises(ValueError, match="float64"):
        config(np.float64)


@pytest.mark.parametrize(
    "feature", [{"sliding_window": 128}, {"logits_soft_cap": 30.0}, {"alibi": True}, {"attention_sinks": True}]
)
def test_what_is_not_built_is_refused_by_name(feature):
    with pytest.raises(RuntimeError, match=next(iter(feature))) as raised:
        tl.AttentionConfig(4, 2, 32, 16, **feature)
    assert raised.value.code == "unsupported"


def test_config_is_checked():
    with pytest.raises(ValueError, match="num_kv_heads") as raised:
        tl.AttentionConfig(4, 3, 32, 16)
    assert raised.value.argument == "num_qo_heads" or "num_kv_heads" in str(raised.value)
    with pytest.raises(ValueError, match="strategy"):
        tl.AttentionConfig(4, 2, 32, 16, strategy="fastest")


def test_device_spec_reaches_the_planner(batch):
    spec = tl.DeviceSpec.generic_cpu(1)
    spec.num_workers = 3
    spec.wide.max_rows = 8
    attention = batch.attention(device_spec=spec)
    assert attention.device_spec.num_workers == 3 and attention.device_spec.wide.max_rows == 8
    spec.read_bandwidth = -1
    with pytest.raises(ValueError, match="read_bandwidth"):
        batch.attention(device_spec=spec)


def test_what_the_build_has():
    names = {backend.name: backend for backend in tl.backends()}
    assert names["cpu"].available and tl.simd_targets()
    assert tl.__version__.count(".") == 2
