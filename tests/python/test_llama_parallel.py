"""Tensor parallelism: heads split over ranks give the tokens of one rank."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch.distributed as dist  # noqa: E402
import torch.multiprocessing as mp  # noqa: E402
from tiny_models import make_model, prompts_with_shared_prefixes  # noqa: E402

from trunkline.llama import Engine, Llama, SamplingParams, Weights  # noqa: E402

PARAMS = [SamplingParams(max_new_tokens=8), SamplingParams(max_new_tokens=8, temperature=1.0, top_p=0.9, n=2)]


def generate(weights: Weights, group=None) -> list:
    engine = Engine(
        Llama(weights, group), num_pages=128, page_size=4, max_requests=16, max_prefill_tokens=7, num_threads=1
    )
    return [engine.generate(prompts_with_shared_prefixes(), params) for params in PARAMS]


def run_rank(rank: int, world_size: int, backend: str, folder: str) -> None:
    torch.set_num_threads(1)
    device = torch.device("cpu" if backend == "gloo" else f"cuda:{rank}")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group(backend, init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world_size)
    try:
        part = Weights.from_transformers(make_model("llama"), rank=rank, world_size=world_size, device=device)
        torch.save(generate(part, dist.group.WORLD), f"{folder}/tokens{rank}")
    finally:
        dist.destroy_process_group()


def check_ranks(world_size: int, backend: str, folder) -> None:
    mp.spawn(run_rank, (world_size, backend, str(folder)), nprocs=world_size)
    tokens = [torch.load(folder / f"tokens{rank}") for rank in range(world_size)]
    assert all(of_rank == tokens[0] for of_rank in tokens)
    assert tokens[0][0] == generate(Weights.from_transformers(make_model("llama")))[0]  # greedy


def test_two_ranks_on_the_cpu(tmp_path):
    check_ranks(2, "gloo", tmp_path)  # one KV head each


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_ranks_on_two_gpus(tmp_path):
    check_ranks(2, "nccl", tmp_path)


def test_a_world_that_does_not_divide_the_heads():
    with pytest.raises(ValueError, match="world_size: expected a divisor of num_kv_heads 2, got 4"):
        Weights.from_transformers(make_model("llama"), world_size=4)


def test_a_part_needs_its_group():
    part = Weights.from_transformers(make_model("llama"), world_size=2)
    with pytest.raises(ValueError, match="group: expected 2 ranks as the weights are split, got 1"):
        Llama(part)
