"""Rows and their scores, as every framework takes them: `samples(config)` draws, `score_row(text, row)` pays.

    config = TasksetConfig(tokenizer="…", tasks="single,chain", lengths="4096")
    row = next(samples(config))
    score_row("<answer>…</answer>", row).score

A row is JSON. Its recipe builds the same text again; `solve` reads the answer back from it, so that a row can be proved
without a model.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from itertools import count
from typing import Any

from pydantic import Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict  # pydantic reads no other before Python 3.12

from environments.config import SEEDS, SampleSettings
from environments.config_checks import check_samples, sample_options
from environments.haystack.facts import SPLITS
from environments.haystack.layout import LayoutError
from environments.haystack.options import check_choice
from environments.haystack.sample import NEEDED, Haystacks, Sample, rebuild
from environments.haystack.tasks import TASKS
from environments.haystack.tasks.task import NONE, Answer
from environments.haystack.tokens import PLACEHOLDER, Tokens, load_tokenizer
from environments.inference.chat_reply import REASONING
from environments.presets import haystacks_of, task_of
from environments.rollouts.requests import probe, training_request
from environments.rollouts.scoring import Score, score
from environments.rollouts.thinking import opened_in_reply, opened_thinking
from longthread.errors import ConfigError, DataError
from longthread.files import Json, JsonObject
from longthread.language_model import PromptTokenizer

DRAWS = 10  # of a row's facts, until they fit into its length
# Kinds of values that the text names elsewhere too: people by many facts, the words of a text by the text.
NAMED_ELSEWHERE = ("people", "word")
AGAIN = "make the row again with environments.tasksets"


class TasksetConfig(SampleSettings):
    """What rows to draw: the tasks, their lengths, the seed, and each option of a sample under its own name."""

    tokenizer: str = Field("", description="of the model that is asked: a local folder or a hub name")
    split: str = Field("train", description=f"{' or '.join(SPLITS)}: their facts and fillers never meet")
    template: JsonObject = Field({}, description='variables of the chat template, like {"enable_thinking": false}')


def read_config(settings: Mapping[str, Json]) -> TasksetConfig:
    """Return the settings as a config. Raises `ConfigError`, one line, for an unknown name or a value of another type."""
    for name in settings:
        check_choice("settings", name, tuple(TasksetConfig.model_fields))
    try:
        return TasksetConfig(**settings)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = str(first["loc"][0])
        raise ConfigError(f"{name} {first['input']!r}: {first['msg']}", setting=name) from None


class Target(TypedDict):
    """All of a row that scoring reads. `digest` is made of the other fields: it names the row, and tells a changed one."""

    question: str
    answer: JsonObject  # `Answer`
    evidence: list[int] | None  # passages to cite, where the prompt asks for them
    answer_format: str
    opened: str  # the marker with which the prompt opens thinking; ""
    task: str
    length: int  # tokens of the rendered prompt
    recipe: JsonObject
    digest: str


class Row(Target):
    """One question about one text, as JSON: the messages to ask, and what their reply is scored against."""

    messages: list[dict[str, str]]


_TARGET = TypeAdapter(Target)


class Rows:
    """The endless rows of a config, by number. The same config has the same rows on every machine.

    Facts that do not fit into a row's length are drawn again. Raises `ConfigError` for settings that cannot work.
    """

    def __init__(self, config: TasksetConfig):
        self.config, self.grid = config, check_samples(config, config.tokenizer)
        check_choice("split", config.split, SPLITS)
        self.options = sample_options(config, self.grid)
        if self.options.no_context:
            raise ConfigError(
                "no_context is a control for evaluate and process: nothing is learned from guesses; leave it out",
                setting="no_context",
            )
        self.haystacks = Haystacks(load_tokenizer(config.tokenizer), self.options, template=config.template)
        self._given = frozenset(config.model_fields_set)
        probe(self.haystacks, self.grid, config.split, self._given)
        self._opened = opened_thinking(self.haystacks.tokens.frame(PLACEHOLDER)[1])

    def __getitem__(self, index: int) -> Row:
        request = training_request(self.config, self.grid, index, self.config.split)
        haystacks = haystacks_of(self.haystacks, request.task, self._given)
        for draw in range(DRAWS):
            seed = request.seed + draw * (SEEDS // DRAWS)
            try:
                return self._row(haystacks.sample(seed, request.split, task_of(request.task).name, request.length))
            except LayoutError as error:  # facts differ in length: a run must not end hours later for those of one row
                fault = error
        raise fault

    def __iter__(self) -> Iterator[Row]:
        return map(self.__getitem__, count())

    def _row(self, sample: Sample) -> Row:
        fields = sample.to_json()
        target: JsonObject = {
            "question": sample.question,
            "answer": {**fields["answer"], "values": [*sample.answer.values], "steps": [*sample.answer.steps]},
            "evidence": sorted(sample.evidence) if self.options.numbered else None,
            "answer_format": self.options.answer_format,
            "opened": self._opened,
            "task": sample.recipe["task"],
            "length": sample.length,
            "recipe": sample.recipe,
        }
        row: Row = {**target, "digest": _digest(target), "messages": sample.messages}  # type: ignore[typeddict-item]
        return row


def samples(config: TasksetConfig) -> Iterator[Row]:
    """Yield rows without end: the tasks take turns, with the config's share of absent facts. Raises `ConfigError`."""
    return iter(Rows(config))


