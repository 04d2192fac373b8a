"""The grammar of the filler prose: its notation read into nodes, and verbs put into the form that a sentence needs."""

from __future__ import annotations

import re
from functools import cache

from environments.haystack.filler.prose_grammar import GRAMMAR, PLANS, VERBS
from environments.haystack.filler.prose_topics import TOPICS


class Slot(str):
    """The name of a symbol of the grammar, looked up when the sentence is made."""

    __slots__ = ()


class Choice:
    """Alternatives of the grammar, one of which is drawn. A stream draws them from a deck of its own, found by `number`."""

    __slots__ = ("number", "options")
    total = 0

    def __init__(self, options: list[Node], number: int | None = None) -> None:
        self.options = options
        self.number = Choice.total if number is None else number
        Choice.total += number is None


Node = str | Slot | Choice | tuple  # a tuple is a sequence of nodes


def parse(text: str) -> Node:
    """Return the node that a text in the notation of `prose_grammar.py` describes.

    `|` and line ends part alternatives, `()` groups them, `{}` names a symbol.
    """
    tokens = re.findall(r"[()|\n]|\{\w+\}|[^()|\n{}]+", re.sub(r"\n\s*\|\s*|\s*\|\s*\n|\s*\n\s*", "\n", text.strip()))
    position = 0

    def alternatives() -> Node:
        nonlocal position
        options: list[list[Node]] = [[]]
        while position < len(tokens):
            token = tokens[position]
            position += 1
            if token == ")":
                break
            if token == "(":
                options[-1].append(alternatives())
            elif token in "|\n":
                options.append([])
            else:
                options[-1].append(Slot(token[1:-1]) if token[0] == "{" else token)
        nodes: list[Node] = [tuple(option) if len(option) != 1 else option[0] for option in options]
        nodes = [node or "" for node in nodes]
        return nodes[0] if len(nodes) == 1 else Choice(nodes)

    return alternatives()


PAST = {base: (past, participle) for base, past, participle in (verb.split(":") for verb in VERBS.split())}
GERUND = {
    "mimic": "mimicking",
    "repot": "repotting",
    "dye": "dyeing",
    "shoe": "shoeing",
    "free": "freeing",
    "retie": "retying",
}


def inflect(phrase: str, form: str) -> str:
    """Return a verb phrase in the form `do`, `did`, `done` or `doing`; its first word is the verb.

    >>> inflect("set out", "doing"), inflect("carry", "did")
    ('setting out', 'carried')
    """
    verb, space, rest = phrase.partition(" ")
    doubled = verb + verb[-1] if re.fullmatch(r"[^aeiou]*(?:qu)?[aeiou][^aeiouwxy]|.+[^aeiou]el", verb) else verb
    if form == "doing":
        stem = doubled[:-1] if re.search(r"[^e]e$", doubled) else doubled
        verb = GERUND.get(verb, stem + "ing")
    elif form in ("did", "done"):
        regular = doubled + "d" if doubled.endswith("e") else re.sub(r"(?<=[^aeiou])y$", "i", doubled) + "ed"
        verb = PAST.get(verb, (regular, regular))[form == "done"]
    return verb + space + rest


@cache
def grammar() -> tuple[dict[str, Node], dict[str, dict[str, Node]]]:
    """Return the nodes of the general symbols by name, and for each topic those of its own symbols."""
    general = {name: parse(text) for name, text in (GRAMMAR | PLANS).items()}
    topics = {}
    for topic, texts in TOPICS.items():
        topics[topic] = {name: parse(text) for name, text in texts.items() if name != "act"}
        for form in ("do", "did", "done", "doing"):
            topics[topic][form] = parse(
                re.sub(
                    r"(?m)^\s*\(([^)]*)\)",
                    lambda verbs: f"({'|'.join(inflect(verb, form) for verb in verbs[1].split('|'))})",  # noqa: B023
                    texts["act"],
                )
            )
    return general, topics
