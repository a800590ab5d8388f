"""Best of n: many samples of one prompt, which lie on one copy of its KV, against samples computed alone.

The reward is a toy (how many different tokens a sample has); a model folder may be given, else the weights are random.
"""

import argparse

import torch

from trunkline.llama import Engine, Llama, LlamaConfig, SamplingParams, Weights

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--model", help="folder with config.json and safetensors")
parser.add_argument("-n", type=int, default=16)
parser.add_argument("--prompt-tokens", type=int, default=500)
parser.add_argument("--new-tokens", type=int, default=32)
parser.add_argument("--seed", type=int, default=0)
args = parser.parse_args()
torch.manual_seed(args.seed)

small = LlamaConfig(
    vocab_size=1000, hidden_size=128, intermediate_size=256, num_layers=2, num_qo_heads=8, num_kv_heads=2, head_dim=16
)
weights = Weights.from_safetensors(args.model) if args.model else Weights.random(small)
page_size = 16
pages_of_prompt = -(-args.prompt_tokens // page_size)
pages_of_sample = -(-args.new_tokens // page_size) + 1
engine = Engine(
    Llama(weights),
    num_pages=pages_of_prompt + args.n * pages_of_sample,
    page_size=page_size,
    max_requests=args.n,
    seed=args.seed,
)

prompt = torch.randint(0, weights.config.vocab_size, (args.prompt_tokens,)).tolist()
params = SamplingParams(max_new_tokens=args.new_tokens, temperature=0.8, top_p=0.95, n=args.n)
(samples,) = engine.generate([prompt], params)
best = max(samples, key=lambda sample: len(set(sample)))

print(f"best of {len(samples)} has {len(set(best))} different tokens: {best[:8]} ...")
print(f"pages used at most: {engine.tree.stats().peak_pages}; {args.n * (pages_of_prompt + pages_of_sample - 1)} alone")
alone = args.n * (args.prompt_tokens + args.new_tokens - 1)
print(f"tokens computed: {engine.stats.computed_tokens}; {alone} alone")
