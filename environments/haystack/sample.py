"""Builds one Sample, exact to the token, from a recipe, and the same one again from the same recipe.

haystacks = Haystacks(load_tokenizer("..."), Options())
sample = haystacks.sample(seed=0, split="train", task="single", length=4096, depths=[0.5])
assert rebuild(sample.recipe, haystacks.tokens.tokenizer) == sample
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property, lru_cache
from pathlib import Path
from random import Random
from typing import Any

from environments.haystack import corpora, prose
from environments.haystack.facts import SPLITS, FactError
from environments.haystack.filler import FillerError, Pool
from environments.haystack.layout import WINDOW, Layout, LayoutError, Needle, draw_depths, lay_out
from environments.haystack.questions import NONE, TASKS, Answer, Quiz, QuizOptions
from environments.haystack.tokens import BREAK, PLACEHOLDER, Tokens

VERSION = 1  # of the recipe: raised whenever the same recipe would build another text
FORMATS = ("tags", "plain")
FILLERS = ("prose", "folder", "dataset")
REDRAWS = 50  # facts drawn again when a value happens to stand in the filler
CORRECTIONS = 80  # budgets tried with a tokenizer whose counts do not add up
TRIES_PER_ORDER = 8  # of them, with the same order of passages


class RecipeError(ValueError):
    """The recipe cannot be rebuilt here: one line that says why."""


@dataclass(frozen=True)
class Options(QuizOptions):
    """Everything beside seed, split, task, length and depths that shapes a sample. All of it is in the recipe."""

    filler: str = "prose"  # prose, folder (of .txt and .md files) or dataset (a Hugging Face one, streamed)
    filler_mode: str = "coherent"  # or shuffled: sentences out of order, which is easier (Chroma, "Context Rot")
    filler_path: str = ""  # the folder, or the dataset's name
    filler_column: str = "text"
    pool_tokens: int = 262_144  # filler kept in memory and counted once; at least twice the longest haystack
    seeds_per_pool: int = 1024  # so many samples share a pool of prose before a new one is written
    numbered: bool = False  # passages carry numbers, and the model is asked to cite those it used
    may_abstain: bool = True  # the prompt says what to reply when the text does not hold the answer
    answer_format: str = "tags"  # or plain: no tags asked for; the values are read out of the whole reply
    placement: str = "uniform"  # depths of needles that no depth is asked for: uniform, sigmoid, a list or a grid

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, allowed in (
            ("filler", FILLERS),
            ("filler_mode", ("coherent", "shuffled")),
            ("answer_format", FORMATS),
        ):
            if getattr(self, name) not in allowed:
                raise FactError(f"{name} {getattr(self, name)!r} is none of {', '.join(allowed)}")
        if self.filler != "prose" and not self.filler_path:
            raise FillerError(f"filler {self.filler} needs --env.filler_path: the folder, or the name of the dataset")
        if self.seeds_per_pool < 1:
            raise FillerError(f"seeds_per_pool {self.seeds_per_pool} must be at least 1")
        draw_depths(self.placement, 1, Random(0))  # raises LayoutError on a bad rule


@dataclass(frozen=True)
class Sample:
    """One question about one text. `length` counts the tokens of the rendered chat prompt, exactly."""

    messages: list[dict[str, str]]
    question: str
    answer: Answer
    needles: list[Needle]
    length: int
    recipe: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def evidence(self) -> set[int]:
        """Numbers of the passages that hold what the answer rests on."""
        return {needle.passage for needle in self.needles if needle.role == "answer"}


class Haystacks:
    """Samples for one tokenizer and one set of options. Pools of filler are written when first needed and kept."""

    def __init__(self, tokenizer: Any, options: Options):
        self.tokens = Tokens(tokenizer)
        self.options = options
        self._pool = lru_cache(maxsize=4)(self._make_pool)

    def sample(self, seed: int, split: str, task: str, length: int, depths: Sequence[float] | None = None) -> Sample:
        """The sample of that seed. `depths`: for the needles of the answer, in order; the others follow `placement`.

        Raises `LayoutError`, `FactError` or `FillerError`, each one line, when it cannot be made.
        """
        if split not in SPLITS:
            raise FactError(f"split {split!r} is none of {', '.join(SPLITS)}")
        if task not in TASKS:
            raise FactError(f"task {task!r} is none of {', '.join(TASKS)}")
        if not all(0 <= d <= 1 for d in depths or ()):
            raise LayoutError(f"depths {list(depths or ())} must lie between 0 and 1")
        if 2 * length > self.options.pool_tokens:
            raise FillerError(
                f"length {length} needs pool_tokens of at least {2 * length}, not {self.options.pool_tokens}"
            )
        rng = Random(f"longthread {VERSION} {split} {task} {length} {seed}")
        pool = self.pool(split, seed)
        quiz = self._quiz(task, split, pool, rng)
        places = draw_depths(self.options.placement, len(quiz.needles), rng)
        places[: len(depths or ())] = list(depths or ())[: len(places)]
        recipe = {
            "version": VERSION,
            "seed": seed,
            "split": split,
            "task": task,
            "length": length,
            "depths": None if depths is None else list(depths),
            "options": asdict(self.options),
            "tokenizer": self.tokens.fingerprint,
            "filler": pool.digest,
        }
        return self._build(quiz, places, length, pool, recipe, rng)

    def pool(self, split: str, seed: int) -> Pool:
        """The pool that samples of that seed are cut from."""
        # Only prose is endless; a corpus has one pool, the same for both splits.
        return self._pool(
            *((split, seed // self.options.seeds_per_pool) if self.options.filler == "prose" else ("", 0))
        )

    def _make_pool(self, split: str, number: int) -> Pool:
        return Pool(self.tokens, self._passages(split, number), self.options.pool_tokens)

    def _passages(self, split: str, number: int) -> Iterator[list[list[str]]]:
        options = self.options
        if options.filler == "prose":
            return prose.passages(number, split, options.filler_mode)
        if options.filler == "folder":
            source = corpora.folder_passages(Path(options.filler_path), forbidden=self.tokens.special)
        else:
            source = corpora.dataset_passages(options.filler_path, options.filler_column, forbidden=self.tokens.special)
        return prose.shuffled(source, number) if options.filler_mode == "shuffled" else source

    def _quiz(self, task: str, split: str, pool: Pool, rng: Random) -> Quiz:
        """Facts none of whose values stands in the filler, or the answer would not be unique."""
        for _ in range(REDRAWS):
            quiz = TASKS[task](self.options, split, rng)
            clash = next((value for value in quiz.values if pool.contains(value)), None)
            if clash is None:
                return quiz
            if task == "custom":
                break
        raise FactError(
            f"the value {clash!r} stands in the filler, so the answer would not be unique; "
            "change the needle, the value_kind or the filler"
        )

    @cached_property
    def _head(self) -> str:
        numbered = " Its passages are numbered." if self.options.numbered else ""
        return f"Read the text below.{numbered} Then answer the question that follows it."

    def _tail(self, quiz: Quiz) -> str:
        tags = self.options.answer_format == "tags"
        form = "Reply with one line of this form and nothing else: <answer>...</answer>." if tags else ""
        if self.options.may_abstain:
            reply = f"reply <answer>{NONE}</answer>." if tags else f"reply: {NONE}."
            form += f" If the text does not say, {reply}"
        if quiz.answer.kind in ("set", "list"):
            form = f"Separate the values by semicolons. {form}"
        if self.options.numbered:
            form += " Before it, cite the numbers of the passages you used, like this: <evidence>2, 7</evidence>."
        return f"Question: {quiz.question}\n{form.strip()}".strip()

    def _build(
        self, quiz: Quiz, places: list[float], length: int, pool: Pool, recipe: dict[str, Any], rng: Random
    ) -> Sample:
        question = self._tail(quiz)
        before, after = self.tokens.frame(BREAK.join([self._head, PLACEHOLDER, question]))
        before, after = before.removesuffix(BREAK), after.removeprefix(BREAK)
        head = self._head_tokens(before)
        room = length - head - self.tokens.tail(after)
        if room <= 0:
            raise LayoutError(
                f"length {length} is too short: instructions and question alone take {length - room} tokens; "
                "ask for a longer prompt (--env.lengths)"
            )
        texts = [text for text, _ in quiz.needles]
        place = self._place if pool.additive else self._place_and_correct
        laid, spans = place(pool, texts, places, room, length, before, after, rng)
        needles = [
            Needle(
                text=text,
                role=role,
                token_start=head + start,
                token_end=head + end,
                depth=start / (room - (end - start)),
                passage=laid.passages[i],
                before=laid.text[max(0, laid.chars[i] - WINDOW) : laid.chars[i]],
                after=laid.text[laid.chars[i] + len(text) :][:WINDOW],
            )
            for i, ((text, role), (start, end)) in enumerate(zip(quiz.needles, spans, strict=True))
        ]
        content = BREAK.join([self._head, laid.text, question])
        return Sample([{"role": "user", "content": content}], quiz.question, quiz.answer, needles, length, recipe)

    @lru_cache(maxsize=64)  # noqa: B019  (a handful of heads, and Haystacks lives as long as the process)
    def _head_tokens(self, before: str) -> int:
        return self.tokens.head(before)

    def _place(
        self,
        pool: Pool,
        texts: list[str],
        places: list[float],
        room: int,
        length: int,
        before: str,
        after: str,
        rng: Random,
    ) -> tuple[Layout, list[tuple[int, int]]]:
        """The layout and each needle's tokens, counted from the start of the haystack: sums, nothing is tokenised."""
        laid = lay_out(pool, texts, places, room, rng, self.options.numbered)
        return laid, [(start, start + cost) for start, cost in zip(laid.starts, laid.costs, strict=True)]

    def _place_and_correct(
        self,
        pool: Pool,
        texts: list[str],
        places: list[float],
        room: int,
        length: int,
        before: str,
        after: str,
        rng: Random,
    ) -> tuple[Layout, list[tuple[int, int]]]:
        """The same for a tokenizer whose counts do not add up: tokenise the prompt, mend the budget, try again."""
        # The same order of passages for some tries: only the ending changes then, so the error hardly does.
        for attempt in range(CORRECTIONS):
            if attempt % TRIES_PER_ORDER == 0:
                order, budget = rng.getrandbits(64), room
            laid = lay_out(pool, texts, places, budget, Random(order), self.options.numbered)
            prompt = BREAK.join([before, laid.text, after])
            ids, offsets = self.tokens.offsets(prompt)
            if len(ids) == length:
                first, spans = len(before) + len(BREAK), []
                shift = length - room - self.tokens.tail(after)
                for chars, text in zip(laid.chars, texts, strict=True):
                    low, high = first + chars, first + chars + len(text)
                    inside = [i for i, (start, end) in enumerate(offsets) if start < high and end > low]
                    spans.append((inside[0] - shift, inside[-1] + 1 - shift))
                return laid, spans
            budget += length - len(ids)
        raise LayoutError(
            f"no haystack of exactly {length} tokens was found in {CORRECTIONS} tries: the counts of this tokenizer's "
            "pieces do not add up; ask for another length or another tokenizer"
        )


