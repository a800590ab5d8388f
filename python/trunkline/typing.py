"""What the stubs call the arguments. For type checkers; nothing here is needed at run time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, Union

import numpy as np
import numpy.typing as npt


class SupportsDLPack(Protocol):
    """A PyTorch, NumPy, CuPy or JAX array."""

    def __dlpack__(self) -> Any: ...


#: An array that is taken as it is: by DLPack or the buffer protocol.
Array = Union[SupportsDLPack, npt.NDArray[Any]]
#: An integer array of the type the call names, taken as it is, or a sequence of ints.
Ints = Union[Array, Sequence[int]]
#: Block tables: int32 [num_requests, max_pages], or (indptr, indices).
Tables = Union[Array, tuple[Ints, Ints]]
#: A dtype by name, or as PyTorch, NumPy or ml_dtypes write it.
DType = Any
#: "cpu", "cuda", "cuda:1", or a torch.device.
Device = Any
#: A CUDA stream of PyTorch or CuPy, its address, or None: the current one.
Stream = Any

Int32Array = npt.NDArray[np.int32]
Int64Array = npt.NDArray[np.int64]
Float64Array = npt.NDArray[np.float64]
