"""Endless, seeded Python source: the text around needles of code where the user gives no code.

    python -m environments.haystack.filler.code [--seed 0] [--split train]    # a sample

A passage is a stretch of a module: top-level functions, classes and constants about one subject, each a paragraph without
an empty line, so that all of it parses. Train and eval share no name, and no name is defined twice within `REMEMBERED` names.
"""

import argparse
from collections.abc import Iterator
from itertools import islice
from random import Random

from environments.haystack.facts import WORDS, first_drawn, in_split

Passage = list[list[str]]  # paragraphs, each of one block of lines

BLOCKS = (7, 12)  # of a passage
REMEMBERED = 200_000
VERBS = (
    "load fetch build read parse merge count find store apply check clean close collect compare compute convert copy create "
    "decode drop encode expand filter format group index join limit list lock map mark match move open order pack pick plan "
    "prune queue rank refresh render reset resolve scale scan seal select send shift sort split start stop sum "
    "sync tag tally "
    "trace trim unpack update validate weigh wrap write"
).split()
NOUNS = (
    "account batch block bound budget cache channel chunk column cost counter cursor delta depth digest edge entry "
    "event field "
    "flag frame graph handle header index item key label ledger length level limit line list margin mask matrix message mode "
    "name node offset option order page path pattern price queue quota range rate ratio record report result row rule sample "
    "schedule scope score segment series size slot stamp state step stream table target task threshold token total "
    "unit value "
    "version weight window"
).split()
TYPES = ("int", "float", "str", "list", "dict", "bool")

# {f} a new name; {N} the same for a constant; {C} for a class; {a} {b} {c} nouns, all different; {w} a word; {v} {u} verbs;
# {n} {m} numbers.
TEMPLATES = (
    "{N} = {n}",
    '{N} = "{w}-{a}"',
    "{N} = ({n}, {m}, {n2})",
    '{N} = {{"{a}": {n}, "{b}": {m}, "{c}": {n2}}}',
    "{N} = [{n} * {a} for {a} in range({m})]",
    'def {f}({a}, {b}={n}):\n    """{V} the {a} with the {b}."""\n    if {a} is None:\n        return {b}\n'
    "    return {a} + {b}",
    "def {f}({a}s):\n    {b} = {n}\n    for {a} in {a}s:\n        if {a}.{c} > {m}:\n"
    "            {b} += {a}.{c}\n    return {b}",
    'def {f}({a}, {b}):\n    """{V} each {c} of the {w} {a}."""\n    {c}s = [{c} for {c} in {a}.{c}s if {c} != {b}]\n'
    "    {c}s.sort(key=lambda {c}: {c}.{u})\n    return {c}s[:{n}]",
    "def {f}({a}: {t}, {b}: {t2} = {n}) -> {t2}:\n    {c} = {a} * {n2} % {m}\n    while {c} > {b}:\n"
    "        {c} -= {n}\n    return {c}",
    "class {C}:\n    def __init__(self, {a}, {b}={n}):\n        self.{a} = {a}\n        self.{b} = {b}\n"
    "    def {v}(self, {c}):\n        return self.{a}.{v}({c}, self.{b})\n    def {u}(self):\n        self.{b} = {m}",
    'class {C}(Exception):\n    """The {a} of a {w} {b} was out of its {c}."""',
    "def {f}({a}, *, {b}):\n    try:\n        {c} = {a}.{v}({b})\n    except (KeyError, ValueError):\n        {c} = {n}\n"
    "    return {c} if {c} < {m} else {b}",
    'def {f}({a}s):\n    """Yield a {b} for each {w} {a}."""\n    for {c}, {a} in enumerate({a}s, {n}):\n'
    "        if {c} % {m2} == 0:\n"
    "            yield {a}.{v}({c})",
    "def {f}({a}, {b}s):\n    {c} = dict.fromkeys({b}s, {n})\n    {c}.update({a}.{u}())\n    return max({c}, key={c}.get)",
    'def {f}(path):\n    """{V} the {w} {a} that stands in a file."""\n    with open(path) as file:\n'
    "        {b} = [line.split() for line in file]\n"
    "    return {b}[{m2}:]",
    "def {f}({a}):\n    assert {a}.{b} >= {n}, {a}\n    {a}.{c} = {a}.{b} // {m2}\n    return {a}",
)


def name(rng: Random, split: str) -> str:
    """Draw the name of a function that belongs to the split: a verb, a word and a noun."""
    draw = lambda: f"{rng.choice(VERBS)}_{rng.choice(WORDS)}_{rng.choice(NOUNS)}"  # noqa: E731
    return first_drawn(draw, lambda drawn: in_split(drawn, split), f"a name of a function in {split}")


def passages(seed: int, split: str) -> Iterator[Passage]:
    """Yield endless passages; the same arguments give the same stream, byte for byte."""
    rng = Random(f"code/{split}/{seed}")
    names: dict[str, None] = {}
    while True:
        yield [[_block(rng, split, names)] for _ in range(rng.randint(*BLOCKS))]
        while len(names) > REMEMBERED:
            del names[next(iter(names))]


def _block(rng: Random, split: str, names: dict[str, None]) -> str:
    new = first_drawn(lambda: name(rng, split), lambda drawn: drawn not in names, f"a new name in {split}")
    names[new] = None
    (a, b, c), (v, u) = rng.sample(NOUNS, 3), rng.sample(VERBS, 2)
    return rng.choice(TEMPLATES).format(
        f=new,
        N=new.upper(),
        C=new.title().replace("_", ""),
        a=a,
        b=b,
        c=c,
        v=v,
        u=u,
        V=v.capitalize(),
        w=rng.choice(WORDS),
        t=rng.choice(TYPES),
        t2=rng.choice(TYPES),
        n=rng.randrange(100),
        m=rng.randrange(100, 10_000),
        n2=rng.randrange(10_000),
        m2=rng.randrange(2, 32),
    )


def main() -> None:
    """Print some passages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--split", default="train", choices=("train", "eval"))
    args = parser.parse_args()
    for passage in islice(passages(args.seed, args.split), 3):
        print("\n\n".join(block for (block,) in passage), end="\n\n")


if __name__ == "__main__":
    main()
