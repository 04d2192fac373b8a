"""An episode of several turns behind one completion: what was said, its tokens as they were sampled, and what was read."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from longthread.files import JsonObject


@dataclass(frozen=True)
class ReadingCounts:
    """What an episode did: replies, calls and tokens read, as a share of the text's tokens too, and why it ended.

    `ended`: "answered", "cut" (the last reply, by max_new_tokens), "turns" or "window" (a call that none could answer).
    """

    turns: int
    searches: int
    reads: int
    tokens_read: int
    share_read: float
    tool_errors: int
    ended: str

    def to_json(self) -> JsonObject:
        """Return all fields as a dict, as rows keep them."""
        return asdict(self)


@dataclass(frozen=True)
class Transcript:
    """One episode. Lists of the same length hold, of each token behind the prompt, the token, its mask and log-probability.

    A token that the model did not write is masked by -100, and its log-probability is 1.0. `logprobs` is None from a chat
    server, `messages` is the conversation from the prompt on, `answer` what is scored: empty where the model never answered.
    """

    messages: Sequence[JsonObject]
    tokens: list[int]
    mask: list[int]
    logprobs: list[float] | None
    reading: ReadingCounts
    answer: str
