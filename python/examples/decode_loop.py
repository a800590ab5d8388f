"""The ten lines that put Trunkline into a decode loop.

The loop below is an engine's, reduced to its KV cache: four requests that share a 100-token prefix, one layer.
The lines marked with a number are all that Trunkline adds.
"""

import torch

import trunkline as tl  # 1

HEADS, KV_HEADS, DIM, PAGE, REQUESTS, PREFIX, STEPS = 8, 2, 64, 16, 4, 100, 20

# The engine's pages; in its tables the requests share the prefix's full pages, and each copies the last, partial one.
num_pages = 6 + REQUESTS * 3
k_cache, v_cache = torch.randn(2, num_pages, PAGE, KV_HEADS, DIM)
tables = torch.tensor([[*range(6), *range(6 + 3 * r, 9 + 3 * r)] for r in range(REQUESTS)], dtype=torch.int32)
seq_lens = torch.full((REQUESTS,), PREFIX, dtype=torch.int32)

config = tl.AttentionConfig(HEADS, KV_HEADS, DIM, PAGE, dtype=torch.float32)  # 2
attention = tl.Attention(config, max_requests=REQUESTS, max_table_width=tables.shape[1])  # 3
kv = tl.KvCache(k_cache, v_cache)  # 4

for _ in range(STEPS):
    seq_lens += 1
    q = torch.randn(REQUESTS, HEADS, DIM)
    k, v = torch.randn(2, REQUESTS, KV_HEADS, DIM)
    last = (seq_lens - 1).long()
    pages = tables.gather(1, (last // PAGE)[:, None])[:, 0]
    tl.append_kv(kv, k, v, pages * PAGE + last % PAGE)  # 5
    forest = tl.Forest.from_block_tables(tables, seq_lens, PAGE)  # 6
    plan = attention.plan(forest)  # 7, once per step
    out = attention.run(q, kv)  # 8, once per layer

print(plan.explain(forest))
print(f"out {list(out.shape)}; KV reads reduced {forest.share:.2f} times")
