"""Exact attention for batches of requests that share prefixes.

Make a `Forest` of the batch (from block tables, a `PrefixTree` or levels), plan it once per decode step, run every
layer::

    attention.plan(tl.Forest.from_block_tables(tables, seq_lens, page_size))
    out = attention.run(q, kv)

Arrays are taken as they are, by DLPack or the buffer protocol, and checked: a wrong one is a ValueError that names the
argument, what was expected and what came. TypeError: an argument of the wrong Python type, such as no array where one
is due or a float for an int. RuntimeError: a device or feature that is not there. MemoryError: no pages.
"""

from ._core import (
    Appended,
    AppendedEach,
    Attention,
    AttentionConfig,
    Backend,
    Committed,
    DeviceSpec,
    Forest,
    Insertion,
    KvCache,
    Node,
    PageCopy,
    PagePool,
    Plan,
    Planner,
    PrefixLock,
    PrefixMatch,
    PrefixTree,
    PrefixTreeStats,
    Reference,
    Workspace,
    __version__,
    append_kv,
    backends,
    calibrate,
    copy_kv,
    merge,
    reference_attention,
    simd_targets,
)

__all__ = [
    "Appended",
    "AppendedEach",
    "Attention",
    "AttentionConfig",
    "Backend",
    "Committed",
    "DeviceSpec",
    "Forest",
    "Insertion",
    "KvCache",
    "Node",
    "PageCopy",
    "PagePool",
    "Plan",
    "Planner",
    "PrefixLock",
    "PrefixMatch",
    "PrefixTree",
    "PrefixTreeStats",
    "Reference",
    "Workspace",
    "__version__",
    "append_kv",
    "backends",
    "calibrate",
    "copy_kv",
    "merge",
    "reference_attention",
    "simd_targets",
]
