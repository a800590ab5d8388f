"""The examples run, and what they print is so. Docstring examples of the modules above the core run too."""

from __future__ import annotations

import doctest
import importlib
import os
import pathlib
import re
import subprocess
import sys

import pytest

pytest.importorskip("torch")

import trunkline as tl  # noqa: E402

EXAMPLES = pathlib.Path(__file__).parents[2] / "python" / "examples"


def run(name: str, *arguments: object) -> str:
    package = str(pathlib.Path(tl.__file__).parent.parent)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([package, os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, str(EXAMPLES / f"{name}.py"), *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def numbers(pattern: str, text: str) -> list[float]:
    match = re.search(pattern, text)
    assert match, text
    return [float(group) for group in match.groups()]


def test_decode_loop():
    out = run("decode_loop")
    assert numbers(r"reduced ([\d.]+) times", out) == [2.5]  # 4 x 120 tokens over 96 + 4 x 24
    source = (EXAMPLES / "decode_loop.py").read_text()
    assert len(re.findall(r"# \d", source)) <= 10


def test_best_of_n():
    out = run("best_of_n", "-n", 8, "--prompt-tokens", 100, "--new-tokens", 10)
    assert numbers(r"tokens computed: (\d+); (\d+) alone", out) == [100 + 8 * 9, 8 * 109]
    assert numbers(r"pages used at most: (\d+); (\d+) alone", out)[0] <= 7 + 8


def test_system_prompt():
    out = run("system_prompt", "--chats", 4, "--turns", 2, "--system-tokens", 100)
    hits, prompt_tokens, _, computed = numbers(
        r"turn 1: (\d+) of (\d+) prompt tokens were cached \((\d+) %\), (\d+) tokens computed", out
    )
    assert hits == 3 * 100 and prompt_tokens == 4 * 120
    assert computed == 100 + 4 * 20 + 4 * 29
    assert numbers(r"turn 2: (\d+) of", out)[0] == 3 * 100 + 4 * 149  # of each chat all but its newest token


def test_tree_search():
    out = run("tree_search", "--width", 4, "--children", 3, "--depth", 6)
    total, distinct, share = numbers(r"(\d+) tokens of KV in (\d+) \(([\d.]+) times", out)
    assert total == 4 * 106
    assert distinct <= 96 + 4 * 10 and share > 3  # whole pages of 8 in common; of a page that parts, each has a copy


@pytest.mark.parametrize("trace", [None, '{"hash_ids": [1, 2, 3], "input_length": 1100}\n' * 4])
def test_sharing_statistics(trace, tmp_path):
    arguments = ["--batch", 4, "--batches", 2]
    if trace is not None:
        (tmp_path / "trace.jsonl").write_text(trace)
        arguments.insert(0, tmp_path / "trace.jsonl")
    rows = [line.split() for line in run("sharing_statistics", *arguments).splitlines()[1:]]
    assert len(rows) == (2 if trace is None else 1)
    if trace is not None:
        assert rows[0][:6] == ["0", "4", "4400", "1328", "3.31", "5"]  # 1024 in common, 76 of each
    assert all(float(row[6]) <= 1.01 * float(row[7]) for row in rows)  # sharing is modelled no slower


@pytest.mark.parametrize("module", ["torch_ops", "llama.engine", "transformers.cache"])
def test_docstring_examples(module):
    if module.startswith("transformers"):
        pytest.importorskip("transformers")
    results = doctest.testmod(importlib.import_module(f"trunkline.{module}"))
    assert results.attempted > 0 and results.failed == 0
