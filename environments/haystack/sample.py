"""Builds one Sample, exact to the token, from a recipe, and the same one again from the same recipe.

haystacks = Haystacks(load_tokenizer("..."), Options())
sample = haystacks.sample(seed=0, split="train", task="single", length=4096, depths=[0.5])
assert rebuild(sample.recipe, haystacks.tokens.tokenizer) == sample
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property, lru_cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from environments.haystack.decoys import Bank
from environments.haystack.exact_fit import Frame, Plan, fit
from environments.haystack.facts import BY_KIND, SPLITS, FactError
from environments.haystack.filler import corpora, prose
from environments.haystack.filler.pool import FillerError, Pool
from environments.haystack.layout import WINDOW, Decoys, LayoutError, Needle, draw_depths, stretch
from environments.haystack.tasks.independent import NONE, TASKS, Answer, Quiz, QuizOptions
from environments.haystack.tasks.linked import LINKED, Draw
from environments.haystack.tokens import BREAK, PLACEHOLDER, Tokens

VERSION = 1  # of the recipe: raised whenever the same recipe would build another text
FORMATS = ("tags", "plain")
FILLERS = ("prose", "folder", "dataset")
ALL_TASKS = (*TASKS, *LINKED)
NEEDED = ("link", "answer")  # roles of the needles that the answer rests on
ORDERED = ("chain", "update", "order", "join")  # tasks whose facts have an order of their own
MAX_DECOYS = 512
DECOY_SHARE = 0.4  # of the text, at most, goes to decoys unless their number is asked for
REDRAWS = 50  # facts drawn again when a value happens to stand in the filler


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
    decoys: Decoys
    length: int
    profile: dict[str, int | float | None]  # see `_profile`
    recipe: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"decoys": self.decoys._asdict()}

    @property
    def evidence(self) -> set[int]:
        """Numbers of the passages that hold what the answer rests on."""
        return {needle.passage for needle in self.needles if needle.role in NEEDED}


def absent_twin(task: str) -> str:
    """The task that asks the same of a text which does not hold the answer."""
    return f"absent_{task}" if f"absent_{task}" in LINKED else task if task in LINKED else "absent"


class Haystacks:
    """Samples for one tokenizer and one set of options. Pools of filler are written when first needed and kept."""

    def __init__(self, tokenizer: Any, options: Options):
        self.tokens = Tokens(tokenizer)
        self.options = options
        self._pool = lru_cache(maxsize=4)(self._make_pool)
        self._variants: dict[Options, Haystacks] = {}
        self._banks: dict[tuple[str, int, bool], Bank] = {}
        self._heads: dict[str, int] = {}

    def sample(self, seed: int, split: str, task: str, length: int, depths: Sequence[float] | None = None) -> Sample:
        """The sample of that seed. `depths`: for the needles of the answer, in order; the others follow `placement`.

        Raises `LayoutError`, `FactError` or `FillerError`, each one line, when it cannot be made.
        """
        if split not in SPLITS:
            raise FactError(f"split {split!r} is none of {', '.join(SPLITS)}")
        if task not in ALL_TASKS:
            raise FactError(f"task {task!r} is none of {', '.join(ALL_TASKS)}")
        if not all(0 <= d <= 1 for d in depths or ()):
            raise LayoutError(f"depths {list(depths or ())} must lie between 0 and 1")
        if 2 * length > self.options.pool_tokens:
            raise FillerError(
                f"length {length} needs pool_tokens of at least {2 * length}, not {self.options.pool_tokens}"
            )
        rng = Random(f"longthread {VERSION} {split} {task} {length} {seed}")
        pool = self.pool(split, seed)
        bank = self._bank(split, seed) if task in LINKED else None
        quiz = self._quiz(task, split, pool, bank, rng)
        decoys, costs = self._decoys(quiz, bank, length, rng)
        needed = [i for i, (_, role) in enumerate(quiz.needles) if role in NEEDED]
        places = draw_depths(self.options.placement, len(quiz.needles), rng)
        for i, depth in zip(needed, stretch([places[i] for i in needed], self.options.min_span, rng), strict=True):
            places[i] = depth
        for i, depth in zip(needed, depths or (), strict=False):
            places[i] = depth
        places += [rng.random() for _ in decoys]
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
        plan = Plan([*(text for text, _ in quiz.needles), *decoys], places, costs)
        return self._build(quiz, plan, length, pool, recipe, rng)

    def variant(self, options: Options) -> "Haystacks":
        """The same filler, counted once, under other options (which must ask for the same filler)."""
        if options not in self._variants:
            other = Haystacks(self.tokens.tokenizer, options)
            other.tokens, other._pool, other._banks = self.tokens, self._pool, self._banks
            self._variants[options] = other
        return self._variants[options]

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

    def _bank(self, split: str, seed: int) -> Bank:
        """The decoys that belong to that seed's pool."""
        number = seed // self.options.seeds_per_pool
        key = (split, number, self.options.lexical_gap)
        if key not in self._banks:
            self._banks[key] = Bank(self.pool(split, seed), split, self.options.lexical_gap, number)
        return self._banks[key]

    def _decoys(self, quiz: Quiz, bank: Bank | None, length: int, rng: Random) -> tuple[list[str], np.ndarray]:
        """Chains of other people, as long as the one asked for, and the tokens of each sentence."""
        if bank is None:
            return [], np.zeros(0)
        hops, n = max(quiz.hops, 2), self.options.decoys
        if n < 0:
            n = min(MAX_DECOYS, 4 * length // 1024, int(DECOY_SHARE * length / (hops * bank.mean_cost)))
        kind = quiz.answer.value_kind if quiz.answer.value_kind in BY_KIND else rng.choice(list(BY_KIND))
        return bank.draw(n, kind, hops, quiz.values, rng)

    def _quiz(self, task: str, split: str, pool: Pool, bank: Bank | None, rng: Random) -> Quiz:
        """Facts none of whose values stands in the filler, or the answer would not be unique."""
        for _ in range(REDRAWS):
            if bank is None:
                quiz = TASKS[task](self.options, split, rng)
            else:
                quiz = LINKED[task](Draw(self.options, split, rng, bank.names))
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
        if quiz.hops > 1 and tags:
            form += (
                " Before it, name the people you passed on the way, in order and without the first, like this: "
                "<steps>...; ...</steps>."
            )
        if quiz.several:
            form = f"Separate the values by semicolons. {form}"
        if self.options.numbered:
            form += " Before it, cite the numbers of the passages you used, like this: <evidence>2, 7</evidence>."
        return f"Question: {quiz.question}\n{form.strip()}".strip()

    def _frame(self, quiz: Quiz, length: int) -> tuple[str, Frame]:
        """The user's words behind the haystack, and the prompt around it."""
        question = self._tail(quiz)
        before, after = self.tokens.frame(BREAK.join([self._head, PLACEHOLDER, question]))
        before, after = before.removesuffix(BREAK), after.removeprefix(BREAK)
        if before not in self._heads:
            self._heads[before] = self.tokens.head(before)
        head = self._heads[before]
        room = length - head - self.tokens.tail(after)
        if room <= 0:
            raise LayoutError(
                f"length {length} is too short: instructions and question alone take {length - room} tokens; "
                "ask for a longer prompt (--env.lengths)"
            )
        return question, Frame(before, after, head, room, length)

    def _build(self, quiz: Quiz, plan: Plan, length: int, pool: Pool, recipe: dict[str, Any], rng: Random) -> Sample:
        question, frame = self._frame(quiz, length)
        laid, starts, ends = fit(pool, frame, plan, self.options.numbered, rng)
        starts, ends = starts + frame.head, ends + frame.head
        needles = [
            Needle(
                text=text,
                role=role,
                token_start=int(starts[i]),
                token_end=int(ends[i]),
                depth=float((starts[i] - frame.head) / (frame.room - (ends[i] - starts[i]))),
                passage=int(laid.passages[i]),
                before=laid.text[max(0, laid.chars[i] - WINDOW) : laid.chars[i]],
                after=laid.text[laid.chars[i] + len(text) : laid.chars[i] + len(text) + WINDOW],
            )
            for i, (text, role) in enumerate(quiz.needles)
        ]
        n = len(needles)
        decoys = Decoys(list(plan.texts[n:]), starts[n:].tolist(), ends[n:].tolist())
        content = BREAK.join([self._head, laid.text, question])
        return Sample(
            messages=[{"role": "user", "content": content}],
            question=quiz.question,
            answer=quiz.answer,
            needles=needles,
            decoys=decoys,
            length=length,
            profile=_profile(quiz, needles, len(decoys.texts), recipe["task"], frame.room),
            recipe=recipe,
        )


def _profile(quiz: Quiz, needles: list[Needle], decoys: int, task: str, room: int) -> dict[str, int | float | None]:
    """What makes the sample hard, so that reports can break accuracy down by it. `inversions`: pairs of facts that stand
    in the text in the other order than they have to be followed in; `span`: share of the haystack between the first and
    the last fact that the answer needs."""
    starts = [n.token_start for n in needles if n.role in NEEDED]
    ordered = [n.token_start for n in needles if n.role in (*NEEDED, "superseded")]
    pairs = [(a, b) for i, a in enumerate(ordered) for b in ordered[i + 1 :]] if task in ORDERED else None
    roles = Counter(n.role for n in needles)
    return {
        "hops": quiz.hops,
        "needed": len(starts),
        "inversions": None if pairs is None else sum(a > b for a, b in pairs),
        "span": (max(starts) - min(starts)) / room if starts else None,
        "decoys": decoys + roles["decoy"],
        "distractors": roles["distractor"],
        "superseded": roles["superseded"],
    }


@lru_cache(maxsize=8)
def _haystacks(fingerprint: str, options: Options, tokenizer: Any) -> Haystacks:
    return Haystacks(tokenizer, options)


@lru_cache(maxsize=4)
def _fingerprint(tokenizer: Any, template: str, size: int) -> str:
    """A quarter of a second each: template and size tell whether a tokenizer was changed since."""
    return Tokens(tokenizer).fingerprint


def rebuild(recipe: dict[str, Any], tokenizer: Any) -> Sample:
    """The identical Sample, byte for byte. Raises `RecipeError` when this machine would build another."""
    if recipe.get("version") != VERSION:
        raise RecipeError(f"recipe version {recipe.get('version')!r} is not {VERSION}; use the release that wrote it")
    fingerprint = _fingerprint(tokenizer, str(tokenizer.chat_template), len(tokenizer))
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
