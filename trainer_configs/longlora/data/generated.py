"""Documents that workers write themselves: fictional prose, and questions of the environments with their answers."""

from functools import lru_cache
from random import Random

import numpy as np

from environments.haystack.filler import prose
from environments.haystack.sample import Haystacks, Options
from environments.haystack.tasks.task import NONE
from longthread.errors import ConfigError
from trainer_configs.longlora.data.encoder import Encoder

PROSE_SHARE = (0.5, 2.0)  # words of a document of prose, in lengths
NEEDLE_TRIES = 64  # questions drawn until prompt and answer together have exactly the asked tokens
ANSWER_TOKENS = 24  # expected of the first answer; the next ones know the last
TASKS = ("single", "multi_key", "multi_value", "multi_query", "absent")
FILLER_USES = 2  # how often, about, the filler of a question comes again in others


def prose_document(number: int, length: int, seed: int) -> str:
    """Write document `number` of the endless fictional prose, of half to twice `length` words."""
    words = int(length * Random(f"prose document {seed} {number}").uniform(*PROSE_SHARE))
    passages = []
    for passage in prose.passages((seed << 40) + number, "train"):
        passages.append(prose.join(passage))
        words -= passages[-1].count(" ") + 1
        if words <= 0:
            break
    return "\n\n".join(passages)


def question_row(number: int, length: int, seed: int, encoder: Encoder) -> tuple[str, np.ndarray] | None:
    """Return a question of an environment with its right answer: the prompt's text, and a row of exactly `length` ids.

    The answer's tokens are known only when the question is drawn, so questions are drawn until the sum is right.
    Returns None when it never is.
    """
    haystacks = _haystacks(encoder, length)
    budget = length - ANSWER_TOKENS
    for attempt in range(NEEDLE_TRIES):
        sample_seed = (seed << 40) + number * NEEDLE_TRIES + attempt
        sample = haystacks.sample(sample_seed, "train", TASKS[number % len(TASKS)], budget)
        answer = "; ".join(sample.answer.values) or NONE
        messages = [*sample.messages, {"role": "assistant", "content": f"<answer>{answer}</answer>"}]
        text = haystacks.tokens.chat.render(messages, add_generation_prompt=False).strip()
        tail, _ = encoder.encode(text[len(haystacks.tokens.render(sample.messages)) :], special=True)
        end = [] if len(tail) and tail[-1] == encoder.eos else [encoder.eos]
        if (guess := budget + len(tail) + len(end)) == length:
            row = np.append(encoder.encode(text, special=True)[0], end).astype(np.int32)
            if len(row) == length:
                return sample.messages[0]["content"], row
        budget += length - guess
    return None


@lru_cache(maxsize=2)
def _haystacks(encoder: Encoder, length: int) -> Haystacks:
    pool = max(262_144, 2 * length)
    options = Options(pool_tokens=pool, seeds_per_pool=NEEDLE_TRIES * max(1, FILLER_USES * pool // length))
    try:
        return Haystacks(encoder.tokenizer, options)
    except ConfigError as error:
        raise ConfigError(f"{error.message} (needles are asked with it)", setting="tokenizer") from None
