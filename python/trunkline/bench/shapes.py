"""Shapes to measure, from grid files or options, and batches of block tables that have them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import trunkline as tl


@dataclass(frozen=True)
class Case:
    """One shape: a tree with the requests at its leaves.

    ``levels`` holds (nodes, tokens of each) from the root down; node i of a level belongs to node
    ``i * nodes_above // nodes`` of the level above. ``fields`` is what the grid wrote, for results.
    """

    levels: tuple[tuple[int, int], ...]
    heads: tuple[int, int] = (32, 8)
    head_dim: int = 128
    page_size: int = 16
    dtype: str = "bfloat16"
    qo_len: int = 1
    fields: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        tl.AttentionConfig(*self.heads, self.head_dim, self.page_size, dtype=self.dtype)  # checks them
        nodes = [count for count, _ in self.levels]
        if not nodes or min(nodes) < 1 or sorted(nodes) != nodes:
            raise ValueError(f"nodes_per_level: expected at least one, no fewer than on the level above, got {nodes}")
        if min(tokens for _, tokens in self.levels) < 0:
            raise ValueError(f"tokens_per_node: expected 0 or more, got {self.levels}")
        if not 1 <= self.qo_len <= max(1, self.seq_len):
            raise ValueError(f"qo_len: expected 1 to the request's tokens {self.seq_len}, got {self.qo_len}")

    @property
    def num_requests(self) -> int:
        return self.levels[-1][0]

    @property
    def seq_len(self) -> int:
        """Tokens of each request."""
        return sum(tokens for _, tokens in self.levels)

    @property
    def label(self) -> str:
        nodes, tokens = zip(*self.levels)
        if len(nodes) == 2 and nodes[0] == 1:
            return f"{nodes[1]} x ({tokens[0]} + {tokens[1]})"
        return f"{','.join(map(str, nodes))} x {','.join(map(str, tokens))}"

    @property
    def operations(self) -> float:
        """Of the visible (query, token) pairs: two products of head_dim each, additions counted too."""
        visible = self.qo_len * self.seq_len - self.qo_len * (self.qo_len - 1) / 2
        return 4.0 * self.head_dim * self.heads[0] * visible * self.num_requests

    def to_json(self) -> dict[str, Any]:
        return {
            **(self.fields or {}),
            "heads": list(self.heads),
            "head_dim": self.head_dim,
            "qo_len": self.qo_len,
        }


def make_case(batch: int, shared: int, unique: int, **options: Any) -> Case:
    """``batch`` requests with ``shared`` tokens in common and ``unique`` of their own."""
    levels = ((1, shared), (batch, unique)) if shared else ((batch, unique),)
    return Case(levels, fields={"batch": batch, "shared": shared, "unique": unique}, **options)


def load_grid(path: str | Path, **overrides: Any) -> list[Case]:
    """The cases of a grid file; overrides that are not None replace its fields (heads, head_dim, ...).

    Raises
    ------
    ValueError
        Naming the file, the case and the field.
    """
    grid = json.loads(Path(path).read_text())
    if grid.get("schema") != 1:
        raise ValueError(f"{path}: schema: expected 1, got {grid.get('schema')}")
    overrides = {name: value for name, value in overrides.items() if value is not None}
    cases = []
    for number, fields in enumerate(grid["cases"], 1):
        values = {**grid.get("defaults", {}), **fields, **overrides}
        try:
            options = {name: values[name] for name in ("head_dim", "page_size", "dtype", "qo_len") if name in values}
            if "nodes_per_level" in values:
                levels = tuple(zip(values["nodes_per_level"], values["tokens_per_node"], strict=True))
            else:
                levels = make_case(values["batch"], values["shared"], values["unique"]).levels
            cases.append(Case(levels, tuple(values["heads"]), fields=fields, **options))
        except KeyError as error:
            raise ValueError(f"{path}: case {number}: {error.args[0]}: expected a value, got none") from None
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: case {number}: {error}") from None
    return cases


def choose(cases: Sequence[Case], numbers: str | None) -> list[Case]:
    """Those with the numbers, from 1: ``"1,3,5-8"``; all of them without."""
    if not numbers:
        return list(cases)
    chosen: set[int] = set()
    for part in numbers.split(","):
        first, _, last = part.partition("-")
        if not first.isdigit() or not (last or first).isdigit():
            raise ValueError(f"cases: expected numbers from 1 to {len(cases)}, like 1,3,5-8, got '{numbers}'")
        chosen.update(range(int(first), int(last or first) + 1))
    if not all(1 <= number <= len(cases) for number in chosen):
        raise ValueError(f"cases: expected numbers from 1 to {len(cases)}, like 1,3,5-8, got '{numbers}'")
    return [cases[number - 1] for number in sorted(chosen)]


class Batch:
    """Block tables of a case: pages in random order, some of them nobody's.

    A page belongs to the node that holds its last token, so that nobody sees a page in common who has not all its
    tokens in common.

    Parameters
    ----------
    case : Case
    seed : int
        Of the order of pages.
    unused_pages : int
        Pages of the cache that no request has, among the others.
    """

    def __init__(self, case: Case, seed: int = 1, unused_pages: int = 4) -> None:
        self.case = case
        page_size, seq_len = case.page_size, case.seq_len
        width = -(-seq_len // page_size)
        ends = np.minimum(np.arange(1, width + 1) * page_size, seq_len)  # of each page's tokens, exclusive
        level_ends = np.cumsum([tokens for _, tokens in case.levels])
        level_of_page = np.searchsorted(level_ends, ends)
        tables, first = np.empty((case.num_requests, width), np.int32), 0
        for level, (num_nodes, _) in enumerate(case.levels):
            columns = np.flatnonzero(level_of_page == level)
            nodes = self.node_of_request(level)
            tables[:, columns] = first + nodes[:, None] * len(columns) + np.arange(len(columns))
            first += num_nodes * len(columns)
        num_pages = first + unused_pages
        page_tokens = np.zeros(num_pages, np.int32)
        np.maximum.at(page_tokens, tables, np.broadcast_to(ends - np.arange(width) * page_size, tables.shape))
        order = np.random.default_rng(seed).permutation(num_pages).astype(np.int32)
        self.tables = np.ascontiguousarray(order[tables])
        self.page_tokens = np.empty_like(page_tokens)
        self.page_tokens[order] = page_tokens
        self.seq_lens = np.full(case.num_requests, seq_len, np.int32)
        self.qo_lens = np.full(case.num_requests, case.qo_len, np.int32)

    def node_of_request(self, level: int) -> np.ndarray:
        """Each request's node of a level."""
        nodes = np.arange(self.case.num_requests)
        for below in range(len(self.case.levels) - 1, level, -1):
            nodes = nodes * self.case.levels[below - 1][0] // self.case.levels[below][0]
        return nodes

    @property
    def num_pages(self) -> int:
        return len(self.page_tokens)

    @property
    def distinct_tokens(self) -> int:
        return int(self.page_tokens.sum())

    def forest(self) -> tl.Forest:
        return tl.Forest.from_block_tables(
            self.tables, self.seq_lens, self.case.page_size, self.qo_lens, num_pages=self.num_pages
        )
