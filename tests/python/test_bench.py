"""python -m trunkline.bench: shapes and their block tables, what it measures on the CPU, its files."""

import csv
import json
import math
import pathlib
import sys
import types

import numpy as np
import pytest

torch = pytest.importorskip("torch")
bench = pytest.importorskip("trunkline.bench.__main__")

from trunkline.bench import contenders, generate, plots  # noqa: E402
from trunkline.bench.meters import CpuMeter  # noqa: E402
from trunkline.bench.problem import Problem, SampledCheck  # noqa: E402
from trunkline.bench.shapes import Batch, Case, choose, load_grid, make_case  # noqa: E402

GRIDS = pathlib.Path(__file__).parents[3] / "shared" / "grids"
SMALL = {"heads": (4, 2), "head_dim": 32, "dtype": "float32"}
CPU = torch.device("cpu")


def run(tmp_path, *arguments):
    path = tmp_path / "result.json"
    assert bench.main([*arguments, "--json", str(path)]) == 0
    return json.loads(path.read_text())


@pytest.mark.parametrize("name", ["decode", "fasttree", "pat"])
def test_grids_of_the_project(name):
    path = GRIDS / f"{name}.json"
    if not path.exists():
        pytest.skip("the grids are not beside this checkout")
    cases = load_grid(path)
    assert len(cases) == len(json.loads(path.read_text())["cases"])
    assert len(choose(cases, "1,3-5")) == 4 and choose(cases, "2") == [cases[1]]
    case = min(cases, key=lambda case: case.num_requests * case.seq_len)
    assert Batch(case).forest().distinct_tokens == Batch(case).distinct_tokens


@pytest.mark.parametrize(
    "case",
    [
        make_case(5, 40, 7, **SMALL),
        make_case(3, 0, 33, **SMALL),
        make_case(4, 32, 0, **SMALL),
        Case(((1, 8), (2, 40), (5, 19)), **SMALL),
    ],
    ids=lambda case: case.label,
)
def test_a_batch_has_the_tree_of_its_case(case):
    batch = Batch(case)
    forest = batch.forest()
    assert list(forest.seq_lens) == [case.seq_len] * case.num_requests
    assert forest.distinct_tokens == batch.distinct_tokens
    # Every used slot belongs to somebody; whole pages are shared, what is left of a node is its children's.
    total = case.num_requests * case.seq_len
    assert forest.share == pytest.approx(total / batch.distinct_tokens)
    assert (batch.page_tokens == 0).sum() == 4
    assert sorted(np.unique(batch.tables)) == sorted(np.flatnonzero(batch.page_tokens))


def test_shapes_that_cannot_be():
    with pytest.raises(ValueError, match="nodes_per_level"):
        Case(((2, 8), (1, 8)), **SMALL)
    with pytest.raises(ValueError, match="qo_len"):
        make_case(2, 4, 4, qo_len=9, **SMALL)
    with pytest.raises(ValueError, match="head_dim"):
        make_case(2, 4, 4, head_dim=0)
    with pytest.raises(ValueError, match="cases: expected numbers from 1 to 1"):
        choose([make_case(2, 4, 4, **SMALL)], "2")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"cases": []}', "schema: expected 1, got None"),
        ('{"schema": 1, "cases": [{"batch": 1, "shared": 2, "heads": [1, 1]}]}', "case 1: unique: expected a value"),
        ('{"schema": 1, "cases": [{"batch": 1, "shared": 2, "unique": 1, "heads": [3, 2]}]}', "case 1: .*heads"),
    ],
)
def test_grids_that_are_wrong(tmp_path, text, message):
    path = tmp_path / "grid.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        load_grid(path)


def test_the_check_finds_one_wrong_row():
    problem = Problem(Batch(make_case(3, 40, 9, **SMALL)), CPU)
    ours = contenders.Trunkline(problem, "auto", "", 1)
    check = SampledCheck(problem, num_rows=1000)  # more than there are: all of them
    out = ours.rows(ours.run())
    accuracy = check.compare(out)
    assert accuracy.worst <= 1 and accuracy.rows == out[..., 0].numel()
    out[2, 3, 5] += 0.01
    assert check.compare(out).worst > 1
    out[2, 3, 5] = torch.nan
    assert check.compare(out).worst == math.inf


def test_unused_slots_are_poison():
    problem = Problem(Batch(make_case(3, 40, 9, **SMALL)), CPU)
    assert torch.isnan(problem.pages).flatten(1).all(1).sum() == 4  # pages of nobody
    slots = torch.isnan(problem.pages[:, 0, :, 0, 0])
    assert (~slots).sum() == problem.batch.distinct_tokens


