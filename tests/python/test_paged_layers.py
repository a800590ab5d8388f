"""Attention and KV pages that grow with the batches: what does not fit leaves them as they were."""

import numpy as np
import pytest

import trunkline as tl

torch = pytest.importorskip("torch")

from trunkline.paged_layers import KvPages, StepAttention  # noqa: E402

CPU = torch.device("cpu")


def forest(*seq_lens):
    """A page of its own for each request."""
    return tl.Forest.from_block_tables(np.arange(len(seq_lens), dtype=np.int32)[:, None], seq_lens, page_size=4)


def test_an_attention_that_does_not_fit_leaves_the_last_one():
    pages = KvPages(1, 4, 1, 8, torch.float32, CPU, num_pages=2)
    for tensor in pages.tensors(0):
        tensor.fill_(1.0)
    step = StepAttention(2, 1, 8, 4, torch.float32, CPU, num_threads=1)
    step.plan(forest(3))
    q = torch.randn(1, 2, 8)
    with pytest.raises(MemoryError, match=r"capacity: .* got one of \d{16} bytes \(max_requests 16777216, "):
        step.reserve(1 << 24, 1, 1 << 24)  # 2^50 bytes of block tables: more than a process can address
    torch.testing.assert_close(step.run(q, pages[0]), torch.ones(1, 2, 8))  # the plan is still there
    step.plan(forest(3, 4))  # and the next growth starts from its room
    torch.testing.assert_close(step.run(q.expand(2, 2, 8).contiguous(), pages[0]), torch.ones(2, 2, 8))


def test_pages_that_do_not_fit_leave_the_old_ones(monkeypatch):
    pages = KvPages(3, 4, 1, 8, torch.float32, CPU, num_pages=2)
    for layer in range(3):
        for tensor in pages.tensors(layer):
            tensor.fill_(layer)
    allocate, left = KvPages._allocate, [2]

    def short_of_memory(self, num_pages):
        left[0] -= 1
        if left[0] < 0:
            raise MemoryError
        return allocate(self, num_pages)

    with monkeypatch.context() as patch:
        patch.setattr(KvPages, "_allocate", short_of_memory)
        with pytest.raises(MemoryError):
            pages.reserve(5)
    assert pages.num_pages == 2 and all(k.shape[0] == v.shape[0] == 2 for k, v in map(pages.tensors, range(3)))
    k = v = torch.full((1, 1, 8), 7.0)
    pages.write(0, k, v, torch.tensor([5]))
    assert pages.reserve(5)
    for layer in range(3):
        for tensor in pages.tensors(layer):
            expected = torch.full((2, 4, 1, 8), float(layer))
            if layer == 0:
                expected[1, 1] = 7.0
            torch.testing.assert_close(tensor[:2], expected, rtol=0, atol=0)
