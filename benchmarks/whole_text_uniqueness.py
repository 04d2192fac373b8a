"""Is every question about a whole text answerable, in one way only, from its text alone? An independent solver answers.

    python -m benchmarks.whole_text_uniqueness [--samples 100000] [--length 1024] [--seed 0] [--json out.json]

The solver sees the prompt as a model does, with patterns of its own: it counts words, reads ledgers line by line and follows
assignments. Of two answers that are as good it says so, and a sample is sound if its `answer` is the one that is left, or if
nothing is left where the answer is said to be absent. Tasks and options are gone through in turn.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from benchmarks import uniqueness_run
from benchmarks.uniqueness_run import SEEDS_PER_POOL
from environments.haystack.sample import Haystacks, Options, Sample
from environments.haystack.tasks import TASKS

WHOLE = (
    "variable_tracking", "absent_variable_tracking", "common_words", "frequent_words", "aggregation", "absent_aggregation",
)  # fmt: skip
VARIANTS: tuple[dict[str, Any], ...] = (
    {},
    {"hops": "2-8", "distractors": 6, "answer_format": "plain"},
    {"hops": "3", "distractors": 0, "may_abstain": False},
)

_LINE = re.compile(r"On (\d+ [A-Z][a-z]+ \d{4}) ([A-Z][a-z]+ [A-Z][a-z]+) brought in (\d+) sacks? of ([a-z]+)\.")
_ASSIGNMENT = re.compile(r"VAR ([A-Z]{5}) = (?:VAR ([A-Z]{5})|(\d{6}))\.")
_NAME = "[A-Z][a-z]+ [A-Z][a-z]+"


class Delivery(NamedTuple):
    """One line of a ledger."""

    day: datetime
    person: str
    sacks: int
    good: str


def parts_of(sample: Sample) -> tuple[str, str]:
    """The text and the question, out of the user's message."""
    _, rest = sample.messages[0]["content"].split("\n\n", 1)
    text, asked = rest.rsplit("\n\nQuestion: ", 1)
    return text, asked.split("\n", 1)[0]


def solve(text: str, question: str) -> list[list[str]]:
    """All answers that the text allows, each as sorted values; none where it does not say."""
    if m := re.fullmatch(r"Which variables hold the number (\d{6}), .+ Name all of them\.", question):
        return _holders(text, m[1])
    if question.startswith("Which ten words"):
        return _most_common(text.split(), 10)
    if question.startswith("Which three coded words"):
        return _most_common([word for word in text.split() if word.isalpha()], 3)
    ledger = [Delivery(datetime.strptime(d, "%d %B %Y"), who, int(n), good) for d, who, n, good in _LINE.findall(text)]
    return [[answer] for answer in _aggregate(ledger, question)]


def _holders(text: str, number: str) -> list[list[str]]:
    found = _ASSIGNMENT.findall(text)
    source = {name: variable or value for name, variable, value in found}
    if len(source) < len(found):
        return [["a variable is assigned twice"]] * 2
    holders = []
    for name in source:
        at, steps = name, 0
        while at in source and steps <= len(source):
            at, steps = source[at], steps + 1
        holders += [name] if at == number else []
    return [sorted(holders)] if holders else []


def _most_common(words: Sequence[str], n: int) -> list[list[str]]:
    counts = Counter(words).most_common(n + 1)
    tied = counts[n - 1][1] == counts[n][1]
    return [sorted(word for word, _ in counts[:n])] * (1 + tied)


def _aggregate(ledger: list[Delivery], question: str) -> list[str]:
    if m := re.fullmatch(rf"On how many days did ({_NAME}) bring something in\? .+", question):
        return _number(len({line.day for line in ledger if line.person == m[1]}))
    if m := re.fullmatch(r"On how many days was ([a-z]+) brought in, by whomever\? .+", question):
        return _number(len({line.day for line in ledger if line.good == m[1]}))
    if m := re.fullmatch(rf"How many sacks did ({_NAME}) bring in altogether, of all goods\? .+", question):
        return _number(sum(line.sacks for line in ledger if line.person == m[1]))
    if m := re.fullmatch(
        rf"By how much does the number of days on which ({_NAME}) brought something in differ from that of ({_NAME})\? .+",
        question,
    ):
        one, other = (sum(line.person == name for line in ledger) for name in m.groups())
        return [str(abs(one - other))] if one and other else []
    if m := re.fullmatch(r"By date, who brought in ([a-z]+) on the (earliest|latest) day\?", question):
        days = sorted((line.day, line.person) for line in ledger if line.good == m[1])
        end = days[:: 1 if m[2] == "earliest" else -1]
        return [person for day, person in end if day == end[0][0]]
    by_good = question.startswith("Which of the goods")
    counts = Counter(line.good if by_good else line.person for line in ledger).most_common()
    return [value for value, n in counts if n == counts[0][1]]


def _number(n: int) -> list[str]:
    return [str(n)] if n else []


def faults(sample: Sample) -> list[str]:
    """What is wrong with the sample; nothing, if its answer is the only one that its text allows."""
    found, answer = solve(*parts_of(sample)), sample.answer
    if (answer.kind == "absent") != TASKS[sample.recipe["task"]].absent:
        return ["absent or not"]
    if found == ([] if answer.kind == "absent" else [sorted(answer.values)]):
        return []
    return ["another answer" if len(found) == 1 else f"{len(found) and 'several'} answers"]


def judge(haystacks: Haystacks, index: int, length: int) -> tuple[Sample, list[str]]:
    """The `index`-th sample of the run, and what is wrong with it. Every 250th is tokenised again."""
    variant = haystacks.variant(replace(haystacks.options, **VARIANTS[index // len(WHOLE) % len(VARIANTS)]))
    split = "eval" if index % 5 == 0 else "train"
    sample = variant.sample(index, split, WHOLE[index % len(WHOLE)], length + index % 97)
    wrong = faults(sample)
    tokens = haystacks.tokens
    if index % 250 < len(WHOLE) and len(tokens.encode(tokens.render(sample.messages))) != sample.length:
        wrong.append("another length")
    return sample, wrong


def main(
    samples: Annotated[int, typer.Option(help="Samples, tasks and variants in turn.", min=1)] = 100_000,
    length: Annotated[int, typer.Option(help="Tokens of the shortest.", min=512)] = 1024,
    seed: Annotated[int, typer.Option(help="Index of the first.", min=0)] = 0,
    tokenizer: Annotated[str, typer.Option(help="smollm2, gpt2 or mistral.")] = "gpt2",
    seconds: Annotated[float, typer.Option(help="Stop after so long; 0 is never.", min=0)] = 0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the numbers there.")] = None,
) -> None:
    """Print, task by task, how many samples are sound. Exits with 1 if one is not."""
    from benchmarks.reference_tokenizers import load

    haystacks = Haystacks(load(tokenizer), Options(pool_tokens=max(65_536, 4 * length), seeds_per_pool=SEEDS_PER_POOL))
    limits = uniqueness_run.Limits(samples, length, seed, seconds)
    if not uniqueness_run.report(WHOLE, lambda index: judge(haystacks, index, length), limits, json_file):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
