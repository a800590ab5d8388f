"""What the pages of docs/benchmarks are made with: their JSON, Markdown tables, marked parts of README.md."""

import json
import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs" / "benchmarks"


def load(name, folder=FOLDER):
    path = pathlib.Path(folder) / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def table(header, rows):
    lines = ["| " + " | ".join(header) + " |", "|" + "|".join("---" for _ in header) + "|"]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def heads(case):
    return "/".join(str(number) for number in case["heads"])


def replace_marked(text, name, content):
    """Puts content between the comments `name` and `end of name`, which follow the last such part when they are not there yet."""
    begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
    if begin not in text:
        last = list(re.finditer(r"<!-- end of .*? -->\n", text))[-1].end()
        text = text[:last] + "\n" + begin + "\n" + end + "\n" + text[last:]
    before, rest = text.split(begin, 1)
    return before + begin + "\n" + content + "\n\n" + end + rest.split(end, 1)[1]
