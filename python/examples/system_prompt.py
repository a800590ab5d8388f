"""A system prompt shared by many chats of several turns.

Nothing is declared: the engine finds what prompts have in common with each other and with what it answered before.
"""

import argparse

import torch

from trunkline.llama import Engine, Llama, LlamaConfig, SamplingParams, Weights

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--chats", type=int, default=8)
parser.add_argument("--turns", type=int, default=3)
parser.add_argument("--system-tokens", type=int, default=300)
parser.add_argument("--seed", type=int, default=0)
args = parser.parse_args()
torch.manual_seed(args.seed)

config = LlamaConfig(
    vocab_size=1000, hidden_size=128, intermediate_size=256, num_layers=2, num_qo_heads=8, num_kv_heads=2, head_dim=16
)
engine = Engine(Llama(Weights.random(config)), num_pages=2048, max_requests=args.chats, seed=args.seed)


def random_tokens(n: int) -> list[int]:
    return torch.randint(0, config.vocab_size, (n,)).tolist()


system = random_tokens(args.system_tokens)
chats = [list(system) for _ in range(args.chats)]
for turn in range(args.turns):
    for chat in chats:
        chat += random_tokens(20)  # the user speaks
    answers = engine.generate(chats, SamplingParams(max_new_tokens=30, temperature=1.0))
    for chat, (answer,) in zip(chats, answers):
        chat += answer
    stats = engine.tree.stats()
    print(
        f"turn {turn + 1}: {stats.hit_tokens} of {stats.prompt_tokens} prompt tokens were cached "
        f"({100 * stats.hit_rate:.0f} %), {engine.stats.computed_tokens} tokens computed so far"
    )
