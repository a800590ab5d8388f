"""Decode steps of a whole model: trunkline.llama with random weights, its attention exchanged."""

from __future__ import annotations

import argparse
import gc
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from ..llama import Engine, Llama, LlamaConfig, SamplingParams, Weights
from . import results
from .attention import default_device, free_bytes
from .layer import layer_facts
from .meters import Meter, Samples, make_meter
from .results import Row, summarize
from .shapes import make_case

MODELS = {
    "llama3-8b": LlamaConfig(max_position_embeddings=1 << 20),
    "small": LlamaConfig(
        vocab_size=8192, hidden_size=512, intermediate_size=1408, num_layers=4, num_qo_heads=8, num_kv_heads=2,
        head_dim=64, max_position_embeddings=1 << 20,
    ),
    "tiny": LlamaConfig(
        vocab_size=97, hidden_size=64, intermediate_size=96, num_layers=2, num_qo_heads=4, num_kv_heads=2, head_dim=16,
        max_position_embeddings=4096,
    ),
}  # fmt: skip
ATTENTIONS = ("none", "auto", "unshared", "two_phase", "hydragen", "sdpa")
UNTIMED_STEPS = 3  # of decoding: graphs are captured, libraries set themselves up


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", choices=MODELS, help="[llama3-8b on a GPU, else small]")
    parser.add_argument("--batch", default="64,256", help="requests, several [64,256]")
    parser.add_argument("--prefix", default="1024,4096,16384", help="tokens they share, several [1024,4096,16384]")
    parser.add_argument("--own", type=int, default=16, help="further prompt tokens of each request [16]")
    parser.add_argument("--new-tokens", type=int, default=128, help="[128]")
    parser.add_argument("--attention", default="none,auto,unshared,sdpa", help=f"several of {', '.join(ATTENTIONS)}")
    parser.add_argument("--transformers", action="store_true", help="its own generate too, where memory allows")
    parser.add_argument("--seconds", type=float, default=10, help="after which a loop's decoding is cut short [10]")
    parser.add_argument("--time-limit", type=float, help="seconds after which no further case is begun")
    parser.add_argument("--no-graphs", action="store_true", help="no CUDA graphs")
    parser.add_argument("--page-size", type=int, default=16)
    parser.add_argument("--dtype", help="[bfloat16 on a GPU, else float32]")
    parser.add_argument("--device", help="[cuda where there is one, else cpu]")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="on the CPU")
    parser.add_argument("--seed", type=int, default=1)


def prompts(config: LlamaConfig, batch: int, prefix: int, own: int, seed: int) -> list[list[int]]:
    """``batch`` prompts with ``prefix`` tokens in common and ``own`` of their own, the first of which differ."""
    generator = torch.Generator().manual_seed(seed)

    def tokens(*shape: int) -> torch.Tensor:
        return torch.randint(config.vocab_size, shape, generator=generator)

    shared, rest = tokens(prefix).tolist(), tokens(batch, own)
    if batch <= config.vocab_size:
        rest[:, 0] = torch.randperm(config.vocab_size, generator=generator)[:batch]
    return [shared + tail for tail in rest.tolist()]


class DecodeClock:
    """Times the steps in which every request decodes."""

    def __init__(self, synchronize: Callable[[], None], most_seconds: float) -> None:
        self._synchronize, self._most_seconds = synchronize, most_seconds
        self.steps: Samples = []

    def over(self, steps: Iterator[Any]) -> None:
        """Advance ``steps``, one decode step each, until they end or take too long."""
        for _ in range(UNTIMED_STEPS):
            next(steps, None)
        self._synchronize()
        first = last = time.perf_counter()
        for _ in steps:
            now = time.perf_counter()
            self.steps.append(now - last)
            last = now
            if now - first > self._most_seconds:
                break
        self._synchronize()
        self.seconds = time.perf_counter() - first