@lru_cache(maxsize=8)
def _haystacks(fingerprint: str, options: Options, tokenizer: Any) -> Haystacks:
    return Haystacks(tokenizer, options)


def rebuild(recipe: dict[str, Any], tokenizer: Any) -> Sample:
    """The identical Sample, byte for byte. Raises `RecipeError` when this machine would build another."""
    if recipe.get("version") != VERSION:
        raise RecipeError(f"recipe version {recipe.get('version')!r} is not {VERSION}; use the release that wrote it")
    fingerprint = Tokens(tokenizer).fingerprint
    if recipe["tokenizer"] != fingerprint:
        raise RecipeError(
            f"the recipe is for tokenizer {recipe['tokenizer']}, not {fingerprint}; load the one it was made with"
        )
    known = {field.name for field in fields(Options)}
    if unknown := sorted(set(recipe["options"]) - known):
        raise RecipeError(f"the recipe has unknown options {', '.join(unknown)}; use the release that wrote it")
    haystacks = _haystacks(fingerprint, Options(**recipe["options"]), tokenizer)
    digest = haystacks.pool(recipe["split"], recipe["seed"]).digest
    if digest != recipe["filler"]:
        raise RecipeError(
            f"the filler has changed ({digest}, not {recipe['filler']}); restore the corpus it was made from"
        )
    return haystacks.sample(*(recipe[key] for key in ("seed", "split", "task", "length", "depths")))
