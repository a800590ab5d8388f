"""What the tests share: a NumPy evaluation in double precision, and small batches."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

import trunkline as tl


def attend(q, k_pages, v_pages, tables, seq_lens, qo_lens, scale):
    """Attention straight from NHD pages: out float64 like q, lse float64 [tokens, heads]."""
    tokens, heads, head_dim = q.shape
    group = heads // k_pages.shape[2]
    out, lse = np.zeros(q.shape), np.full((tokens, heads), -np.inf)
    row = 0
    for table, length, count in zip(tables, seq_lens, qo_lens):
        k = k_pages[table].reshape(-1, *k_pages.shape[2:])[:length].astype(np.float64)
        v = v_pages[table].reshape(-1, *v_pages.shape[2:])[:length].astype(np.float64)
        for j in range(count):
            visible = length - count + j + 1
            for head in range(heads):
                if visible > 0:
                    scores = k[:visible, head // group] @ q[row, head].astype(np.float64) * scale
                    top = scores.max()
                    weights = np.exp(scores - top)
                    lse[row, head] = top + np.log(weights.sum())
                    out[row, head] = weights @ v[:visible, head // group] / weights.sum()
            row += 1
    return out, lse


@dataclass
class Batch:
    """Three requests: two share 32 tokens, one of them has two query tokens; the third is alone."""

    q: np.ndarray
    pages: np.ndarray  # [num_pages, 2, page_size, kv_heads, head_dim]
    tables: np.ndarray
    seq_lens: np.ndarray
    qo_lens: np.ndarray
    config: tl.AttentionConfig
    expected: tuple[np.ndarray, np.ndarray]

    def forest(self):
        return tl.Forest.from_block_tables(self.tables, self.seq_lens, 16, qo_lens=self.qo_lens)

    def attention(self, **options):
        return tl.Attention(self.config, max_requests=4, max_query_tokens=8, max_table_width=8, **options)

    def check(self, out, lse=None, tolerance=1e-5):
        np.testing.assert_allclose(np.asarray(out, np.float64), self.expected[0], rtol=0, atol=tolerance)
        if lse is not None:
            np.testing.assert_allclose(np.asarray(lse, np.float64), self.expected[1], rtol=0, atol=1e-5)


def make_batch(dtype=np.float32, heads=4, kv_heads=2, head_dim=32):
    rng = np.random.default_rng(5)
    pages = rng.standard_normal((12, 2, 16, kv_heads, head_dim)).astype(dtype)
    q = rng.standard_normal((4, heads, head_dim)).astype(dtype)
    tables = np.array([[7, 3, 1], [7, 3, 9], [4, -1, -1]], np.int32)
    seq_lens, qo_lens = np.array([37, 48, 5], np.int32), np.array([1, 2, 1], np.int32)
    config = tl.AttentionConfig(heads, kv_heads, head_dim, 16, dtype=dtype)
    used = [row[: -(-n // 16)] for row, n in zip(tables, seq_lens)]
    expected = attend(q, pages[:, 0], pages[:, 1], used, seq_lens, qo_lens, head_dim**-0.5)
    return Batch(q, pages, tables, seq_lens, qo_lens, config, expected)


@pytest.fixture
def batch():
    return make_batch()


@pytest.fixture
def kv(batch):
    return tl.KvCache.interleaved(batch.pages)
