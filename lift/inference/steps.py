"""Questions that a reader answers step by step: it names whom it passes on the way from fact to fact, then the value.

    replies = answers(model, tokenizer, [steps.chat(tokenizer, question)], steps.NEW_TOKENS)
    value = steps.value(replies[0])

A chain of facts is one look-up a name then, where an answer alone needs all of them before its first token. The prompt is
that of the environments, on which readers are trained (`docs/reader.md`, form `tags`).
"""

import re

from environments.haystack.options import Options
from environments.haystack.prompt import instruction, with_reply_form
from environments.haystack.tasks.task import Answer, Quiz
from environments.haystack.tokens import BREAK
from lift.inference import generate
from longthread.errors import ConfigError
from longthread.language_model import ChatTokenizer

NEW_TOKENS = 96  # of a reply, at most: four names and a value
_OPTIONS = Options(may_abstain=True)
_VALUE, _STEPS = re.compile(r"<answer>(.*?)(?:</answer>|$)", re.S), re.compile(r"<steps>(.*?)</steps>", re.S)


def chat(tokenizer: ChatTokenizer, question: str, window: str = "") -> list[int]:
    """Return the token ids of a prompt that asks for steps and answer, with the text `window` before the question.

    Raises `ConfigError` for a tokenizer without a chat template: no reader has learnt the form without one.
    """
    if not tokenizer.chat_template:
        raise ConfigError(
            "this model has no chat template, and steps are asked for in one: ask without", setting="steps"
        )
    asked = with_reply_form(Quiz((), (), question, Answer("one", (), "text"), hops=2), _OPTIONS)
    content = BREAK.join([instruction(_OPTIONS), window, asked]) if window else asked
    return list(tokenizer(generate.templated(tokenizer, content), add_special_tokens=False)["input_ids"])


def prompt(tokenizer: ChatTokenizer, name: str, question: str, window: str, stepwise: bool) -> list[int]:
    """Return the prompt of a question: step by step, which names no document, or about the document `name`."""
    if stepwise:
        return chat(tokenizer, question, window)
    return generate.chat(tokenizer, name, question, window)


def reply_tokens(stepwise: bool) -> int:
    """Return the most tokens of a reply."""
    return NEW_TOKENS if stepwise else generate.NEW_TOKENS


def value(reply: str) -> str:
    """Return the answer of a reply, without its steps; the reply itself where it has no answer's tag."""
    found = _VALUE.search(reply)
    return found[1].strip() if found else reply.strip()


def passed(reply: str) -> list[str]:
    """Return the names of a reply's steps, in order."""
    found = _STEPS.search(reply)
    return [name.strip() for name in found[1].split(";") if name.strip()] if found else []
