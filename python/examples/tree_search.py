"""Beam search over a tree: every node branches by ``fork``, the best branches of all live on.

Scheduling is by hand here, on the pieces that the engine is made of.
"""

import argparse
from dataclasses import dataclass

import torch

import trunkline as tl
from trunkline.llama import Llama, LlamaConfig, Weights
from trunkline.llama.attention import TrunklineAttention
from trunkline.paged_layers import KvPages, StepAttention

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--width", type=int, default=8, help="branches that live on")
parser.add_argument("--children", type=int, default=3, help="of each branch")
parser.add_argument("--depth", type=int, default=12)
parser.add_argument("--seed", type=int, default=0)
args = parser.parse_args()
torch.manual_seed(args.seed)

PAGE = 8
config = LlamaConfig(
    vocab_size=1000, hidden_size=128, intermediate_size=256, num_layers=2, num_qo_heads=8, num_kv_heads=2, head_dim=16
)
model = Llama(Weights.random(config))
pool = tl.PagePool(1024, PAGE)
tree = tl.PrefixTree(pool)
pages = KvPages(config.num_layers, PAGE, config.num_kv_heads, config.head_dim, model.dtype, model.device, 1024)
step = StepAttention(config.num_qo_heads, config.num_kv_heads, config.head_dim, PAGE, model.dtype, model.device)
attention = TrunklineAttention(pages, step)


@dataclass
class Branch:
    request: int
    tokens: list[int]
    log_probability: float = 0.0


def log_probabilities(branches: list[Branch], num_new: int) -> torch.Tensor:
    """Compute the last ``num_new`` tokens of every branch; log-probabilities of what may follow each branch."""
    requests = [branch.request for branch in branches]
    attention.plan(tl.Forest.from_tree(tree, requests, [num_new] * len(branches)))
    ends = [len(branch.tokens) for branch in branches]
    attention.set_slots(torch.cat([torch.as_tensor(tree.slots(r, n - num_new, n)) for r, n in zip(requests, ends)]))
    tokens = torch.tensor([branch.tokens[-num_new:] for branch in branches]).flatten()
    positions = torch.cat([torch.arange(n - num_new, n) for n in ends])
    hidden = model.hidden_states(tokens, positions, attention)[num_new - 1 :: num_new]
    for request, end in zip(requests, ends):
        tree.commit(request, end)
    return torch.log_softmax(model.logits(hidden), dim=-1)


prompt = torch.randint(0, config.vocab_size, (100,)).tolist()
branches = [Branch(tree.insert(prompt).request, prompt)]
following = log_probabilities(branches, len(prompt))

for _ in range(args.depth):
    values, tokens = following.topk(args.children, dim=-1)
    candidates = [
        (branch.log_probability + value, branch, token)
        for branch, row, ids in zip(branches, values.tolist(), tokens.tolist())
        for value, token in zip(row, ids)
    ]
    chosen = sorted(candidates, key=lambda candidate: candidate[0], reverse=True)[: args.width]
    parents = branches
    branches = [Branch(tree.fork(parent.request), [*parent.tokens, token], score) for score, parent, token in chosen]
    for parent in parents:
        tree.remove(parent.request)
    copies = [tree.append(branch.request, branch.tokens[-1:]).copy for branch in branches]
    pages.copy([copy for copy in copies if copy is not None])
    following = log_probabilities(branches, 1)

forest = tl.Forest.from_tree(tree, [branch.request for branch in branches])
best = max(branches, key=lambda branch: branch.log_probability)
print(f"best of {len(branches)} branches: log-probability {best.log_probability:.2f}, {best.tokens[len(prompt) :]}")
print(f"{forest.total_tokens} tokens of KV in {forest.distinct_tokens} ({forest.share:.1f} times shared)")
