"""``python -m trunkline.bench attention | generate | host``."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

try:
    from . import attention, generate, host, results
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    sys.exit("trunkline.bench: expected PyTorch, got none: pip install 'trunkline[bench]'")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m trunkline.bench", description="Trunkline beside other attentions.")
    commands = parser.add_subparsers(required=True)
    for name, module in (("attention", attention), ("generate", generate), ("host", host)):
        command = commands.add_parser(name, help=(module.__doc__ or "").splitlines()[0])
        command.set_defaults(module=module)
        module.add_options(command)
        for option, what in (
            ("json", "the result, as trunkline bench writes it"),
            ("csv", "a line per row"),
            ("markdown", "the table that is printed"),
            ("plot", "a picture, .png, .svg or .pdf; needs Matplotlib"),
        ):
            command.add_argument(f"--{option}", help=what, metavar="FILE")
    args = parser.parse_args(arguments)
    if args.plot and importlib.util.find_spec("matplotlib") is None:
        parser.error("plot: expected Matplotlib, got none: pip install 'trunkline[bench]'")
    try:
        result = args.module.measure(args)
    except ValueError as error:
        parser.error(str(error))
    text = args.module.table(result)
    print(text, *args.module.remarks(result), sep="\n")
    results.write_json(args.json, result)
    if args.csv:
        results.write_csv(args.csv, result["rows"])
    if args.markdown:
        Path(args.markdown).write_text(text + "\n")
    if args.plot:
        from . import plots

        plots.draw(result, args.plot)
    return 0 if args.module.is_correct(result) else 1


if __name__ == "__main__":
    sys.exit(main())
