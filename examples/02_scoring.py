"""What a reply earns: whole values, one answer region, precision, abstaining where the fact is absent.

python examples/02_scoring.py [MODEL]
"""

import sys

from longthread import Haystacks, Options, load_tokenizer, score

tokenizer = load_tokenizer(sys.argv[1] if len(sys.argv) > 1 else "HuggingFaceTB/SmolLM2-135M-Instruct")
haystacks = Haystacks(tokenizer, Options(values=3, value_kind="words"))
sample = haystacks.sample(seed=1, split="train", task="multi_value", length=2048)
first, second, third = sample.answer.values
distractor = "acorn-alder-alpine-amber"

REPLIES = {
    "all three": f"<answer>{first}; {second}; {third}</answer>",
    "in another order, upper case": f"<answer>{third.upper()}; {first}; {second}</answer>",
    "two of three": f"<answer>{first}; {second}</answer>",
    "one wrong beside them": f"<answer>{first}; {second}; {third}; {distractor}</answer>",
    "one of them three times": f"<answer>{first}; {first}; {first}</answer>",
    "within a longer value": f"<answer>my-{first}</answer>",
    "two answers": f"<answer>{first}</answer> <answer>{second}</answer>",
    "no answer region": f"{first}; {second}; {third}",
    "thinking that does not end": f"<think><answer>{first}; {second}; {third}</answer>",
    "abstaining": "<answer>none</answer>",
}
print(sample.question)
for name, reply in REPLIES.items():
    print(f"{score(reply, sample.answer).score:.3f}  {name}")

absent = haystacks.sample(seed=1, split="train", task="absent", length=2048)
print(
    f"\n{absent.question}\n{score('<answer>none</answer>', absent.answer).score:.3f}  abstaining: the text does not say"
)
