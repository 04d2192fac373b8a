"""A task of one's own: which word does the text give a person as a nickname? Nothing of longthread is changed.

python examples/06_own_task.py [MODEL]

A package brings it to every command (--env.tasks nickname) with these lines in its pyproject.toml:

    [project.entry-points."longthread.tasks"]
    nickname = "my_package.nickname:NICKNAME"
"""

import sys

from longthread import TASKS, Answer, Draw, Haystacks, Options, Quiz, Task, load_tokenizer, rebuild


def nickname(draw: Draw, absent: bool) -> Quiz:
    """Draw two people with a nickname each, and ask for one of them."""
    asked, other = draw.person(), draw.person()
    values = draw.values("password", 2)  # four words joined by hyphens, which belong to the sample's split
    needles = ((f"Friends call {asked.told} only {values[0]}.", "answer"),
               (f"Friends call {other.told} only {values[1]}.", "distractor"))  # fmt: skip
    question = f"What do friends call {asked.asked}?"
    return Quiz(needles, tuple(values), question, Answer("one", (values[0],), "words"))


NICKNAME = Task("nickname", "nickname", nickname)

if __name__ == "__main__":
    TASKS.add(NICKNAME)  # in this process alone; an installed package needs no such line
    tokenizer = load_tokenizer(sys.argv[1] if len(sys.argv) > 1 else "HuggingFaceTB/SmolLM2-135M-Instruct")
    sample = Haystacks(tokenizer, Options()).sample(seed=7, split="train", task="nickname", length=2048)
    for needle in sample.needles:
        print(f"{needle.role:10} depth {needle.depth:.2f}  {needle.text}")
    print(sample.question, "->", *sample.answer.values)
    assert rebuild(sample.recipe, tokenizer) == sample
