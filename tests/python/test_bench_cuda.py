"""python -m trunkline.bench on a CUDA device: replays, floors, checks; every loop of generate."""

import json

import pytest

import trunkline as tl

torch = pytest.importorskip("torch")
bench = pytest.importorskip("trunkline.bench.__main__")

pytestmark = pytest.mark.skipif(
    not (torch.cuda.is_available() and any(b.name == "cuda" and b.available for b in tl.backends())),
    reason="needs a CUDA device and a build with CUDA",
)


def run(tmp_path, *arguments):
    path = tmp_path / "result.json"
    assert bench.main([*arguments, "--json", str(path)]) == 0
    return json.loads(path.read_text())


def test_attention(tmp_path):
    result = run(
        tmp_path, "attention", "--batch", "8", "--shared", "512", "--unique", "40", "--runs", "3",
        "--systems", "trunkline,torch,flashinfer,flash-attn",
    )  # fmt: skip
    rows = {(row["kernel"], row["strategy"]): row for row in result["rows"]}
    for contender in ("torch/sdpa-flash", "contiguous"), ("torch/sdpa-flash", "packed"):
        assert rows[contender]["error_ratio"] is not None
    ours = [row for row in result["rows"] if row["kernel"].startswith("cuda/")]
    assert {row["strategy"] for row in ours} == {"auto", "unshared", "two_phase", "hydragen"}
    for row in result["rows"]:
        assert row["cold_us"]["runs"] == 3 and row["floor_us"] > 1
        assert row["cold_us"]["median"] > row["empty_us"]["median"] > 0


@pytest.mark.parametrize("graphs", [(), ("--no-graphs",)])
def test_generate(tmp_path, graphs):
    result = run(
        tmp_path, "generate", "--model", "small", "--batch", "4", "--prefix", "256", "--new-tokens", "12", *graphs
    )
    rows = {row["strategy"]: row for row in result["rows"]}
    assert set(rows) == {"none", "auto", "unshared", "sdpa"}
    assert rows["auto"]["cuda_graphs"] is not bool(graphs)
    assert all(row["step_ms"]["runs"] >= 3 and row["attention_floor_us"] > 0 for row in rows.values())


def test_host(tmp_path):
    result = run(tmp_path, "host", "--batch", "4", "--shared", "64", "--unique", "16")
    assert all(row["host_us"]["median"] > 0 for row in result["rows"])
