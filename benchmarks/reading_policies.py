"""Ways of reading by rule: functions of the conversation so far that return the next reply, in the form "plain".

`scripted` searches for whoever the question names, reads on where the hits do not say, and follows links one by one. The
others are adversaries. All see what a model sees: the question, and what the tools have shown. For the tasks single,
multi_key and chain without a lexical gap.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from environments.haystack.facts import RELATIONS
from environments.haystack.tasks.linked_wordings import LINKS, readers
from environments.haystack.tasks.task import NONE
from environments.inference.contracts import Completion, CompletionRequest
from environments.reading.tools import plain_calls

Messages = Sequence[Mapping[str, Any]]
Policy = Callable[[Messages], str]
PERSON = r"[A-Z][a-z]+ [A-Z][a-z]+"


def question_of(messages: Messages) -> str:
    """The question and the form of the reply, from the message that opens the episode."""
    return str(messages[0]["content"]).partition("Question: ")[2]


def shown(messages: Messages) -> dict[int, str]:
    """What the tools have shown of each passage, by number."""
    passages: dict[int, str] = {}
    for message in messages[1:]:
        if message["role"] != "assistant":
            for number, text in re.findall(r"(?m)^\[(\d+)\] (.*(?:\n\n(?!\[|\(|Error).*)*)", message["content"]):
                passages[int(number)] = f"{passages.get(int(number), '')} {text}"
    return passages


def replies(messages: Messages) -> list[str]:
    """What has been replied so far."""
    return [str(message["content"]) for message in messages[1:] if message["role"] == "assistant"]


@cache
def _readers() -> list[tuple[str, str, re.Pattern[str]]]:
    return [reader for reader in readers() if reader[0] in ("link", "value")]


def _facts(messages: Messages) -> dict[tuple[str, str], tuple[str, int]]:
    """(person, link or relation) -> (end, passage) of every fact that has been shown."""
    return {
        (match["e"], name): (match["v"], number)
        for number, text in shown(messages).items()
        for _, name, pattern in _readers()
        for match in pattern.finditer(text)
    }


def route(question: str) -> tuple[str, list[str]]:
    """Whom a question starts with, and the names of the links and of the relation to follow from there."""
    person = re.search(PERSON, question.split("Start with", 1)[-1])
    asked = question.partition("\n")[0]
    links = {link.asked.format(x="that person"): link.name for link in LINKS}
    steps = [links[clause] for clause in re.findall(r"Go to (.+?)\.", asked)]
    relation = next(r.name for r in RELATIONS if re.search(_pattern(r.asked), asked))
    return person.group() if person else "", [*steps, relation]


def _pattern(asked: str) -> str:
    """The wording of a question as an expression, whoever it is about."""
    words = re.sub(r"\{(?:s|is_)\}", "\0", asked).replace("{e}", "\1")
    return re.escape(words).replace("\0", r"\w*").replace("\1", ".+")


def scripted(messages: Messages) -> str:
    """Search for a person, read the passages that name them, go on to the next; answer, or say that there is no answer."""
    question, facts = question_of(messages), _facts(messages)
    person, names = route(question)
    people, cited = [person], list[int]()
    for name in names:
        if (people[-1], name) not in facts:
            return _look(people[-1], name, messages) or answer(question, [], NONE, [])
        end, passage = facts[people[-1], name]
        people.append(end)
        cited.append(passage)
    return answer(question, people[1:-1], people[-1], cited)


def _look(person: str, name: str, messages: Messages) -> str:
    """The next call to learn where this link or relation leads from a person; "" where nothing is left to try."""
    before, asked = replies(messages), {link.name: link.asked for link in LINKS} | {r.name: r.asked for r in RELATIONS}
    for words in (person, f"{person} {re.sub('{.*?}', '', asked[name])}"):
        if (search := f"<search>{words}</search>") not in before:
            return search
    naming = [number for number, text in shown(messages).items() if person in text]
    reads = [f"<read>{number}</read>" for number in naming]
    return " ".join(read for read in reads if not any(read in reply for reply in before))


def answer(question: str, people: list[str], value: str, cited: list[int]) -> str:
    """A reply in the form that the question asks for."""
    if "<answer>" not in question:
        return value
    evidence = f"<evidence>{', '.join(map(str, sorted(set(cited))))}</evidence> " if "<evidence>" in question else ""
    steps = f"<steps>{'; '.join(people)}</steps> " if people and "<steps>" in question else ""
    return f"{evidence}{steps}<answer>{value}</answer>"


# ---- adversaries ----


def abstain(messages: Messages) -> str:
    """Read nothing, and say that there is no answer."""
    return answer(question_of(messages), [], NONE, [])


def guess(messages: Messages) -> str:
    """Read nothing, and answer with whom the question names."""
    return answer(question_of(messages), [], route(question_of(messages))[0], [])


def dump_hits(messages: Messages) -> str:
    """Search for whom the question names, and give all that is shown as the answer."""
    person, _ = route(question_of(messages))
    if not replies(messages):
        return f"<search>{person}</search>"
    found = shown(messages)
    return answer(question_of(messages), [], " ".join(found.values()) or NONE, list(found))


def echo_result(messages: Messages) -> str:
    """Search for whom the question names, and repeat the result as it stands."""
    person, _ = route(question_of(messages))
    return str(messages[-1]["content"]) if replies(messages) else f"<search>{person}</search>"


def read_everything(messages: Messages) -> str:
    """Read from the first passage on for as long as there is anything to read, and never answer."""
    return "<read>1-9999999</read>"


def answer_and_read(messages: Messages) -> str:
    """A wrong answer and a call in one reply, and then the answer, so as to be paid for the better of two."""
    return scripted(messages) if replies(messages) else f"<search>x</search>{guess(messages)}"


ADVERSARIES = (abstain, guess, dump_hits, echo_result, read_everything)


# ---- a policy in the place of a model ----


def asking(policy: Policy, with_tools: bool = False) -> Callable[[CompletionRequest, int], Any]:
    """What `Episodes` asks instead of a server: the policy's reply, n times; its calls as OpenAI's `with_tools`."""

    async def ask(request: CompletionRequest, n: int) -> list[Completion]:
        text = policy([_in_plain(message) for message in request.messages])
        calls = tuple(tool_calls(text)) if with_tools else ()
        return [Completion("" if calls else text, [], None, "stop", tool_calls=calls)] * n

    return ask


def tool_calls(text: str) -> list[dict[str, Any]]:
    """The calls of a plain reply as OpenAI has them."""
    return [
        {
            "id": f"c{i}",
            "type": "function",
            "function": {"name": call.name, "arguments": json.dumps(call.arguments)},
        }
        for i, call in enumerate(plain_calls(text, True))
    ]


def _in_plain(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message with its tool calls written as plain ones."""
    calls = [json.loads(call["function"]["arguments"]) for call in message.get("tool_calls") or ()]
    texts = [f"<search>{c['query']}</search>" if "query" in c else f"<read>{c['from']}</read>" for c in calls]
    return {**message, "content": " ".join(texts) or message["content"]}