def target_of(row: Mapping[str, Json]) -> Target:
    """Return a row without its messages, checked. Raises `DataError` for a row that is none, or that was changed."""
    if not isinstance(row, Mapping):
        raise DataError(f"not a row, but {type(row).__name__}; {AGAIN}")
    fields = {name: row[name] for name in Target.__annotations__ if name in row}
    try:
        target = _TARGET.validate_python(fields, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise DataError(f"not a row ({'.'.join(map(str, first['loc']))}: {first['msg']}); {AGAIN}") from None
    if target["digest"] != (made := _digest(fields)):
        raise DataError(f"the row was changed: its digest is {target['digest']}, its fields make {made}; {AGAIN}")
    return target


def score_row(text: str, row: Mapping[str, Json], finished: bool | None = None) -> Score:
    """Return the score of a reply to the row, which may have lost its messages. Raises `DataError`.

    `finished`: of a chat server, which may have taken the thinking out of the text: whether the reply ended by itself.
    None: the text is all that the model wrote.
    """
    target = target_of(row)
    opened = target["opened"] if finished is None else opened_in_reply(text, target["opened"], finished)
    return score(text, Answer(**target["answer"]), target["answer_format"], target["evidence"], opened)


def score_completion(completion: Json, row: Mapping[str, Json], finished: bool | None = None) -> Score:
    """Return the score of a completion in any form that `reply_text` reads; see `score_row`.

    Reasoning in a field of its own is not part of the reply; the text then begins after the thinking.
    """
    last = completion[-1] if isinstance(completion, list | tuple) and completion else completion
    thought = isinstance(last, Mapping) and any(last.get(name) for name in REASONING)
    return score_row(reply_text(completion), row, True if thought else finished)


def reply_text(completion: Json) -> str:
    """Return the text of a completion in any form that trainers give: a string, a message, messages, parts of text, None.

    Of messages it is the last one, and it must be the assistant's: a call of a tool is no reply.
    """
    if isinstance(completion, Mapping):
        parts = completion.get("content") if completion.get("role", "assistant") == "assistant" else None
        return _content(parts)
    if isinstance(completion, list | tuple):
        return reply_text(completion[-1]) if completion else ""
    return completion if isinstance(completion, str) else ""


def _content(content: Json) -> str:
    if not isinstance(content, list | tuple):
        return content if isinstance(content, str) else ""
    return "".join(
        part if isinstance(part, str) else str(part.get("text") or "")
        for part in content
        if isinstance(part, str) or (isinstance(part, Mapping) and part.get("type") in ("text", "output_text"))
    )


def _digest(target: Mapping[str, Json]) -> str:
    """Return 32 hex digits of SHA-256 over all fields but the digest itself."""
    fields = {name: value for name, value in target.items() if name != "digest"}
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:32]


