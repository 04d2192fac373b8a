"""Rollouts with the tokens and masks they were made of, as a dataset type of Axolotl: nothing is tokenised again.

    datasets: [{path: rollouts.jsonl, type: trainer_configs.longlora.rollouts}]
    longlora: {min_score: 1.0}          # of a completion, at least

Reads rows of `process`, full or compact (the prompt is rebuilt from the recipe, with the tokenizer it was made with), and
Atropos' groups (`--env.data_path_to_save_groups`): tokens, masks and scores of a group's completions, one group a line.
"""

import json
import logging
from typing import Any, Literal

from axolotl.prompt_tokenizers import DatasetWrappingStrategy
from datasets import Dataset, Features, Sequence, Value
from pydantic import BaseModel, Field, FiniteFloat, ValidationError, model_validator

from environments.haystack.sample import rebuild
from environments.haystack.tokens import Tokens
from longthread.errors import ConfigError
from longthread.files import JsonObject
from trainer_configs.longlora.config import LongLoRAError, section

LOG = logging.getLogger(f"axolotl.{__name__}")  # shown as Axolotl shows its own
NOT_TRAINED = -100  # Atropos' mask for tokens of the prompt, and what PyTorch's loss passes over
BATCH = 16  # lines; a group of 128k tokens is some MB
FEATURES = Features(
    input_ids=Sequence(Value("int32")), attention_mask=Sequence(Value("int8")), labels=Sequence(Value("int32"))
)


class Group(BaseModel):
    """One line: a group of completions with their tokens, masks and scores.

    `tokens` are those of prompt and completion, but in compact rows those of the completion alone.
    """

    tokens: list[list[int]] = Field(min_length=1)
    masks: list[list[int]]  # NOT_TRAINED or the token
    scores: list[FiniteFloat]
    store: Literal["compact", "full"] = "full"
    recipe: JsonObject | None = None

    @model_validator(mode="after")
    def _aligned(self) -> "Group":
        if not len(self.tokens) == len(self.masks) == len(self.scores):
            raise ValueError(f"{len(self.tokens)} tokens, {len(self.masks)} masks and {len(self.scores)} scores")
        for i, (tokens, masks) in enumerate(zip(self.tokens, self.masks, strict=True)):
            if len(tokens) != len(masks):
                raise ValueError(f"sequence {i} has {len(tokens)} tokens and {len(masks)} masks")
            if any(mask not in (NOT_TRAINED, token) for mask, token in zip(masks, tokens, strict=True)):
                raise ValueError(f"sequence {i} has a mask that is neither {NOT_TRAINED} nor its token")
        if self.recipe and (self.recipe.get("options") or {}).get("no_context"):
            raise ValueError("a question asked without its text (no_context), from which nothing is learned")
        if self.store == "compact" and not self.recipe:
            raise ValueError("a compact row without a recipe")
        return self


class Rollouts(DatasetWrappingStrategy):
    """Turns lines of rollouts into rows that Axolotl trains on."""

    def __init__(self, tokenizer: Any, min_score: float, path: str):
        self.tokenizer, self.min_score, self.path = tokenizer, min_score, path

    def wrap_dataset(
        self, dataset: Any, process_count: int | None = None, keep_in_memory: bool | None = False, **kwargs: Any
    ) -> Dataset:
        """Return a dataset with a row for each completion that scores enough.

        Raises `LongLoRAError` with file and line.
        """
        wrapped = dataset.map(
            self.sequences,
            batched=True,
            batch_size=BATCH,
            with_indices=True,
            num_proc=process_count,
            keep_in_memory=bool(keep_in_memory),
            remove_columns=dataset.column_names,
            features=FEATURES,
            desc="Rollouts",
        )
        if not len(wrapped):
            raise LongLoRAError(f"{self.path}: no completion scores {self.min_score}: lower longlora.min_score")
        LOG.info("%s: %d sequences with a score of at least %s", self.path, len(wrapped), self.min_score)
        return wrapped

    def sequences(self, batch: dict[str, list[Any]], indices: list[int]) -> dict[str, list[list[int]]]:
        """Return the columns of `FEATURES` for a batch of lines: ids, mask and labels of each completion kept."""
        columns: dict[str, list[list[int]]] = {name: [] for name in FEATURES}
        for place, index in enumerate(indices):
            row = {name: values[place] for name, values in batch.items()}
            if row.keys() == {"text"} and not row["text"].strip():
                continue
            where = f"{self.path}:{index + 1}"
            group = parsed(row, where, len(self.tokenizer))
            kept = [i for i, score in enumerate(group.scores) if score >= self.min_score]
            prompt = self._prompt(group, where) if kept and group.store == "compact" else []
            for i in kept:
                columns["input_ids"].append(prompt + group.tokens[i])
                columns["labels"].append([NOT_TRAINED] * len(prompt) + group.masks[i])
                columns["attention_mask"].append([1] * (len(prompt) + len(group.tokens[i])))
        return columns

    def _prompt(self, group: Group, where: str) -> list[int]:
        try:
            sample = rebuild(group.recipe or {}, self.tokenizer)
            tokens = Tokens(self.tokenizer, sample.recipe.get("template"))
        except KeyError as error:
            raise LongLoRAError(f"{where}: the recipe has no {error}; give the .jsonl of process") from None
        except ConfigError as error:
            raise LongLoRAError(f"{where}: {error}") from None
        return tokens.encode(tokens.render(sample.messages))


def parsed(row: JsonObject, where: str, vocabulary: int) -> Group:
    """Read and check one group of rollouts, from a line of JSON or from a row with its columns.

    Raises `LongLoRAError`.
    """
    try:
        row = json.loads(row["text"]) if row.keys() == {"text"} else {k: v for k, v in row.items() if v is not None}
    except (ValueError, RecursionError) as error:
        raise LongLoRAError(f"{where}: not JSON ({str(error)[:100]}); give rollouts, one group a line") from None
    try:
        group = Group.model_validate(row)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = ".".join(map(str, first["loc"])) or "row"
        raise LongLoRAError(
            f"{where}: no group of rollouts ({name}: {first['msg']}); give tokens, masks, scores"
        ) from None
    recipe = group.recipe or (row.get("group_overrides") or {}).get("recipe") or {}
    if recipe.get("split", "train") != "train":
        raise LongLoRAError(f"{where}: of the split {recipe['split']!r}; what is evaluated on must not be trained on")
    if (most := max(map(max, filter(None, group.tokens)), default=0)) >= vocabulary:
        raise LongLoRAError(
            f"{where}: token {most} is beyond the tokenizer's {vocabulary}: use the one it was made with"
        )
    return group


def load(tokenizer: Any, cfg: Any, ds_cfg: Any = None) -> Rollouts:
    """Return the reader of a rollouts dataset. Axolotl calls it for `type: trainer_configs.longlora.rollouts`."""
    return Rollouts(tokenizer, section(cfg).min_score, str((ds_cfg or {}).get("path")))
