"""Episodes in which a model looks up a sample's text: replies with calls, their results, and at last an answer.

All episodes of a group begin with one request, so that the server reads their prompt once; then each goes its own way. An
episode ends with the first reply that calls no tool. It ends without an answer, which scores 0, when the turns are used up
or when it would outgrow the trainer's window; what it has until then is kept.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

from environments.haystack.sample import Sample
from environments.haystack.tokens import BREAK, Tokens
from environments.inference.contracts import Completion, CompletionRequest
from environments.inference.errors import CompletionError, RequestRefused, RequestRejected
from environments.inference.finish_reason import Ending, ending
from environments.inference.request_form import TOO_LONG
from environments.reading.text_file import TextFile
from environments.reading.tools import (
    PLAIN_FORM,
    TOOLS,
    TOOLS_FORM,
    TextTools,
    ToolCall,
    ToolResult,
    openai_calls,
    plain_calls,
)
from environments.reading.turns import Turns
from environments.rollouts.rollout import NOT_TRAINED
from environments.rollouts.transcript import ReadingCounts, Transcript
from environments.rollouts.values import CUSTOM_REPLY
from longthread.errors import ConfigError
from longthread.files import JsonObject

Ask = Callable[[CompletionRequest, int], Awaitable[list[Completion]]]
TURN_TOKENS = 64  # of a turn beside the reply and the passages, about: notes, and what the template writes
LAST_TURN = "(This was the last look: answer now.)"


@dataclass(frozen=True)
class Limits:
    """Bounds of one episode: `turns` replies, and `tokens` read."""

    turns: int
    tokens: int


class ReadingSettings(Protocol):
    """The settings of an environment that are about reading; see `HaystackEnvConfig`."""

    reading: str
    reading_turns: int
    reading_tokens: int


@dataclass(frozen=True)
class Sampling:
    """How each reply is sampled; the fields as in `CompletionRequest`."""

    max_tokens: int
    temperature: float
    split: str = "train"
    own: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Episodes:
    """Runs episodes of one environment.

    `form`: "tools" or "plain". `ask` gives so many completions of a request. `said` returns a completion's text without
    its thinking.
    """

    form: str
    limits: Limits
    tokens: Tokens
    ask: Ask
    said: Callable[[Completion], str]
    opening: int = field(default=0, init=False)  # tokens of the longest prompt that was probed

    @classmethod
    def of(
        cls, config: ReadingSettings, tokens: Tokens, ask: Ask, said: Callable[[Completion], str]
    ) -> "Episodes | None":
        """Return the episodes that an environment's settings ask for; None where it gives the text itself."""
        if config.reading == "off":
            return None
        return cls(config.reading, Limits(config.reading_turns, config.reading_tokens), tokens, ask, said)

    @cached_property
    def turns(self) -> Turns:
        """How the chat template continues a conversation. Raises `ConfigError` where it cannot."""
        return Turns(self.tokens)

    def probe(self, sample: Sample) -> None:
        """Open an episode of a sample, so that what cannot work fails at once. Raises `ConfigError`."""
        _, _, _, messages = self._open(sample)
        self.opening = max(self.opening, len(self.tokens.encode(self.tokens.render(messages))))
        if self.form == "plain":
            _ = self.turns

    def longest(self, max_tokens: int) -> int:
        """Return about how many tokens the longest episode has."""
        return self.opening + self.limits.tokens + self.limits.turns * (max_tokens + TURN_TOKENS)

    def shortest(self, max_tokens: int) -> int:
        """Return about how many tokens an episode has whose first reply, the longest there is, is its last."""
        return self.opening + TURN_TOKENS + max_tokens

    def check_serving(self, token_exact: bool) -> None:
        """Raise `ConfigError` where no sequences can be made that a trainer learns from."""
        if self.form == "tools":
            raise ConfigError(
                "serve sends a trainer tokens, and with tools only the server knows them: use reading plain, or process",
                setting="reading",
            )
        if not token_exact:
            self.turns.check_appends()

    async def run(
        self, sample: Sample, sampling: Sampling, n: int, window: int = 0
    ) -> tuple[list[int], list[Completion], list[Transcript]]:
        """Run `n` episodes of a sample. Returns the prompt's tokens, the last completion of each, and the transcripts.

        A last completion has the tokens and log-probabilities of all that the model wrote. The prompt's tokens are empty
        where only the server knows them (form "tools"). `window`: tokens of a sequence at most; 0: any. Raises
        `CompletionError`.
        """
        file, total, prompt, messages = await asyncio.to_thread(self._open, sample)
        setting = _Setting(self, sample, sampling, window, file, total, prompt, messages)
        firsts = await setting.ask(messages, prompt, n)
        episodes = [asyncio.create_task(_Episode(setting).run(first)) for first in firsts]
        try:
            ended = await asyncio.gather(*episodes)
        finally:  # one that failed fails the group
            for episode in episodes:
                episode.cancel()
        return prompt, [completion for completion, _ in ended], [transcript for _, transcript in ended]

    def _open(self, sample: Sample) -> tuple[TextFile, int, list[int], list[JsonObject]]:
        file = TextFile.of(sample)
        total = file.count(self.tokens)
        messages = [{"role": "user", "content": prompt_text(file, total, self.form, self.limits)}]
        prompt = [] if self.form == "tools" else self.tokens.encode(self.tokens.render(messages))
        return file, total, prompt, messages


