"""Examples of docstrings and README run; stubs say what is there; type checkers agree."""

import doctest
import importlib.util
import inspect
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

import trunkline as tl

ROOT = pathlib.Path(__file__).parents[2]


def documented():
    for name in tl.__all__:
        value = getattr(tl, name)
        yield name, value
        if inspect.isclass(value):
            for member, attribute in vars(value).items():
                if not member.startswith("_"):
                    yield f"{name}.{member}", attribute


def examples():
    parser = doctest.DocTestParser()
    for name, value in documented():
        test = parser.get_doctest(getattr(value, "__doc__", None) or "", {}, name, None, 0)
        if test.examples:
            yield pytest.param(test, id=name)


@pytest.mark.parametrize("test", list(examples()))
def test_docstring_examples(test):
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    report = []
    runner.run(test, out=report.append)
    assert runner.failures == 0, "".join(report)


def test_main_classes_have_examples():
    with_examples = {case.id for case in examples()}
    assert with_examples >= {
        "PagePool", "PrefixTree", "Forest", "Plan", "Planner", "AttentionConfig", "DeviceSpec", "Attention", "Workspace",
        "KvCache", "merge", "reference_attention",
    }  # fmt: skip


def test_everything_public_is_documented():
    for name in tl.__all__:
        if name != "__version__":
            assert getattr(tl, name).__doc__, name


def readme_examples():
    for path in (ROOT / "python" / "README.md", ROOT / "README.md"):
        if not path.exists():
            continue
        for i, code in enumerate(re.findall(r"```python\n(.*?)```", path.read_text(), re.S)):
            if "import trunkline" in code:
                yield pytest.param(code, id=f"{path.relative_to(ROOT)}-{i}")


@pytest.mark.parametrize("code", list(readme_examples()))
def test_readme_examples(code):
    names = {}
    exec(compile(code, "README.md", "exec"), names)
    assert np.isfinite(np.asarray(names["out"])).all()


@pytest.fixture(scope="module")
def stub():
    path = pathlib.Path(tl.__file__).with_name("_core.pyi")
    return path.read_text()


def test_stubs_name_everything(stub):
    for name in tl.__all__:
        assert name == "__version__" or re.search(rf"^(class {name}\b|def {name}\()", stub, re.M), name
    assert "def run(self, q: trunkline.typing.Array, kv: KvCache" in stub
    assert "NDArray" not in stub and "object, " not in stub.split("def run(")[1].split("\n")[0]
    assert pathlib.Path(tl.__file__).with_name("py.typed").exists()


TYPED = """
import numpy as np
import trunkline as tl

config = tl.AttentionConfig(num_qo_heads=8, num_kv_heads=2, head_dim=64, page_size=16, dtype="float32")
attention = tl.Attention(config, max_requests=4, max_table_width=4)
pool = tl.PagePool(8, 16)
tree = tl.PrefixTree(pool)
inserted: tl.Insertion = tree.insert(np.arange(20, dtype=np.int32))
kv = tl.KvCache.interleaved(np.zeros((8, 2, 16, 2, 64), np.float32))
tl.copy_kv(kv, inserted.copy)
rows = np.zeros((20, 2, 64), np.float32)
tl.append_kv(kv, rows, rows, tree.slots(inserted.request, 0, 20))
tree.commit(inserted.request, 20)
plan: tl.Plan = attention.plan(tl.Forest.from_tree(tree))
text: str = plan.explain(tl.Forest.from_tree(tree))
share: float = tl.Forest.from_block_tables(([0, 1], [3]), [9], page_size=16).share
out = attention.run(np.zeros((1, 8, 64), np.float32), kv)
"""

MISTYPED = {
    'tl.PagePool("8", 16)': "arg-type",
    "attention.run(rows, rows)": "arg-type",
    "attention.run(rows)": "call-arg",
    "tree.insert(3)": "arg-type",
    "tl.Attention(config, 4, 4)": "call-arg|misc",
    "plan.explain()": "call-arg",
    "text = plan.statistics()": "assignment",
}


def test_type_checker(tmp_path):
    if importlib.util.find_spec("mypy") is None:
        pytest.skip("mypy is not installed")
    exec(compile(TYPED, "typed.py", "exec"), {})
    program = TYPED + "\n".join(MISTYPED) + "\n"
    (tmp_path / "typed.py").write_text(program)
    package = str(pathlib.Path(tl.__file__).parent.parent)
    environment = {**os.environ, "PYTHONPATH": ""}
    if "site-packages" not in package:
        environment["MYPYPATH"] = package
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--follow-imports=silent", "typed.py"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    found = {int(line): code for line, code in re.findall(r"typed\.py:(\d+): error: .*\[([\w-]+)\]", done.stdout)}
    first = TYPED.count("\n") + 1
    expected = {first + i: code for i, code in enumerate(MISTYPED.values())}
    assert found.keys() == expected.keys(), done.stdout + done.stderr
    for line, code in expected.items():
        assert found[line] in code.split("|"), done.stdout
