"""The page made from hopper_*.json: what it says of given results."""

import json
import pathlib
import sys
import tempfile
import unittest

SCRIPTS = pathlib.Path(__file__).resolve().parent.parent.parent / "scripts"
sys.path.insert(0, str(SCRIPTS))

import hopper_tables  # noqa: E402
import tables  # noqa: E402


def sample(median):
    return {"median": median, "p10": median * 0.9, "p90": median * 1.1, "runs": 50}


def row(kernel, strategy, cold_us, shared=4096, **more):
    case = {"batch": 16, "shared": shared, "unique": 256, "heads": [32, 8], "qo_len": 1}
    return {"grid": "decode", "case": case, "label": f"16 x ({shared} + 256)", "kernel": f"cuda/{kernel}",
            "strategy": strategy, "dtype": "bfloat16", "cold_us": sample(cold_us), "warm_us": sample(cold_us / 2),
            "floor_us": 10.0, "floor_bound": "bytes", "ratio": cold_us / 10, "warm_ratio": cold_us / 10, "gbps": 3000.0,
            "tflops": 20.0, "plan_us": 12.0, "model_us": 11.0, "model_ratio": 11 / cold_us, "error_ratio": 0.5,
            "empty_us": sample(3.2), "matrix_tflops": 785.0, **more}


def result(rows, never_slower=()):
    return {"commit": "0123456789ab", "device": {"gpu": {"name": "Some GPU", "cuda_runtime": "13.0"}},
            "flush": {"bytes": 256 << 20}, "rows": rows, "summary": {"floor": [], "never_slower": list(never_slower)}}


class HopperTables(unittest.TestCase):
    def setUp(self):
        self.temporary = tempfile.TemporaryDirectory()
        self.folder = pathlib.Path(self.temporary.name)
        source = SCRIPTS.parent / "docs" / "benchmarks" / "peers.json"
        (self.folder / "peers.json").write_text(source.read_text())

    def tearDown(self):
        self.temporary.cleanup()

    def write(self, name, rows, never_slower=()):
        (self.folder / f"hopper_{name}.json").write_text(json.dumps(result(rows, never_slower)))

    def test_decode_stands_beside_the_best_peer(self):
        self.write("decode", [row("sm80", "auto", 40), row("sm90", "auto", 20), row("sm90", "unshared", 30)])
        page = hopper_tables.page(self.folder)
        self.assertIn("| 16 x (4096 + 256) | 32/8 | 10.0 | bytes | 20.0 | 18.0 | 22.0 | 2.00 | 10.0 | 25.1 | PAT | 1.26 |", page)
        self.assertIn("Faster than the best peer on 1 of 1 shapes, 1.26 times", page)
        self.assertIn("| requests x (shared + own) | heads | floor us | sm80 auto | sm90 unshared | sm90 auto |", page)
        self.assertIn("| 16 x (4096 + 256) | 32/8 | 10.0 | 40.0 | 30.0 | 20.0 |", page)
        self.assertIn("Some GPU", page)
        self.assertNotIn("Chunked prefill", page)
        self.assertIn("| 25.1 | PAT |", hopper_tables.readme_results(self.folder))

    def test_shapes_without_a_peer_and_failed_checks_show(self):
        self.write("decode", [row("sm90", "auto", 20, shared=17, error_ratio=None)])
        page = hopper_tables.page(self.folder)
        self.assertIn("FAILED", page)
        self.assertNotIn("Faster than the best peer", page)

    def test_slower_than_unshared_is_named(self):
        entry = {"label": "8 x (16 + 16)", "heads": "8/1", "kernel": "cuda/sm90", "auto_us": 12.0, "unshared_us": 10.0}
        self.write("decode", [row("sm90", "auto", 20)], [dict(entry, slower=True), dict(entry, slower=False)])
        self.assertIn("2 comparisons, 1 where `auto` is slower by more than the larger of 3 % and 0.5 us: 8 x (16 + 16) "
                      "heads 8/1 on cuda/sm90: 12.0 against 10.0 us.", hopper_tables.page(self.folder))

    def test_grids_layers_prefill_and_host(self):
        self.write("decode", [row("sm90", "auto", 20)])
        self.write("pat", [row("sm90", "auto", 20), row("sm90", "unshared", 30)])
        self.write("prefill", [row("sm90", "auto", 20)])
        layers = {"count": 32, "layer_us": sample(9.5), "own_kv_layer_us": sample(18.5), "single_us": 10.5}
        self.write("layers", [row("sm90", "auto", 20, layers=layers)])
        self.write("host", [{"label": "256 x 8192", "kernel": "cuda/sm90", "strategy": "auto", "advance_us": sample(5.0),
                             "plan_us": sample(30.0), "host_us": sample(35.0), "layers": 32, "step_us": 900.0,
                             "step_without_planning_us": 899.0}])
        page = hopper_tables.page(self.folder)
        for part in ("## PAT's grid", "| 30.0 | 1.50 |", "| 32 | 9.50 | 10.50 | 18.50 |", "| 5.0 | 30.0 | 35.0 | 38.5 |",
                     "## Chunked prefill over a shared prefix", "- `hopper_host.json`: commit 0123456789ab"):
            self.assertIn(part, page)

    def test_marked_parts_are_replaced_or_added_once(self):
        text = "a\n<!-- results -->\nold\n<!-- end of results -->\nb\n"
        text = tables.replace_marked(text, "results", "new")
        self.assertEqual(text, "a\n<!-- results -->\n\nnew\n\n<!-- end of results -->\nb\n")
        for _ in range(2):
            text = tables.replace_marked(text, "more", "x")
            self.assertEqual(text.count("<!-- more -->"), 1)
        self.assertLess(text.index("<!-- end of results -->"), text.index("<!-- more -->"))
        self.assertTrue(text.endswith("b\n"))


if __name__ == "__main__":
    unittest.main()
