"""Says once, from the first replies of a run, what would make all of it worthless: they are cut, or have no content."""

import logging
from collections.abc import Sequence

from environments.inference.contracts import Completion
from environments.inference.finish_reason import Ending, ending

logger = logging.getLogger(__name__)
REPLIES = 4  # that are looked at, or a group of two and more
NEARLY_ALL = 0.9


class FirstReplies:
    """Watches a run's completions until it has seen enough; `max_new_tokens` is their limit."""

    def __init__(self, max_new_tokens: int):
        self._limit, self._replies, self._done = max_new_tokens, list[Completion](), False

    def add(self, completions: Sequence[Completion]) -> None:
        """Look at the completions of one more group."""
        if self._done:
            return
        self._replies += completions
        if len(completions) < 2 and len(self._replies) < REPLIES:
            return
        self._done, n = True, len(self._replies)
        spent = sum(reply.missing == "budget_spent_thinking" for reply in self._replies)
        empty = sum(reply.missing == "no_content" for reply in self._replies)
        cut = sum(ending(reply.finish_reason) is Ending.CUT for reply in self._replies)
        if spent:
            off = '--env.request \'{"chat_template_kwargs": {"enable_thinking": false}}\''
            logger.warning(
                "%d of the first %d replies had no content, their %d tokens went into thinking: raise --env.max_new_tokens, "
                "or turn thinking off: %s",
                *(spent, n, self._limit, off),
            )
        elif cut >= NEARLY_ALL * n:
            logger.warning(
                "%d of the first %d replies were cut at %d tokens: raise --env.max_new_tokens", cut, n, self._limit
            )
        if empty:
            logger.warning(
                "%d of the first %d replies had no content (finish_reason %s): they are counted apart, as no_content",
                *(empty, n, ", ".join(sorted({str(r.finish_reason) for r in self._replies if r.missing}))),
            )
