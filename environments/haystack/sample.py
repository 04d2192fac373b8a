"""Builds one Sample, exact to the token, from a recipe, and the same one again from the same recipe.

haystacks = Haystacks(load_tokenizer("..."), Options())
sample = haystacks.sample(seed=0, split="train", task="single", length=4096, depths=[0.5])
assert rebuild(sample.recipe, haystacks.tokens.tokenizer) == sample
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from random import Random
from typing import Any, NamedTuple

import numpy as np

from environments.haystack import recipe as recipes
from environments.haystack.decoys import Bank
from environments.haystack.depths import draw_depths, in_order, stretch
from environments.haystack.exact_fit import Frame, fit, fit_listing
from environments.haystack.facts import BY_KIND, SPLITS
from environments.haystack.filler.pool import Pool
from environments.haystack.layout import Hidden, Layout
from environments.haystack.listing import Items
from environments.haystack.options import MAX_DECOYS, Options, check_choice
from environments.haystack.pools import Pools
from environments.haystack.prompt import Prompt
from environments.haystack.recipe import VERSION, Request
from environments.haystack.tasks import TASKS
from environments.haystack.tasks.task import Answer, Draw, Quiz, Task
from environments.haystack.tokens import Tokens
from longthread.errors import ConfigError
from longthread.files import JsonObject
from longthread.language_model import PromptTokenizer

NEEDED = ("link", "answer")  # roles of the needles that the answer rests on
DECOY_SHARE = 0.4  # of the text, at most, goes to decoys unless their number is asked for
REDRAWS = 50  # facts drawn again when a value happens to stand in the filler
WINDOW = 160  # characters of haystack kept on each side of a needle, for the viewers
VARIANTS = 64  # sets of options whose haystacks are kept


@dataclass(frozen=True, slots=True)
class Needle:
    """One needle, and where it stands in the prompt.

    `token_start` and `token_end` count from the start of the rendered prompt; the tokens between decode to `text` (with
    the white space that the tokenizer glues to it). `depth` is the share of the haystack's other tokens that stand
    before it: 0 is its very beginning, 1 its very end. `passage` is the number of the passage that holds it, from 1.
    `before` and `after` are the text around it, for viewers.
    """

    text: str
    role: str  # answer | link | superseded | distractor | decoy | heading
    token_start: int
    token_end: int
    depth: float
    passage: int
    before: str
    after: str


class Decoys(NamedTuple):
    """Sentences about other people, in columns, because there may be four thousand: the texts, the first token of each,
    and the token behind its last."""

    texts: list[str]
    token_starts: list[int]
    token_ends: list[int]


@dataclass(frozen=True)
class Sample:
    """One question about one text. `length` counts the tokens of the rendered chat prompt, exactly.

    Under the option `no_context` the text is left out: `length` is then that of the short prompt, and the recipe's is that of
    the text which the question is about.
    """

    messages: list[dict[str, str]]
    question: str
    answer: Answer
    needles: list[Needle]
    decoys: Decoys
    length: int
    profile: dict[str, int | float | None]  # see `_profile`
    recipe: JsonObject

    def to_json(self) -> JsonObject:
        """Return the sample as JSON values."""
        return asdict(self) | {"decoys": self.decoys._asdict()}

    @property
    def no_context(self) -> bool:
        """Whether the question is asked without its text."""
        return bool(self.recipe["options"].get("no_context"))

    @property
    def evidence(self) -> set[int]:
        """Numbers of the passages that hold the needles which the answer rests on."""
        return {needle.passage for needle in self.needles if needle.role in NEEDED}


class Haystacks:
    """Builds samples for one tokenizer and one set of options.

    `template`: variables of the tokenizer's chat template, like `{"enable_thinking": False}`; `pools` bring their own.
    Raises `ConfigError` for a tokenizer or a chat template with which no prompt of an exact length can be made.
    """

    def __init__(
        self,
        tokenizer: PromptTokenizer,
        options: Options,
        pools: Pools | None = None,
        template: Mapping[str, Any] | None = None,
    ):
        self.options = options
        self.pools = pools or Pools(Tokens(tokenizer, template))
        self.tokens = self.pools.tokens
        self.tokens.chat.prove()
        self._prompt = Prompt(self.tokens, options)
        self._variant = lru_cache(maxsize=VARIANTS)(lambda other: Haystacks(tokenizer, other, self.pools))

    def variant(self, options: Options) -> "Haystacks":
        """Return a builder of samples under other options; both share their filler where they ask for the same."""
        return self._variant(options)

    def pool(self, split: str, seed: int, task: str = "") -> Pool:
        """Return the pool of filler for samples of that seed; for a task with a text of its own, the pool of that text."""
        return self.pools.pool(self.options, split, seed, self._source(TASKS[task]) if task else "")

    def _source(self, task: Task) -> str:
        own = task.replaceable and self.options.filler != "prose"
        return "" if own else task.source

    def sample(self, seed: int, split: str, task: str, length: int, depths: Sequence[float] | None = None) -> Sample:
        """Build the sample of that seed, split, task and length.

        `depths`: for the needles that the answer rests on, in order; the other needles follow the option `placement`.

        Raises `LayoutError` where the needles do not fit, and `ConfigError` for anything else that cannot be made.
        """
        request = Request(seed, split, task, length, depths)
        self._check(request)
        rng = Random(f"longthread {VERSION} {split} {task} {length} {seed}")
        if make := TASKS[task].items:
            return self._whole(request, self.pools.items(make, self.options, split, seed), rng)
        pool = self.pool(split, seed, task)
        # A task with a text of its own has decoys of its own too: chains of people are facts for prose.
        chains = TASKS[task].linked and not TASKS[task].source
        bank = self.pools.decoys(self.options, split, seed) if chains else None
        quiz = self._quiz(TASKS[task], split, pool, bank, rng)
        if self.options.no_context:
            return self._bare(request, quiz, pool.digest)
        decoys = self._decoys(quiz, bank, length, rng)
        hidden = self._hide(quiz, decoys, depths or (), TASKS[task].told_in_order, rng)
        frame = self._prompt.frame(self._prompt.question(quiz), length)
        layout = fit(pool, frame, hidden, self.options.numbered, rng)
        return self._sample(request, quiz, hidden, layout, frame, pool.digest)

    def _whole(self, request: Request, items: Items, rng: Random) -> Sample:
        """Build a sample whose text consists of items, all of which matter."""

        def room(question: str, several: bool) -> int:
            quiz = Quiz((), (), question, Answer("absent", (), ""), several=several)
            return self._prompt.frame(self._prompt.question(quiz), request.length).room

        quiz = TASKS[request.task].quiz(Draw(self.options, request.split, rng, items=items, room=room))
        if self.options.no_context:
            return self._bare(request, quiz, items.digest)
        assert quiz.listing is not None, f"task {request.task} has items and no listing"
        frame = self._prompt.frame(self._prompt.question(quiz), request.length)
        return self._sample(request, quiz, Hidden((), ()), fit_listing(quiz.listing, frame, rng), frame, items.digest)

    def digest(self, request: Request) -> str:
        """Return the digest of the text that the request's sample is made of: of its filler, or of its items."""
        if make := TASKS[request.task].items:
            return self.pools.items(make, self.options, request.split, request.seed).digest
        return self.pool(request.split, request.seed, request.task).digest

    def _check(self, request: Request) -> None:
        check_choice("split", request.split, SPLITS)
        check_choice("task", request.task, tuple(TASKS))
        depths, needed = request.depths or (), 2 * request.length
        if not all(0 <= depth <= 1 for depth in depths):
            raise ConfigError(f"depths {list(depths)} must lie between 0 and 1", setting="depths")
        if needed > self.options.pool_tokens:
            raise ConfigError(
                f"length {request.length} needs pool_tokens of at least {needed}, not {self.options.pool_tokens}",
                setting="pool_tokens",
            )

    def _quiz(self, task: Task, split: str, pool: Pool, bank: Bank | None, rng: Random) -> Quiz:
        """Draw a quiz none of whose values stands in the filler, or the answer would not be unique."""
        for _ in range(1 if task.fixed else REDRAWS):
            draw = Draw(self.options, split, rng, bank.names if bank else frozenset(), pool)
            quiz = task.quiz(draw)
            # Filler of facts has people of its own, who must not be asked about.
            drawn = (*quiz.values, *(sorted(draw.used) if self.options.filler == "facts" else ()))
            clash = next((value for value in drawn if pool.contains(value)), None)
            if clash is None:
                return quiz
        raise ConfigError(
            f"the value {clash!r} stands in the filler, so the answer would not be unique; "
            "change the needle, the value_kind or the filler",
            setting=("needle", "value_kind", "filler"),
        )

    def _decoys(self, quiz: Quiz, bank: Bank | None, length: int, rng: Random) -> tuple[list[str], np.ndarray]:
        """Return the sentences of chains of other people, as long as the one asked for, and the tokens of each."""
        if bank is None:
            return [], np.zeros(0)
        hops, n = max(quiz.hops, 2), self.options.decoys
        if n < 0:
            n = min(MAX_DECOYS, 4 * length // 1024, int(DECOY_SHARE * length / (hops * bank.mean_cost)))
        kind = quiz.answer.value_kind if quiz.answer.value_kind in BY_KIND else rng.choice(list(BY_KIND))
        return bank.draw(n, kind, hops, quiz.values, rng)

    def _hide(  # noqa: PLR0913
        self, quiz: Quiz, decoys: tuple[list[str], np.ndarray], asked: Sequence[float], in_quiz_order: bool, rng: Random
    ) -> Hidden:
        """Return all sentences to hide, with depths: needed needles as `asked`, then by `placement`; decoys anywhere.

        `in_quiz_order`: the needles stand in the text in the order of the quiz; those not asked for give way.
        """
        needed = [i for i, (_, role) in enumerate(quiz.needles) if role in NEEDED]
        depths = draw_depths(self.options.placement, len(quiz.needles), rng)
        spread = stretch([depths[i] for i in needed], self.options.min_span, rng)
        for place, (i, depth) in enumerate(zip(needed, spread, strict=True)):
            depths[i] = asked[place] if place < len(asked) else depth
        if in_quiz_order:
            opening = {0: 0.0} if quiz.needles[0][1] == "heading" else {}
            depths = in_order(depths, opening | dict(zip(needed, sorted(asked), strict=False)))
        texts, costs = decoys
        depths += [rng.random() for _ in texts]
        needles = [text for text, _ in quiz.needles]
        return Hidden([*needles, *texts], depths, costs, quiz.between or bool(quiz.blocks), quiz.blocks, quiz.without)

    def _bare(self, request: Request, quiz: Quiz, digest: str) -> Sample:
        """Build a sample of the question alone, without its text; `length` is that of the prompt."""
        messages = [{"role": "user", "content": self._prompt.bare_content(self._prompt.question(quiz))}]
        length = len(self.tokens.encode(self.tokens.render(messages)))
        profile = _profile(quiz, [], 0, TASKS[request.task].ordered, 1)
        recipe = self._recipe(request, digest)
        return Sample(messages, quiz.question, quiz.answer, [], Decoys([], [], []), length, profile, recipe)

    def _recipe(self, request: Request, digest: str) -> JsonObject:
        return recipes.write(request, self.options, self.tokens.fingerprint, digest, self.tokens.chat.variables)

    def _sample(  # noqa: PLR0913
        self, request: Request, quiz: Quiz, hidden: Hidden, layout: Layout, frame: Frame, digest: str
    ) -> Sample:
        question = self._prompt.question(quiz)
        needles = [
            Needle(
                text=text,
                role=role,
                token_start=frame.head + int(layout.starts[i]),
                token_end=frame.head + int(layout.ends[i]),
                depth=float(layout.starts[i] / (frame.room - (layout.ends[i] - layout.starts[i]))),
                passage=int(layout.passages[i]),
                before=layout.text[max(0, layout.chars[i] - WINDOW) : layout.chars[i]],
                after=layout.text[layout.chars[i] + len(text) : layout.chars[i] + len(text) + WINDOW],
            )
            for i, (text, role) in enumerate(quiz.needles)
        ]
        n = len(needles)
        starts, ends = (frame.head + edge[n:] for edge in (layout.starts, layout.ends))
        decoys = Decoys(list(hidden.texts[n:]), starts.tolist(), ends.tolist())
        return Sample(
            messages=[{"role": "user", "content": self._prompt.content(layout.text, question)}],
            question=quiz.question,
            answer=quiz.answer,
            needles=needles,
            decoys=decoys,
            length=frame.length,
            profile=_profile(quiz, needles, len(decoys.texts), TASKS[request.task].ordered, frame.room),
            recipe=self._recipe(request, digest),
        )


def _profile(quiz: Quiz, needles: list[Needle], decoys: int, ordered: bool, room: int) -> dict[str, int | float | None]:
    """Return what makes the sample hard, so that reports can break accuracy down by it.

    `inversions`: pairs of facts that stand in the text in the other order than they have to be followed in, where they
    have one; `span`: share of the haystack between the first and the last fact that the answer needs.
    """
    starts = [n.token_start for n in needles if n.role in NEEDED]
    followed = [n.token_start for n in needles if n.role in (*NEEDED, "superseded")]
    inversions = sum(a > b for i, a in enumerate(followed) for b in followed[i + 1 :]) if ordered else None
    roles = Counter(n.role for n in needles)
    return {
        "hops": quiz.hops,
        "needed": len(starts),
        "inversions": inversions,
        "span": (max(starts) - min(starts)) / room if starts else None,
        "decoys": decoys + roles["decoy"],
        "distractors": roles["distractor"],
        "superseded": roles["superseded"],
    }


@lru_cache(maxsize=8)
def _haystacks(fingerprint: str, tokenizer: PromptTokenizer, template: str) -> Haystacks:
    return Haystacks(tokenizer, Options(), template=json.loads(template))


@lru_cache(maxsize=4)
def _fingerprint(tokenizer: PromptTokenizer, chat_template: str, template: str, size: int) -> str:
    """Return the tokenizer's fingerprint, kept because it takes a quarter of a second.

    Chat template and size tell whether a tokenizer was changed since. `template` holds variables, as JSON.
    """
    return Tokens(tokenizer, json.loads(template)).fingerprint


def fingerprint(tokenizer: PromptTokenizer, recipe: Mapping[str, Any]) -> str:
    """Return the fingerprint of the tokenizer with the recipe's variables of the chat template."""
    return _fingerprint(tokenizer, str(tokenizer.chat_template), _variables(recipe), len(tokenizer))


def _variables(recipe: Mapping[str, Any]) -> str:
    return json.dumps(recipe.get("template") or {}, sort_keys=True)


def rebuild(recipe: Mapping[str, Any], tokenizer: PromptTokenizer) -> Sample:
    """Build the sample of a recipe again, byte for byte. Raises `ConfigError` when this machine would build another."""
    own = fingerprint(tokenizer, recipe)
    request, options = recipes.read(recipe, own)
    if request.task not in TASKS:
        raise ConfigError(
            f"the recipe's task {request.task!r} is not among those installed here: install the package that brings it"
        )
    haystacks = _haystacks(own, tokenizer, _variables(recipe)).variant(options)
    recipes.check_filler(recipe, haystacks.digest(request))
    return haystacks.sample(*request)
