"""A compact Llama on Trunkline, for measuring and as an example of an engine.

Continuous batching over :class:`trunkline.PrefixTree`, prefill that never recomputes a shared prefix, ``fork`` for
n-best sampling, greedy, temperature and top-p sampling, decode in CUDA graphs, tensor parallelism over
torch.distributed.
"""

from .config import LlamaConfig
from .engine import Engine, EngineStats
from .model import Llama
from .sampling import SamplingParams
from .step import Generation
from .weights import Weights

__all__ = ["Engine", "EngineStats", "Generation", "Llama", "LlamaConfig", "SamplingParams", "Weights"]