def prompt_text(file: TextFile, total: int, form: str, limits: Limits) -> str:
    """Return the user's message that opens an episode: what there is to read, how to read it, and the question."""
    how = TOOLS_FORM if form == "tools" else PLAIN_FORM
    return BREAK.join(
        [
            f"There is a text of {len(file.passages)} numbered passages and {total} tokens, which you do not see. {how} You "
            f"have {limits.turns} replies in all, the answer included, and may read {limits.tokens} tokens. As soon as you "
            "know enough, answer the question below.",
            file.question,
        ]
    )


@dataclass(frozen=True)
class _Setting:
    """What all episodes of a group share."""

    episodes: Episodes
    sample: Sample
    sampling: Sampling
    window: int
    file: TextFile
    total: int  # tokens of the text
    prompt: list[int]
    messages: list[JsonObject]

    @property
    def with_tools(self) -> bool:
        return self.episodes.form == "tools"

    async def ask(self, messages: Sequence[JsonObject], prompt: list[int], n: int) -> list[Completion]:
        """Ask for `n` replies. Raises `RequestRejected` if the server takes no tools."""
        sampling = self.sampling
        own = {**sampling.own, "tools": TOOLS} if self.with_tools else sampling.own
        request = CompletionRequest(messages, prompt, sampling.max_tokens, sampling.temperature, sampling.split, own)
        try:
            return await self.episodes.ask(request, n)
        except RequestRejected:
            raise
        except CompletionError as error:
            said = error.text if isinstance(error, RequestRefused) else error.message
            if self.with_tools and "tool" in said.lower() and not TOO_LONG.search(said):
                raise RequestRejected(
                    f"{error.message}; a server without tools is read from in plain text: use plain", setting="reading"
                ) from None
            raise


