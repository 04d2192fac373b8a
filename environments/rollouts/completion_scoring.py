"""Scores of completions as a server gave them: what they say after their thinking, and what that earns."""

from collections.abc import Sequence
from dataclasses import dataclass

from environments.haystack.options import Options
from environments.haystack.sample import Sample
from environments.inference.contracts import Completion
from environments.inference.finish_reason import Ending, ending
from environments.rollouts.scoring import Score, score
from environments.rollouts.thinking import opened_in_reply, without_thinking


@dataclass(frozen=True)
class CompletionScorer:
    """Scores completions of samples with these options. `opened`: the marker with which prompts open thinking."""

    options: Options
    opened: str

    def scores(self, sample: Sample, completions: Sequence[Completion]) -> list[Score]:
        """Return the score of each completion of the sample."""
        evidence, form = sample.evidence if self.options.numbered else None, self.options.answer_format
        return [score(c.text, sample.answer, form, evidence, self.opened_for(c)) for c in completions]

    def said(self, completion: Completion) -> str:
        """Return a completion's text without its thinking."""
        return without_thinking(completion.text, self.opened_for(completion))

    def opened_for(self, completion: Completion) -> str:
        """Return the marker with which the prompt opened thinking, if this completion goes on inside it."""
        if completion.thought or completion.logprobs is not None:
            return "" if completion.thought else self.opened
        return opened_in_reply(completion.text, self.opened, ending(completion.finish_reason) is Ending.FINISHED)