@pytest.mark.parametrize("qo_len", [1, 3])
def test_attention(tmp_path, qo_len):
    table, rows = tmp_path / "table.md", tmp_path / "rows.csv"
    result = run(
        tmp_path, "attention", "--device", "cpu", "--batch", "4", "--shared", "64", "--unique", "5", "--heads", "8/2",
        "--head-dim", "32", "--dtype", "float32", "--qo-len", str(qo_len), "--runs", "2", "--threads", "2",
        "--systems", "trunkline,torch", "--markdown", str(table), "--csv", str(rows),
    )  # fmt: skip
    names = [(row["kernel"].split("/")[0], row["strategy"]) for row in result["rows"]]
    peers = ["contiguous", "packed"] if qo_len == 1 else ["contiguous"]
    assert [strategy for system, strategy in names if system == "torch"] == peers
    assert [s for system, s in names if system == "cpu"] == ["auto", "unshared", "two_phase", "hydragen"]
    for row in result["rows"]:
        assert row["error_ratio"] <= 1 and row["checked_rows"] >= 16
        assert row["ratio"] == pytest.approx(row["cold_us"]["median"] / row["floor_us"])
        assert row["distinct_bytes"] == (64 + 4 * 5) * 2 * 2 * 32 * 4 and row["cold_us"]["runs"] == 2
        assert row["read_bytes"] == row["distinct_bytes"] or "torch" in row["kernel"]
        assert ("model_us" in row) == ("model_ratio" in row) == (not row["kernel"].startswith("torch/"))
        assert None not in row.values()
    assert len(table.read_text().splitlines()) == 2 + len(names)
    with rows.open() as file:
        assert [line["case.heads"] for line in csv.DictReader(file)] == ["8/2"] * len(names)


def test_the_result_is_as_the_command_writes_it(tmp_path):
    """Every field of a row of `trunkline bench`, where a file of it lies in the documents."""
    written = pathlib.Path(__file__).parents[2] / "docs" / "benchmarks" / "cpu_shared.json"
    expected = json.loads(written.read_text())
    result = run(
        tmp_path, "attention", "--device", "cpu", "--batch", "2", "--shared", "16", "--heads", "1/1",
        "--head-dim", "8", "--dtype", "float32", "--runs", "1", "--systems", "trunkline", "--strategy", "auto",
    )  # fmt: skip
    assert set(expected) - {"summary"} <= set(result)
    assert set(expected["rows"][0]) - {"threads", "matrix_gflops"} <= set(result["rows"][0])
    assert set(expected["device"]["spec"]) <= set(result["device"]["spec"])


def test_what_is_not_installed_and_what_does_not_fit_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("trunkline.bench.attention.free_bytes", lambda device: 1 << 16)
    run(
        tmp_path, "attention", "--device", "cpu", "--batch", "8", "--shared", "64", "--heads", "2/1",
        "--head-dim", "32", "--dtype", "float32", "--runs", "1", "--strategy", "auto",
    )  # fmt: skip
    text = capsys.readouterr().out
    assert "not installed: flash_attn" in text
    assert "torch: each request's KV in one piece takes more memory than there is" in text
    assert "cpu/" in text


def test_a_case_that_nobody_takes(tmp_path, capsys):
    result = run(
        tmp_path, "attention", "--device", "cpu", "--batch", "2", "--shared", "16", "--systems", "flash-attn,flashinfer",
        "--runs", "1",
    )  # fmt: skip
    assert result["rows"] == [] and set(result["not_installed"]) >= {"flash_attn", "flashinfer"}


def test_names_that_do_not_exist(capsys):
    for options, message in {
        ("attention", "--systems", "torch,jax"): "systems: expected trunkline,",
        ("attention", "--strategy", "best"): "strategy: expected auto,",
        ("attention", "--heads", "3/2"): "heads",
        ("generate", "--attention", "flash"): "attention: expected none,",
        ("generate", "--new-tokens", "2"): "new-tokens: at least",
    }.items():
        with pytest.raises(SystemExit):
            bench.main([*options, "--device", "cpu"])
        assert message in capsys.readouterr().err


