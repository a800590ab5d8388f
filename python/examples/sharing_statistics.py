"""What a trace of requests would save: shares and modelled times of its batches.

A trace is JSON lines with ``hash_ids``, a name for each block of 512 tokens such that equal prefixes have equal names,
and ``input_length`` in tokens (the format of the Mooncake traces). Without a file, chats with common system prompts are
made.
"""

import argparse
import json
import random

import trunkline as tl

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("trace", nargs="?", help="JSON lines; default: made here")
parser.add_argument("--batch", type=int, default=64, help="requests decoded together")
parser.add_argument("--batches", type=int, default=8)
args = parser.parse_args()
BLOCK = 512


def made_trace(num_requests: int) -> list[dict]:
    """Four system prompts of 1 to 8 blocks, conversations of 1 to 6 blocks, some of which come back for more."""
    generator = random.Random(0)
    names = iter(range(10**9))
    systems = [[next(names) for _ in range(generator.choice([1, 2, 4, 8]))] for _ in range(4)]
    chats: list[list[int]] = []
    requests = []
    for _ in range(num_requests):
        returns = chats and generator.random() < 0.4
        chat = generator.choice(chats) if returns else generator.choice(systems)
        chat = chat + [next(names) for _ in range(generator.randint(1, 6))]
        chats.append(chat)
        requests.append({"hash_ids": chat, "input_length": BLOCK * (len(chat) - 1) + generator.randint(1, BLOCK)})
    return requests


if args.trace:
    with open(args.trace) as file:
        requests = [json.loads(line) for _, line in zip(range(args.batch * args.batches), file)]
else:
    requests = made_trace(args.batch * args.batches)

config = tl.AttentionConfig(num_qo_heads=32, num_kv_heads=8, head_dim=128, page_size=BLOCK)
unshared = tl.AttentionConfig(num_qo_heads=32, num_kv_heads=8, head_dim=128, page_size=BLOCK, strategy="unshared")
device = tl.DeviceSpec.h200()

print("batch requests    tokens  distinct  share  nodes  model us  unshared")
for number, begin in enumerate(range(0, len(requests), args.batch)):
    batch = requests[begin : begin + args.batch]
    lengths = [request["input_length"] for request in batch]
    indptr, blocks = [0], []
    for request, length in zip(batch, lengths):
        # The last block is partly filled and every request's own: whoever appends to it next has a copy.
        blocks += request["hash_ids"][: (length - 1) // BLOCK] + [2**30 + len(indptr)]
        indptr.append(len(blocks))
    forest = tl.Forest.from_block_tables((indptr, blocks), lengths, page_size=BLOCK)
    times = [1e6 * tl.Planner(c, device).plan(forest).statistics()["model_seconds"] for c in (config, unshared)]
    print(
        f"{number:5} {forest.num_requests:8} {forest.total_tokens:9} {forest.distinct_tokens:9} {forest.share:6.2f} "
        f"{len(forest.nodes):6} {times[0]:9.1f} {times[1]:9.1f}"
    )
