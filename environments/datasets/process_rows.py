"""Rows of `process` as `export` reads them, and the right reply to each."""

from typing import Literal, Self

from pydantic import BaseModel, Field, FiniteFloat, ValidationError, model_validator

from environments.haystack.sample import NEEDED
from environments.haystack.tasks.task import NONE, Answer
from longthread.errors import DataError
from longthread.files import JsonObject

WANTED = "give the .jsonl of process"


class RowRecipe(BaseModel, extra="allow"):
    """The recipe in a row, with fields that a later release may add: only the complete recipe rebuilds the sample."""

    version: int
    seed: int
    split: str
    task: str
    length: int
    depths: list[float] | None
    options: JsonObject
    tokenizer: str
    filler: str
    template: JsonObject = {}  # variables of the chat template


class RowNeedle(BaseModel):
    """A needle's role, its depth (by which `balance` counts the row) and its passage (which the right reply cites)."""

    role: str
    depth: float
    passage: int


class ProcessRow(BaseModel):
    """The fields of a row of `process` that export reads."""

    store: Literal["compact", "full"]
    recipe: RowRecipe
    answer: Answer
    needles: list[RowNeedle]
    completions: list[str] = Field(min_length=1)
    finish_reasons: list[str | None]
    scores: list[FiniteFloat]
    messages: list[list[JsonObject]]
    reading: list[JsonObject] | None = None  # of each completion, where the text was looked up in several turns

    @model_validator(mode="after")
    def _aligned(self) -> Self:
        if len({len(part) for part in (self.completions, self.finish_reasons, self.scores, self.messages)}) != 1:
            raise ValueError("completions, finish_reasons, scores and messages differ in number")
        return self

    @property
    def answer_format(self) -> str:
        """The format in which the prompt asks for the answer: "tags" or "plain"."""
        return str(self.recipe.options.get("answer_format", "tags"))

    @property
    def depth(self) -> float | None:
        """Depth of the needle that holds the answer, as in the heatmap; None unless there is exactly one."""
        depths = [needle.depth for needle in self.needles if needle.role == "answer"]
        return depths[0] if len(depths) == 1 else None


def parse_row(value: object, where: str) -> ProcessRow:
    """Return a JSON value as a row. Raises `DataError`, which names `where`, for what is not a row to train on."""
    recipe = value.get("recipe") if isinstance(value, dict) else None
    if isinstance(recipe, dict) and recipe.get("split") != "train":
        raise DataError(
            f"{where}: a row of the split {recipe.get('split')!r}; what is evaluated on must not be trained on: {WANTED}"
        )
    if isinstance(recipe, dict) and (recipe.get("options") or {}).get("no_context"):
        raise DataError(
            f"{where}: a row of a run with no_context, whose questions were asked without their text; nothing is learned "
            f"from guesses: {WANTED} without it"
        )
    if isinstance(value, dict) and value.get("memory"):
        raise DataError(
            f"{where}: a row that was asked of the memory {value['memory']!r}, whose weights know what the prompt does not "
            f"say: {WANTED} in the modes context and retrieval"
        )
    try:
        return ProcessRow.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(map(str, first["loc"])) or "row"
        raise DataError(f"{where}: not a row of process ({field}: {first['msg']}); {WANTED}") from None


def right_reply(row: ProcessRow) -> str:
    """Return the reply that earns the full score, in the format that the prompt asks for."""
    answer = row.answer
    values = "; ".join(answer.values) or NONE
    if row.answer_format != "tags":
        return values
    parts = [f"<answer>{values}</answer>"]
    if row.recipe.options.get("numbered") and (cited := {n.passage for n in row.needles if n.role in NEEDED}):
        parts.insert(0, f"<evidence>{', '.join(map(str, sorted(cited)))}</evidence>")
    if answer.steps:
        parts.insert(0, f"<steps>{'; '.join(answer.steps)}</steps>")
    return " ".join(parts)
