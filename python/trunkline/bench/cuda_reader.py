"""Reads chosen pages once and computes nothing, in Triton: what the bytes of a floor take on a CUDA device."""

from collections.abc import Callable

import numpy as np
import torch
import triton
import triton.language as language

BLOCK_WORDS = 4096  # 16 KiB: four 16-byte loads in flight for each of 256 threads


@triton.jit
def _read(words, begins, lengths, sink, BLOCK: language.constexpr):  # type: ignore[no-untyped-def]
    run = language.program_id(0)
    begin = language.multiple_of(language.load(begins + run), 4)  # of 16 bytes, as rows are
    length = language.multiple_of(language.load(lengths + run), 4)
    offsets = language.program_id(1) * BLOCK + language.arange(0, BLOCK)
    values = language.load(words + begin + offsets, mask=offsets < length, other=0)
    largest = language.max(values, axis=0)
    language.store(sink, largest, mask=largest == 0x7FFFFFFF)  # a use for the loads


def make_reader(
    words: torch.Tensor, page_tokens: np.ndarray, plane_words: int, row_words: int, sink: torch.Tensor
) -> Callable[[], None]:
    """A launch that reads the used slots of every page.

    Parameters
    ----------
    words : torch.Tensor
        The pages as int32: two planes of ``plane_words`` each, slots of ``row_words``.
    page_tokens : numpy.ndarray
        Used slots of each page.
    sink : torch.Tensor
        int32, one element.
    """
    tokens = np.repeat(page_tokens.astype(np.int64), 2)  # of each plane
    planes = np.flatnonzero(tokens)
    begins, lengths = (torch.from_numpy(x).to(words.device) for x in (planes * plane_words, tokens[planes] * row_words))
    grid = (len(lengths), triton.cdiv(plane_words, BLOCK_WORDS))

    def read() -> None:
        _read[grid](words, begins, lengths, sink, BLOCK=BLOCK_WORDS, num_warps=8)

    return read