class FakeWrapper:
    """FlashInfer's wrappers as their documentation has them, computed by the reference's own means."""

    def __init__(self, *args, **options):
        self.levels = args[0] if isinstance(args[0], int) else 1

    def plan(self, *args, **options):
        self.lists = args[: 4 if self.levels > 1 else 3]

    def run(self, q, pages, out=None):
        scores = []
        for level in range(self.levels):
            qo, indptr, indices, last = (
                (list_[level] for list_ in self.lists) if self.levels > 1 else (torch.arange(len(q) + 1), *self.lists)
            )
            for node in range(len(indptr) - 1):
                table = indices[indptr[node] : indptr[node + 1]]
                length = (len(table) - 1) * pages.shape[2] + int(last[node])
                for row in range(int(qo[node]), int(qo[node + 1])):
                    scores.append((row, pages[table].transpose(0, 1).flatten(1, 2)[:, :length]))
        result = torch.empty_like(q)
        for row in range(len(q)):
            k, v = torch.cat([kv for r, kv in scores if r == row], 1).repeat_interleave(q.shape[1] // pages.shape[3], 2)
            weights = torch.softmax(torch.einsum("hd,thd->ht", q[row], k) * q.shape[-1] ** -0.5, -1)
            result[row] = torch.einsum("ht,thd->hd", weights, v)
        return result


def test_arguments_of_flashinfer(monkeypatch):
    module = types.ModuleType("flashinfer")
    module.BatchDecodeWithPagedKVCacheWrapper = module.MultiLevelCascadeAttentionWrapper = FakeWrapper
    monkeypatch.setitem(sys.modules, "flashinfer", module)
    half = {**SMALL, "dtype": "float16"}
    for case in make_case(3, 32, 9, **half), Case(((1, 16), (2, 32), (5, 19)), **half):
        problem = Problem(Batch(case), CPU)
        for make in contenders.FlashInferDecode, contenders.FlashInferCascade:
            contender = make(problem)
            out = contender.rows(contender.run())
            expected = contenders.Trunkline(problem, "auto", "", 1).run()
            torch.testing.assert_close(out, expected, rtol=0, atol=5e-3)


def test_arguments_of_flash_attention(monkeypatch):
    def attend(q, k, v, cache_seqlens, page_table=None, causal=False):
        assert causal and cache_seqlens.dtype == torch.int32
        if page_table is not None:
            k, v = (x[page_table].flatten(1, 2)[:, : int(cache_seqlens[0])] for x in (k, v))
        positions = torch.arange(k.shape[1])
        mask = positions <= positions[-q.shape[1] :, None]
        out = torch.nn.functional.scaled_dot_product_attention(
            *(x.transpose(1, 2) for x in (q, k, v)), attn_mask=mask, enable_gqa=True
        )
        return out.transpose(1, 2)

    for name, make in (
        ("flash_attn", contenders.FlashAttention2), ("flash_attn_interface", contenders.FlashAttention3),
    ):  # fmt: skip
        module = types.ModuleType(name)
        module.flash_attn_with_kvcache = attend
        monkeypatch.setitem(sys.modules, name, module)
        for qo_len in 1, 3:
            problem = Problem(Batch(make_case(3, 40, 9, **{**SMALL, "dtype": "float16"}, qo_len=qo_len)), CPU)
            contender = make(problem)
            out = contender.rows(contender.run())
            expected = contenders.Trunkline(problem, "auto", "", 1).run()
            torch.testing.assert_close(out, expected, rtol=0, atol=5e-3)


def test_meter_of_the_cpu():
    meter = CpuMeter(1)
    cold, warm = [], []
    calls = []
    call, result = meter.prepare(lambda: calls.append(1))
    assert result is None
    meter.cold(call, cold)
    meter.warm(call, warm)
    assert len(cold) == len(warm) == 1 and len(calls) == 3
    assert meter.matrix_rate() > 1e8
    readers = meter.readers(torch.ones(4, 2, 16, 2, 32), np.array([16, 0, 3, 16]))
    readers["memcmp"]()
    assert readers["sum"]() == 35 * 2 * 2 * 32  # of the slots in use


def test_generate(tmp_path):
    result = run(
        tmp_path, "generate", "--model", "tiny", "--device", "cpu", "--batch", "2,4", "--prefix", "40", "--own", "3",
        "--new-tokens", "10", "--attention", "none,auto,unshared,sdpa",
    )  # fmt: skip
    assert [(row["case"]["batch"], row["strategy"]) for row in result["rows"]] == [
        (batch, name) for batch in (2, 4) for name in ("none", "auto", "unshared", "sdpa")
    ]
    for row in result["rows"]:
        batch, steps = row["case"]["batch"], row["step_ms"]
        # The first token comes with the prompt, and the request that computes the prefix is a step ahead.
        assert 10 - 4 - generate.UNTIMED_STEPS <= steps["runs"] <= 10 - 2 - generate.UNTIMED_STEPS
        assert row["tokens_per_s"] <= batch * 1e3 / steps["p10"] * 2  # a mean beside a percentile
        assert row["bound_ms"] == pytest.approx(row["no_attention_ms"] + 2e-3 * row["attention_floor_us"])
        assert row["ratio"] == pytest.approx(steps["median"] / row["bound_ms"])
        assert math.isfinite(row["auto_layer_us"]) and math.isfinite(row["sdpa_layer_us"])
        assert row["sdpa_bound_ms"] == pytest.approx(row["no_attention_ms"] + 2e-3 * row["sdpa_layer_us"])
        # The prefix once, each own prompt, and every new token but the last.
        assert row["computed_tokens"] <= 40 + batch * (3 + 10)


def test_generate_of_transformers(tmp_path):
    pytest.importorskip("transformers")
    result = run(
        tmp_path, "generate", "--model", "tiny", "--device", "cpu", "--batch", "2", "--prefix", "20", "--own", "3",
        "--new-tokens", "10", "--attention", "auto", "--transformers",
    )  # fmt: skip
    row = result["rows"][1]
    assert row["strategy"] == "transformers" and row["step_ms"]["runs"] >= 5 and row["times_auto"] > 0
    assert "ratio" not in row  # without the loop that leaves attention out there is no bound


def test_a_loop_that_takes_too_long_is_cut_short(tmp_path):
    result = run(
        tmp_path, "generate", "--model", "tiny", "--device", "cpu", "--batch", "2", "--prefix", "40", "--attention",
        "auto", "--seconds", "0",
    )  # fmt: skip
    assert result["rows"][0]["step_ms"]["runs"] == 1


def test_host(tmp_path):
    result = run(tmp_path, "host", "--device", "cpu")
    assert {row["call"] for row in result["rows"]} >= {"run(q, kv, out)", "plan"}
    assert all(row["host_us"]["median"] > 0 for row in result["rows"])


def test_the_page(tmp_path, monkeypatch):
    """The documents' page is made of such files, and has a line for every row."""
    pytest.importorskip("matplotlib")
    scripts = pathlib.Path(__file__).parents[2] / "scripts"
    monkeypatch.syspath_prepend(str(scripts))
    import python_tables

    assert python_tables.page(tmp_path) is None
    attention = run(
        tmp_path, "attention", "--device", "cpu", "--batch", "2", "--shared", "16", "--heads", "2/1", "--head-dim", "8",
        "--dtype", "float32", "--runs", "1", "--systems", "trunkline,torch",
    )  # fmt: skip
    decode = run(
        tmp_path, "generate", "--model", "tiny", "--device", "cpu", "--batch", "2", "--prefix", "16",
        "--new-tokens", "7", "--attention", "none,auto",
    )  # fmt: skip
    host = run(tmp_path, "host", "--device", "cpu")
    for name, result in {
        "python_attention": attention, "python_cpu_attention": attention, "python_generate": decode,
        "python_host": host,
    }.items():  # fmt: skip
        (tmp_path / f"{name}.json").write_text(json.dumps(result))
    page = python_tables.page(tmp_path)
    assert page.count("| Trunkline auto |") == 2 and page.count("torch/sdpa-flash, packed") >= 2
    assert page.count("| 2 x (16 + 16) |") == 2 and "run(q, kv, out)" in page
    assert (tmp_path / "python_generate.svg").exists() and "](python_generate.svg)" in page


def test_plots(tmp_path):
    pytest.importorskip("matplotlib")
    for arguments in (
        ("attention", "--batch", "2", "--shared", "16", "--heads", "2/1", "--head-dim", "8", "--dtype", "float32",
         "--runs", "1", "--systems", "trunkline,torch"),
        ("generate", "--model", "tiny", "--batch", "2", "--prefix", "16", "--new-tokens", "7",
         "--attention", "none,auto"),
    ):  # fmt: skip
        picture = tmp_path / f"{arguments[0]}.svg"
        run(tmp_path, *arguments, "--device", "cpu", "--plot", str(picture))
        assert picture.read_text().count("<path") > 5
    with pytest.raises(ValueError, match="plot: expected rows"):
        plots.draw({"kind": "host", "rows": []}, "never.svg")
