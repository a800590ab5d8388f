"""Anything that speaks DLPack; JAX and CuPy where they are installed."""

import gc
import weakref

import numpy as np
import pytest

import trunkline as tl


class OnlyDLPack:
    """A library that we know nothing of."""

    def __init__(self, array):
        self.array = array

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


def test_dlpack_alone_is_enough(batch, kv):
    attention = batch.attention()
    attention.plan(batch.forest())
    out = np.zeros_like(batch.q)
    attention.run(OnlyDLPack(batch.q), tl.KvCache.interleaved(OnlyDLPack(batch.pages)), OnlyDLPack(out))
    batch.check(out)
    with pytest.raises(ValueError, match="out: expected an array to write"):
        attention.run(OnlyDLPack(batch.q), kv)


class ExportsAfresh(OnlyDLPack):
    """Memory that nothing but its export keeps alive."""

    def __init__(self, array):
        super().__init__(array)
        self.exports = []

    def __dlpack__(self, **options):
        memory = np.empty(self.array.nbytes + 64, np.uint8)
        start = -memory.ctypes.data % 64
        fresh = memory[start : start + self.array.nbytes].view(self.array.dtype).reshape(self.array.shape)
        fresh[...] = self.array
        self.exports.append(weakref.ref(fresh))
        return fresh.__dlpack__(**options)

    @property
    def alive(self):
        gc.collect()
        return sum(export() is not None for export in self.exports)


def test_what_an_argument_exports_is_held(batch):
    attention = batch.attention()
    memory = ExportsAfresh(np.zeros(attention.workspace_bytes, np.uint8))
    q, pages = ExportsAfresh(batch.q), ExportsAfresh(batch.pages)
    k, v = ExportsAfresh(batch.pages[:, 0]), ExportsAfresh(batch.pages[:, 1])
    workspace = tl.Workspace(attention, memory)
    caches = [tl.KvCache.interleaved(pages), tl.KvCache(k, v)]
    assert memory.alive == pages.alive == k.alive == v.alive == 1
    attention.plan(batch.forest(), workspace)
    out = np.zeros_like(batch.q)
    for kv in caches:
        batch.check(attention.run(q, kv, out, workspace=workspace))
    assert len(q.exports) == 2 and q.alive == 0
    del kv, caches, workspace
    assert memory.alive == pages.alive == k.alive == v.alive == 0


def test_the_buffer_protocol_alone_is_enough(batch, kv):
    attention = batch.attention()
    attention.plan(batch.forest())
    out = np.zeros_like(batch.q)
    attention.run(memoryview(batch.q), kv, memoryview(out))
    batch.check(out)


def test_jax_is_input(batch):
    jax = pytest.importorskip("jax")
    attention = batch.attention()
    attention.plan(batch.forest())
    q, pages = jax.numpy.asarray(batch.q), jax.numpy.asarray(batch.pages)
    kv = tl.KvCache.interleaved(pages)
    assert not kv.writable
    out = np.zeros_like(batch.q)
    attention.run(q, kv, out)
    batch.check(out)
    with pytest.raises(ValueError, match="out: expected an array that can be written, got a read-only jax"):
        attention.run(q, kv, jax.numpy.zeros_like(q))
    with pytest.raises(ValueError, match="out: expected an array to write"):
        attention.run(q, kv)
    rows = jax.numpy.zeros((1, 2, 32), jax.numpy.float32)
    with pytest.raises(ValueError, match="kv: expected arrays that can be written"):
        tl.append_kv(kv, rows, rows, [0])
    sixteen = tl.KvCache.interleaved(pages.astype(jax.numpy.bfloat16))
    assert sixteen.dtype == "bfloat16"
    pages = pages + 0  # JAX's own memory
    kv = tl.KvCache.interleaved(pages)
    pages.delete()  # as a jitted function does that it is donated to
    attention.run(q, kv, out)
    batch.check(out)


def test_cupy(batch):
    cupy = pytest.importorskip("cupy")
    if not any(backend.name == "cuda" and backend.available for backend in tl.backends()):
        pytest.skip("no CUDA backend")
    config = tl.AttentionConfig(4, 2, 32, 16, dtype="float16")
    attention = tl.Attention(config, max_requests=3, max_query_tokens=4, max_table_width=3, device="cuda")
    attention.plan(batch.forest(), stream=cupy.cuda.get_current_stream())
    kv = tl.KvCache.interleaved(cupy.asarray(batch.pages, dtype=cupy.float16))
    out = attention.run(cupy.asarray(batch.q, dtype=cupy.float16), kv)
    batch.check(cupy.asnumpy(out), tolerance=5e-3)