class Bench:
    """A model and what is measured of it."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.device = default_device(args.device)
        on_cuda = self.device.type == "cuda"
        self.name = args.model or ("llama3-8b" if on_cuda else "small")
        self.config = MODELS[self.name]
        self.dtype_name = args.dtype or ("bfloat16" if on_cuda else "float32")
        self.meter: Meter = make_meter(self.device, args.threads)
        weights = Weights.random(self.config, dtype=getattr(torch, self.dtype_name), device=self.device, seed=args.seed)
        self.model = Llama(weights)

    @property
    def _bytes_per_token(self) -> int:
        """Of KV, in all layers."""
        config = self.config
        return 2 * config.num_layers * config.num_kv_heads * config.head_dim * self.model.dtype.itemsize

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def loop(self, attention: str, batch: int, prefix: int) -> Row:
        """Decode with trunkline.llama. Raises MemoryError when it does not fit."""
        args, config = self.args, self.config
        length = prefix + args.own + args.new_tokens
        if attention == "sdpa":
            # And a layer's copy of it, for its kernels take no gaps.
            if batch * length * self._bytes_per_token * (1 + 1 / config.num_layers) > free_bytes(self.device):
                raise MemoryError("each request's KV in one piece takes more memory than there is")
        own_pages = -(-(args.own + args.new_tokens) // args.page_size) + 2
        graphs = self.device.type == "cuda" and not args.no_graphs and attention != "sdpa"
        engine = Engine(
            self.model,
            num_pages=-(-prefix // args.page_size) + batch * own_pages,
            page_size=args.page_size,
            max_requests=batch,
            max_seq_len=length,
            attention=attention,
            cuda_graphs=graphs,
        )
        begin = time.perf_counter()
        params = SamplingParams(max_new_tokens=args.new_tokens)
        for prompt in prompts(config, batch, prefix, args.own, args.seed):
            engine.add(prompt, params)

        def steps() -> Iterator[bool]:
            """Whether every request decoded in the step, and nothing else happened."""
            stats = engine.stats
            while engine.num_unfinished:
                before = stats.generated_tokens, stats.computed_tokens
                engine.step()
                yield (stats.generated_tokens - before[0], stats.computed_tokens - before[1]) == (batch, batch)

        next(step for step in steps() if step)
        self._synchronize()
        prefill_seconds = time.perf_counter() - begin
        clock = DecodeClock(self._synchronize, args.seconds)
        clock.over(itertools.takewhile(bool, steps()))
        return self._row(attention, batch, prefix, clock, prefill_seconds, graphs, engine.stats.computed_tokens)

    def transformers(self, batch: int, prefix: int) -> Row:
        """Decode with Transformers' own generate: its dynamic cache and its SDPA attention."""
        import transformers

        args, config = self.args, self.config
        length = prefix + args.own + args.new_tokens
        # Its weights; the cache, of which a layer is copied in every step; the prompts' activations.
        weights = sum(x.nbytes for layer in self.model.weights.layers for x in vars(layer).values())
        activations = batch * (prefix + args.own) * (config.intermediate_size * 3 + config.hidden_size * 6) * 2
        if 1.2 * weights + 1.1 * batch * length * self._bytes_per_token + activations > free_bytes(self.device):
            raise MemoryError("weights, cache and prompts take more memory than there is")
        settings = transformers.LlamaConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_qo_heads,
            num_key_value_heads=config.num_kv_heads,
            head_dim=config.head_dim,
            max_position_embeddings=config.max_position_embeddings,
            tie_word_embeddings=False,
            eos_token_id=None,
            pad_token_id=0,
        )
        with self.device:
            model = transformers.AutoModelForCausalLM.from_config(
                settings, attn_implementation="sdpa", dtype=self.model.dtype
            ).eval()
        clock = DecodeClock(self._synchronize, args.seconds)
        stamps: list[float] = []

        class Stamp(transformers.LogitsProcessor):
            def __call__(stamp, input_ids: Any, scores: Any) -> Any:
                self._synchronize()
                stamps.append(time.perf_counter())
                return scores

        class Enough(transformers.StoppingCriteria):
            def __call__(stop, input_ids: Any, scores: Any, **_: Any) -> Any:
                enough = stamps[-1] - stamps[0] > args.seconds
                return torch.full((len(input_ids),), enough, dtype=torch.bool, device=input_ids.device)

        ids = torch.tensor(prompts(config, batch, prefix, args.own, args.seed), device=self.device)
        begin = time.perf_counter()
        with torch.inference_mode():
            model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=args.new_tokens,
                do_sample=False,
                logits_processor=[Stamp()],
                stopping_criteria=[Enough()],
            )
        timed = stamps[min(UNTIMED_STEPS, len(stamps) - 2) :]
        clock.steps = [b - a for a, b in zip(timed, timed[1:])]
        clock.seconds = timed[-1] - timed[0]
        return self._row("transformers", batch, prefix, clock, stamps[0] - begin, False, ids.numel())

    def _row(
        self,
        attention: str,
        batch: int,
        prefix: int,
        clock: DecodeClock,
        prefill_seconds: float,
        graphs: bool,
        computed: int,
    ) -> Row:
        return {
            "grid": "generate",
            "case": {
                "batch": batch,
                "prefix": prefix,
                "own": self.args.own,
                "new_tokens": self.args.new_tokens,
                "heads": [self.config.num_qo_heads, self.config.num_kv_heads],
                "head_dim": self.config.head_dim,
            },
            "label": f"{batch} x ({prefix} + {self.args.own})",
            "backend": self.device.type,
            "strategy": attention,
            "dtype": self.dtype_name,
            "page_size": self.args.page_size,
            "cuda_graphs": graphs,
            "step_ms": summarize(clock.steps, 1e3),
            "tokens_per_s": batch * len(clock.steps) / clock.seconds,
            "prefill_s": prefill_seconds,
            "computed_tokens": computed,
        }

    def layer(self, batch: int, prefix: int) -> dict[str, Any]:
        """Facts of one layer's attention in the middle of the decoding."""
        config, args = self.config, self.args
        case = make_case(
            batch, prefix, args.own + args.new_tokens // 2, heads=(config.num_qo_heads, config.num_kv_heads),
            head_dim=config.head_dim, page_size=args.page_size, dtype=self.dtype_name,
        )  # fmt: skip
        return layer_facts(case, self.meter, self.device, args.threads, free_bytes(self.device), args.seed)


