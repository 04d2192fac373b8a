"""One short example of each task, in Markdown.

python -m environments.haystack.examples --tokenizer NAME_OR_FOLDER [--length 512] [--lexical-gap]
"""

from typing import Annotated

import typer

from environments.haystack.options import Options
from environments.haystack.sample import Haystacks
from environments.haystack.tasks import TASKS
from environments.haystack.tokens import load_tokenizer


def main(
    tokenizer: Annotated[str, typer.Option(help="Tokenizer: a local folder or a hub name.")],
    length: Annotated[int, typer.Option(help="Prompt length in tokens.")] = 512,
    lexical_gap: Annotated[bool, typer.Option(help="Ask without the needles' words.")] = False,
    seed: Annotated[int, typer.Option()] = 0,
) -> None:
    """Print what each task hides, asks and expects; the facts stand in the order in which the text states them."""
    options = Options(
        lexical_gap=lexical_gap, distractors=2, decoys=1, hops="3", versions="3", matches="3", values=2, queries=2
    )
    haystacks = Haystacks(load_tokenizer(tokenizer), options)
    for task in TASKS:
        if TASKS[task].fixed:
            continue
        sample = haystacks.sample(seed, "train", task, length)
        print(f"**{task}**: {sample.question}\n")
        for needle in sorted(sample.needles, key=lambda n: n.token_start):
            print(f"- {needle.depth:4.0%} {needle.role}: {needle.text}")
        for text in sample.decoys.texts[:2]:
            print(f"- decoy: {text}")
        steps = f" (by way of {', '.join(sample.answer.steps)})" if sample.answer.steps else ""
        print(f"\n→ `{'; '.join(sample.answer.values) or 'none'}`{steps}\n")


if __name__ == "__main__":
    typer.run(main)
