"""SFT rows that Axolotl reads as they are: prompts of an exact length with their right answers.

python examples/04_rows_for_axolotl.py [MODEL] [OUT.jsonl]

Rows of a model's own completions, the right ones chosen: needle-env process, then longthread export sft.
"""

import json
import sys
from pathlib import Path

from longthread import Haystacks, Options, load_tokenizer, score

LENGTH, ROWS = 2048, 8
TASKS = ("single", "multi_key", "multi_value", "absent")

model = sys.argv[1] if len(sys.argv) > 1 else "HuggingFaceTB/SmolLM2-135M-Instruct"
out = Path(sys.argv[2] if len(sys.argv) > 2 else "sft.jsonl")
haystacks = Haystacks(load_tokenizer(model), Options(lexical_gap=True))

with out.open("w") as file:
    for seed in range(ROWS):
        sample = haystacks.sample(seed, "train", TASKS[seed % len(TASKS)], LENGTH)
        reply = f"<answer>{'; '.join(sample.answer.values) or 'none'}</answer>"
        assert score(reply, sample.answer).correct
        messages = [*sample.messages, {"role": "assistant", "content": reply}]
        file.write(json.dumps({"messages": messages, "score": 1.0, "task": sample.recipe["task"]}) + "\n")

print(f"{ROWS} rows of {LENGTH} tokens and a reply: {out}. For Axolotl:")
print(f"datasets: [{{path: {out}, ds_type: json, type: chat_template}}]\nsequence_len: {LENGTH + 128}")