# ---- a row proved without a model ----


@cache
def tokenizer_named(name: str) -> PromptTokenizer:
    """Return the tokenizer of that folder or hub name, loaded once. Raises `ConfigError`."""
    return load_tokenizer(name)


def solve(row: Mapping[str, Any], tokenizer: str) -> str:
    """Return the reply that the row's own text supports, found by where the recipe's needles stand in it.

    Raises `DataError` where the text is not the recipe's, has another length, where a needle is not at its place, or where
    a value of the answer also stands elsewhere; `ConfigError` for another tokenizer than the row's.
    """
    target = target_of(row)
    sample = rebuild(target["recipe"], tokenizer_named(tokenizer))
    if row["messages"] != sample.messages:
        raise DataError(f"the row was changed: its messages are not those of its recipe; {AGAIN}")
    tokens = Tokens(tokenizer_named(tokenizer), target["recipe"].get("template"))
    rendered = tokens.render(row["messages"])
    ids = tokens.encode(rendered)
    if len(ids) != target["length"]:
        raise DataError(f"the row's prompt has {len(ids)} tokens, not {target['length']}; {AGAIN}")
    text = rendered.rpartition("\n\nQuestion: ")[0]  # a question may quote the text
    for needle in sample.needles:
        there = tokens.decode(ids[needle.token_start : needle.token_end])
        if needle.text not in there or text.count(needle.text) != 1:
            raise DataError(f"the needle {needle.text!r} does not stand at its place, alone, in the text; {AGAIN}")
    return _reply(sample, text, target)


def _reply(sample: Sample, text: str, target: Target) -> str:
    needed = [needle.text for needle in sample.needles if needle.role in NEEDED]
    said = "; ".join(_values(sample, text, needed)) or NONE
    if target["answer_format"] == "plain":
        return said
    cited = {number for needle in needed for number in _passage(text, needle)} if target["evidence"] is not None else ()
    evidence = f"<evidence>{', '.join(map(str, sorted(cited)))}</evidence> " if cited else ""
    return f"{evidence}<answer>{said}</answer>"


def _values(sample: Sample, text: str, needed: list[str]) -> list[str]:
    """Return the answer's values that stand in a needle which it rests on. Raises `DataError` for one that stands elsewhere.

    Where no needle states the values, because they are computed from the whole text or are the places of its paragraphs,
    that the text is the recipe's own is all the proof there is.
    """
    answer = sample.answer
    if answer.kind == "one" and answer.value_kind == "count" and needed:
        return [str(len(needed))]
    if TASKS[sample.recipe["task"]].items or answer.kind in ("list", "partial_order") and answer.value_kind == "count":
        return list(answer.values)
    hidden = [*(needle.text for needle in sample.needles), *sample.decoys.texts]
    for value in answer.values if answer.value_kind not in NAMED_ELSEWHERE else ():
        if text.count(value) != _count(value, hidden):
            raise DataError(f"the value {value!r} also stands outside the needles; {AGAIN}")
    return [value for value in answer.values if _count(value, needed)]


def _count(value: str, texts: Iterable[str]) -> int:
    return sum(text.count(value) for text in texts)


def _passage(rendered: str, needle: str) -> list[int]:
    """Return the number before the passage that holds the needle."""
    numbers = re.findall(r"^\[(\d+)\] ", rendered[: rendered.index(needle)], re.MULTILINE)
    return [int(numbers[-1])] if numbers else []
