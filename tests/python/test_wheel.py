"""The package as a user gets it: built by pip, installed into a fresh environment. Slow, and needs a package index."""

import os
import pathlib
import re
import subprocess
import sys
import zipfile

import pytest

ROOT = pathlib.Path(__file__).parents[2]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.environ.get("TRUNKLINE_TEST_WHEEL") != "1", reason="set TRUNKLINE_TEST_WHEEL=1 to build one"),
]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, ROOT], check=True)
    (path,) = folder.glob("trunkline-*.whl")
    return path


def test_what_a_wheel_holds(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"trunkline/__init__.py", "trunkline/_core.pyi", "trunkline/py.typed", "trunkline/typing.py"} <= names
    assert any(re.fullmatch(r"trunkline/_core\..*\.so", name) for name in names)
    assert not any(name.startswith(("include/", "lib/", "trunkline/src")) for name in names), names


def test_a_fresh_environment(wheel, tmp_path):
    """The README's example runs on the wheel alone, with the Highway that the wheel brings."""
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", wheel], check=True)
    example = re.search(r"```python\n(import numpy.*?)```", (ROOT / "python" / "README.md").read_text(), re.S).group(1)
    code = example + "\nprint(out.shape, [l.split()[-1] for l in open('/proc/self/maps') if 'libhwy' in l][:1])"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([python, "-c", code], cwd=tmp_path, env=environment, check=True, capture_output=True, text=True)
    assert done.stdout.startswith("(2, 8, 64)")
    assert "libhwy" not in done.stdout or "site-packages/trunkline" in done.stdout
