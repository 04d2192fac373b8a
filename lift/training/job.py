"""The input of a fit: a document, a recipe, options, and all training rows."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from environments.rollouts.scoring import normalise
from lift import tasks
from lift.document.document import Document
from lift.tasks import NO_ANSWER, Item
from lift.training.batches import RegularizationRow, SupervisedRow, rows_beside_text, task_rows
from lift.training.recipes import Recipe
from lift.training.regularization import prose_rows, reading_rows, talk_rows
from longthread.errors import ConfigError
from longthread.language_model import CausalLM, ChatTokenizer

TALK_ROWS, READING_ROWS, PROSE_ROWS = 384, 96, 64  # of other text, at most
HELD_OUT = 4  # rows of prose that are not trained on


def answerable(items: Sequence[Item]) -> bool:
    """Return whether any of the questions has an answer other than "none"."""
    return any(normalise(item.answer) != NO_ANSWER for item in items)


def check_questions(items: Sequence[Item], name: str, recipe: str = "compact") -> None:
    """Raise `ConfigError` where there is no question about the document `name` to learn, or all are answered "none".

    `recipe` is one that needs none.
    """
    if answerable(items):
        return
    found = (
        f'all {len(items)} questions that could be made of it are answered "{NO_ANSWER}", so nothing of it would be learnt'
        if items
        else "no question could be made of it"
    )
    raise ConfigError(f"{name}: {found}: use recipe {recipe}, or self-study", setting=("recipe", "self_study"))


@dataclass(frozen=True)
class FitOptions:
    """Options of a fit. `out` is the folder of the adapter.

    `questions` are learnt beside those that tasks make; they may come from self-study. `earlier` is the folder of an
    adapter whose segments are taken over where the text has not changed (recipe `compact`).
    """

    out: Path
    seed: int = 0
    questions: Sequence[Item] = ()
    progress: bool = True
    earlier: Path | None = None


@dataclass
class TrainingRows:
    """All training rows of a fit: questions and other text.

    `tasks` are questions, `beside` the same behind pieces of the document. Other text is short (`talk`) or long
    (`reading`, `prose`). `held_out` is prose that is not trained on.
    """

    tasks: list[SupervisedRow]
    beside: list[SupervisedRow] = field(default_factory=list)
    talk: list[RegularizationRow] = field(default_factory=list)
    reading: list[RegularizationRow] = field(default_factory=list)
    prose: list[RegularizationRow] = field(default_factory=list)
    held_out: list[RegularizationRow] = field(default_factory=list)


@dataclass
class Reading:
    """How many tokens of the document were read so far, each in one pass with its segment, and in how many seconds."""

    tokens: int = 0
    seconds: float = 0.0


@dataclass
class FitJob:
    """One document to fit, with its recipe, options and rows. `ids` are its tokens.

    `original` is the document before passages that stand twice were left out of it; None if it is the same. `reading`
    is what the fit itself has measured.
    """

    document: Document
    ids: Sequence[int]
    tokenizer: ChatTokenizer
    recipe: Recipe
    options: FitOptions
    rows: TrainingRows = field(default_factory=lambda: TrainingRows([]))
    original: Document | None = None
    reading: Reading = field(default_factory=Reading)

    def prepare_rows(self, model: CausalLM) -> None:
        """Make all training rows. `model` is the base model, which replies to questions about other text.

        Raises `ConfigError` where the recipe needs questions and none can be made of the document, or all are answered
        "none": an adapter of these says "none" to everything.
        """
        recipe, seed, rows = self.recipe, self.options.seed, self.rows
        items = [*tasks.make(self.document, recipe.tasks, recipe.items, seed, "train"), *self.options.questions]
        if items:
            check_questions(items, self.document.name, "raw-lora")
        open_tokens = recipe.open_tokens if recipe.learnt == "logits" else 0
        rows.tasks = task_rows(items, self.document, self.tokenizer, model, open_tokens)
        if recipe.distil_steps or recipe.stages[0].sources == ("tasks",):
            check_questions(items, self.document.name, "raw-lora")
        if recipe.window_rows:
            rows.beside = rows_beside_text(items, self.document, self.tokenizer, model, Random(f"windows {seed}"))
        if recipe.kl_rows:
            rows.talk = talk_rows(model, self.tokenizer, self.regularization_rows(TALK_ROWS, 1), seed)
            rows.reading = reading_rows(model, self.tokenizer, self.regularization_rows(READING_ROWS, 6), seed)
        if recipe.kl_rows or recipe.neutral_budget is not None:
            prose = prose_rows(self.tokenizer, self.regularization_rows(PROSE_ROWS, 6) + HELD_OUT, seed)
            rows.prose, rows.held_out = prose[HELD_OUT:], prose[:HELD_OUT]

    def regularization_rows(self, most: int, one_in: int) -> int:
        """Return how many rows of other text to prepare, of a kind that is `1 / one_in` of a step's `kl_rows`.

        At most `most`, and no more than the run will draw, but at least `kl_rows`. A short document draws few, and each
        costs a reply.
        """
        recipe, questions = self.recipe, len(self.rows.tasks)
        steps = sum(stage.epochs * -(-questions // (stage.rows or questions or 1)) for stage in recipe.stages)
        return max(recipe.kl_rows, min(most, -(-recipe.kl_rows * steps // one_in)))
