"""A sample: a prompt of an exact length, the facts in it, a question, and the one right answer.

python examples/01_sample.py [MODEL]
"""

import sys

from longthread import Haystacks, Options, load_tokenizer, rebuild

tokenizer = load_tokenizer(sys.argv[1] if len(sys.argv) > 1 else "HuggingFaceTB/SmolLM2-135M-Instruct")
haystacks = Haystacks(tokenizer, Options(distractors=2))

# depths: where the facts that answer the question stand, from 0 (first sentence) to 1 (last sentence).
sample = haystacks.sample(seed=7, split="train", task="multi_key", length=2048, depths=[0.5])

prompt = sample.messages[0]["content"]
print(prompt[:200], "…\n…", prompt[-400:], "\n")
print("tokens, chat template included:", sample.length)
for needle in sample.needles:
    print(f"{needle.role:10} depth {needle.depth:.2f}  token {needle.token_start:5}  {needle.text}")
print("answer:", *sample.answer.values)

# Keep recipes, not haystacks: a few hundred bytes bring back the identical sample.
assert rebuild(sample.recipe, tokenizer) == sample
print("recipe:", sample.recipe)
