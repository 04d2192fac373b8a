"""The curriculum at work: which knobs a task has, what may be asked within a config's limits, and a sample's options.

`HaystackEnv` draws from it in `serve` when `--env.curriculum true`; `process` and `evaluate` stay at the config's fixed
difficulty.
"""

from dataclasses import replace
from random import Random

from environments.config import HaystackEnvConfig
from environments.curriculum.ladder import Difficulty, Ladder, Limits, ladder
from environments.curriculum.policy import Curriculum
from environments.haystack.options import MAX_DECOYS
from environments.haystack.sample import DECOY_SHARE, Options
from environments.haystack.tasks import TASKS, absent_twin

KNOBS = {
    "single": ("length", "lexical_gap"),
    **dict.fromkeys(("cloze", "entity", "reconstruct", "passkey"), ("length",)),
    "code_constant": ("length", "distractors"),
    "code_chain": ("length", "hops", "distractors"),
    "chain": ("length", "hops", "decoys", "distractors", "lexical_gap"),
    "graph": ("length", "hops", "decoys", "distractors", "lexical_gap"),
    "hidden_question": ("length", "hops", "decoys", "distractors", "lexical_gap"),
    # A chat holds no chains of other people.
    "turns": ("length", "distractors", "lexical_gap"),
    "sessions": ("length", "distractors", "lexical_gap"),
    "variable_tracking": ("length", "hops", "distractors"),
    **dict.fromkeys((name for name, task in TASKS.items() if task.items), ("length",)),
}
LINKED_KNOBS = ("length", "decoys", "distractors", "lexical_gap")
NEEDLE_KNOBS = ("length", "distractors", "lexical_gap")
DOUBLES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
TOKENS_A_FACT = 24  # of a decoy's sentence, with room to spare


def limits(config: HaystackEnvConfig, lengths: list[int], hops: tuple[int, ...]) -> Limits:
    """Return the values that each knob may take: from the easiest up to the config's own setting."""
    decoys = config.decoys if config.decoys >= 0 else min(MAX_DECOYS, 4 * max(lengths) // 1024)
    return Limits(
        length=tuple(lengths),
        hops=hops,
        decoys=_up_to(decoys),
        distractors=_up_to(config.distractors),
        lexical_gap=(False, True) if config.lexical_gap else (False,),
        absent_share=(config.absent_share,),
    )


def _up_to(top: int) -> tuple[int, ...]:
    """Return 0, 1, 2, 4, … below `top`, and `top` itself."""
    return (0, *(n for n in DOUBLES if n < top), top) if top else (0,)


def fits(difficulty: Difficulty) -> bool:
    """Return True when the facts of the decoys take at most `DECOY_SHARE` of the prompt's tokens, by estimate."""
    return difficulty.decoys * difficulty.hops * TOKENS_A_FACT <= DECOY_SHARE * difficulty.length


def ladders(
    config: HaystackEnvConfig, tasks: list[str], lengths: list[int], hops: tuple[int, ...]
) -> dict[str, Ladder]:
    """Return a ladder by task name, for each task whose answer is in the text."""
    top = limits(config, lengths, hops)
    return {
        task: ladder(KNOBS.get(task, LINKED_KNOBS if TASKS[task].linked else NEEDLE_KNOBS), top, fits)
        for task in tasks
        if not TASKS[task].absent
    }


def draw(curriculum: Curriculum, tasks: list[str], index: int, rng: Random) -> tuple[str, str, Difficulty]:
    """Return (task to build, task to record under, difficulty) of item `index`: the tasks take turns.

    A share of the items builds the task's absent twin, whose answer is not in the text.
    """
    asked = [task for task in tasks if not TASKS[task].absent]
    task = asked[index % len(asked)]
    difficulty = curriculum.draw(task, rng)
    lacking = rng.random() < difficulty.absent_share
    return absent_twin(task) if lacking else task, task, difficulty


def options(base: Options, difficulty: Difficulty) -> Options:
    """Return a copy of `base` with the difficulty's hops, decoys, distractors and lexical gap."""
    return replace(
        base,
        hops=str(difficulty.hops),
        decoys=difficulty.decoys,
        distractors=difficulty.distractors,
        lexical_gap=difficulty.lexical_gap,
    )