class _Episode:
    """One episode in the making."""

    def __init__(self, setting: _Setting):
        self.setting = setting
        self.tools = TextTools(setting.file, setting.episodes.tokens, setting.episodes.limits.tokens)
        self.messages = list(setting.messages)
        self.tokens: list[int] = []  # behind the prompt, as `Transcript` has them
        self.mask: list[int] = []
        self.logprobs: list[float] = []
        self.written: list[int] = []  # by the model
        self.written_logprobs: list[float] = []
        self.exact = True  # every reply has log-probabilities

    async def run(self, reply: Completion) -> tuple[Completion, Transcript]:
        """Go on from the first reply to the last."""
        turns, limits = 1, self.setting.episodes.limits
        while True:
            calls = self._add_reply(reply)
            if not calls:
                return self._end(reply, turns, "cut" if ending(reply.finish_reason) is Ending.CUT else "answered")
            if turns == limits.turns:
                return self._end(reply, turns, "turns")
            last = turns + 1 == limits.turns
            results = await asyncio.to_thread(self.tools.run, calls)
            if not await asyncio.to_thread(self._add_results, reply, calls, results, last):
                return self._end(reply, turns, "window")
            [reply] = await self.setting.ask(self.messages, await asyncio.to_thread(self._prompt), 1)
            turns += 1

    def _add_reply(self, reply: Completion) -> list[ToolCall]:
        """Append a reply, and return its calls."""
        message: JsonObject = {"role": "assistant", "content": reply.text}
        if self.setting.with_tools:
            calls = openai_calls(reply.tool_calls)
            if calls:
                message |= {"content": reply.text or None, "tool_calls": [call.to_openai() for call in calls]}
        else:
            finished = ending(reply.finish_reason) is Ending.FINISHED
            calls = plain_calls(self.setting.episodes.said(reply), finished)
        self.messages.append(message)
        self.written += reply.tokens
        self.written_logprobs += reply.logprobs or []
        self.exact &= reply.logprobs is not None
        self._append(reply.tokens, reply.tokens, reply.logprobs or [])
        return calls

    def _append(self, tokens: list[int], mask: list[int], logprobs: list[float]) -> None:
        self.tokens += tokens
        self.mask += mask
        self.logprobs += logprobs

    def _add_results(
        self, reply: Completion, calls: Sequence[ToolCall], results: Sequence[ToolResult], last: bool
    ) -> bool:
        """Append the results of a reply's calls. Returns False, with nothing appended, where the window is too small."""
        if self.setting.with_tools:
            texts = [result.text for result in results]
            texts[-1] += f"{BREAK}{LAST_TURN}" if last else ""
            self.messages += [
                {"role": "tool", "tool_call_id": call.id, "content": text}
                for call, text in zip(calls, texts, strict=True)
            ]
            return True
        text = BREAK.join([*(result.text for result in results), *([LAST_TURN] if last else [])])
        message = {"role": "user", "content": f"<tool_response>\n{text}\n</tool_response>"}
        between = self.setting.episodes.turns.between(reply.tokens, message["content"])
        length = len(self.setting.prompt) + len(self.tokens) + len(between) + self.setting.sampling.max_tokens
        if 0 < self.setting.window < length:
            return False
        self.messages.append(message)
        self._append(between, [NOT_TRAINED] * len(between), [1.0] * len(between))
        return True

    def _prompt(self) -> list[int]:
        """Return the tokens that the next reply follows: those sampled, or what a chat server makes of the messages."""
        if self.setting.with_tools:
            return []
        if self.exact:
            return [*self.setting.prompt, *self.tokens]
        tokens = self.setting.episodes.tokens
        return tokens.encode(tokens.render(self.messages))

    def _end(self, reply: Completion, turns: int, ended: str) -> tuple[Completion, Transcript]:
        tools = self.tools
        counts = ReadingCounts(
            turns=turns,
            searches=tools.searches,
            reads=tools.reads,
            tokens_read=tools.tokens_read,
            share_read=tools.tokens_read / self.setting.total,
            tool_errors=tools.errors,
            ended=ended,
        )
        answered = ended in ("answered", "cut")
        completion = replace(
            reply,
            tokens=self.written,
            logprobs=self.written_logprobs if self.exact else None,
            missing=reply.missing if answered else "",  # a call has no content, and is a failure of the model
        )
        answer = reply.text if answered and not self._is_dump(reply) else ""
        logprobs = self.logprobs if self.exact else None
        return completion, Transcript(self.messages, self.tokens, self.mask, logprobs, counts, answer)

    def _is_dump(self, reply: Completion) -> bool:
        """Whether a reply without tags is too long for an answer: results copied out, of which a value is found anyway."""
        sample = self.setting.sample
        if sample.recipe["options"]["answer_format"] != "plain":
            return False
        return len(self.setting.episodes.said(reply)) > CUSTOM_REPLY + 2 * len("; ".join(sample.answer.values))