def compare(rows: Sequence[Row], layer: dict[str, Any], num_layers: int) -> None:
    """Add to the rows of a case what each is against the others."""
    steps = {row["strategy"]: row["step_ms"]["median"] for row in rows}
    for row in rows:
        row.update(layer, layers=num_layers)
        step = steps[row["strategy"]]
        if "none" in steps:
            row["no_attention_ms"] = steps["none"]
            row["bound_ms"] = steps["none"] + num_layers * layer["attention_floor_us"] * 1e-3
            row["ratio"] = step / row["bound_ms"]
            row["share_of_no_attention"] = steps["none"] / step
            if "sdpa_layer_us" in layer:  # what no loop over SDPA is faster than
                row["sdpa_bound_ms"] = steps["none"] + num_layers * layer["sdpa_layer_us"] * 1e-3
        if "auto" in steps:
            row["times_auto"] = step / steps["auto"]


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """The result document."""
    wanted = args.attention.split(",")
    for name in wanted:
        if name not in ATTENTIONS:
            raise ValueError(f"attention: expected {', '.join(ATTENTIONS)}, got '{name}'")
    batches, prefixes = ([int(n) for n in text.split(",")] for text in (args.batch, args.prefix))
    if min(*batches, *prefixes, args.own, args.new_tokens - UNTIMED_STEPS - 2) < 1:
        raise ValueError(f"batch, prefix, own: expected at least 1; new-tokens: at least {UNTIMED_STEPS + 3}")
    bench = Bench(args)
    device: dict[str, Any] = {"backend": bench.device.type, "threads": args.threads}
    if bench.device.type == "cuda":
        device["gpu"] = results.gpu(bench.device)
    result = results.document("generate", device)
    result["model"] = {"name": bench.name, **vars(bench.config)}
    result["skipped"] = []
    begin = time.perf_counter()
    for prefix in prefixes:
        for batch in batches:
            rows: list[Row] = []
            for name in wanted + (["transformers"] if args.transformers else []):
                late = args.time_limit is not None and time.perf_counter() - begin > args.time_limit
                try:
                    if late:
                        raise TimeoutError("the time limit was reached")
                    if name == "transformers":
                        rows.append(bench.transformers(batch, prefix))
                    else:
                        rows.append(bench.loop(name, batch, prefix))
                    print(f"{rows[-1]['label']}, {name}: {rows[-1]['step_ms']['median']:.3f} ms a step", flush=True)
                except (MemoryError, TimeoutError, ImportError, torch.OutOfMemoryError) as error:
                    reason = str(error).splitlines()[0]
                    result["skipped"].append({"batch": batch, "prefix": prefix, "strategy": name, "reason": reason})
                gc.collect()  # the engine, before the next one takes its memory
            if rows:
                gc.collect()
                compare(rows, bench.layer(batch, prefix), bench.config.num_layers)
            result["rows"].extend(rows)
            results.write_json(args.json, result)
    return result


def table(result: dict[str, Any]) -> str:
    """A line per loop, in Markdown."""
    header = [
        "requests x (prefix + own)", "attention", "step ms", "p10", "p90", "tokens/s", "bound ms", "step / bound",
        "of the no-attention bound", "times auto", "SDPA's bound ms", "prefill s", "graphs",
    ]  # fmt: skip
    lines = []
    for row in result["rows"]:

        def number(name: str, form: str, row: Row = row) -> str:
            return format(row[name], form) if name in row else ""

        steps = row["step_ms"]
        lines.append([
            row["label"], row["strategy"], f"{steps['median']:.3f}", f"{steps['p10']:.3f}", f"{steps['p90']:.3f}",
            f"{row['tokens_per_s']:.0f}", number("bound_ms", ".3f"), number("ratio", ".2f"),
            number("share_of_no_attention", ".0%"), number("times_auto", ".2f"),
            number("sdpa_bound_ms", ".3f"), f"{row['prefill_s']:.2f}",
            "yes" if row["cuda_graphs"] else "no",
        ])  # fmt: skip
    return results.markdown_table(header, lines)


def remarks(result: dict[str, Any]) -> list[str]:
    """What was left out."""
    return [
        f"skipped: {entry['batch']} x {entry['prefix']}, {entry['strategy']}: {entry['reason']}"
        for entry in result["skipped"]
    ]


def is_correct(result: dict[str, Any]) -> bool:
    return True  # nothing is checked here: the tests of trunkline.llama do
