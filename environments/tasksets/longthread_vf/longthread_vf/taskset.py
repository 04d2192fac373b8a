"""The taskset: an endless stream of rows, scored as longthread scores; one turn each, or reading with tools."""

import asyncio
from collections.abc import Iterator

import verifiers.v1 as vf

from environments.haystack.sample import rebuild
from environments.haystack.tokens import load_tokenizer
from environments.inference.finish_reason import Ending, ending
from environments.reading.episode import Limits, prompt_text
from environments.reading.text_file import TextFile
from environments.tasksets import core
from environments.tasksets.core import Score
from longthread.errors import exit_on_error
from longthread_vf.data import LongthreadData
from longthread_vf.toolset import ReadingState, TextToolset, TextToolsetConfig


class LongthreadTaskConfig(vf.TaskConfig):
    """What a task needs beside its data, under `--env.taskset.task.*`."""

    tokenizer: str = ""
    """Tokenizer with which `vf-validate` solves the task from its text; the taskset sets it to its own."""

    reading: bool = False
    """Look the text up with the tools search and read, instead of being given it."""

    reading_turns: int = 8
    """Replies of an episode of reading, the answer included."""

    reading_tokens: int = 4096
    """Tokens of the text that an episode may read."""

    tools: TextToolsetConfig = TextToolsetConfig()
    """Where the tools run; the taskset sets the tokenizer and the limit."""


class LongthreadConfig(vf.TasksetConfig, core.TasksetConfig):
    """The settings of longthread's rows, under `--env.taskset.*`."""

    task: LongthreadTaskConfig = LongthreadTaskConfig()


class LongthreadTask(vf.Task[LongthreadData, ReadingState, LongthreadTaskConfig]):
    """One question about one text."""

    @classmethod
    def toolsets(cls, config: LongthreadTaskConfig) -> list[vf.Toolset]:
        """Return the tools of reading, or none."""
        own = {"tokenizer": config.tokenizer, "limit": config.reading_tokens}
        return [TextToolset(config.tools.model_copy(update=own))] if config.reading else []

    @property
    def key(self) -> str:
        """Name of the row, the same on every machine, whatever its place in the stream."""
        return str(self.data.target["digest"])

    @vf.stop
    async def one_turn(self, trace: vf.Trace) -> bool:
        """Stop after the first reply, or the last of an episode of reading."""
        return trace.num_turns >= (self.config.reading_turns if self.config.reading else 1)

    @vf.reward(weight=1.0)
    async def reward(self, trace: vf.Trace) -> float:
        """The score, 0 to 1."""
        return (await self._score(trace)).score

    @vf.metric
    async def metrics(self, trace: vf.Trace) -> dict[str, float]:
        """How the score came about, and by how many tokens the prompt that the server counted differs from the exact one."""
        score, usage = await self._score(trace), trace.calls[-1].usage if trace.calls else None
        measured = {
            "exact": float(score.correct),
            "abstained": float(score.abstained),
            "well_formed": float(score.well_formed),
        }
        if score.f2 is not None:
            measured["grounding_f2"] = score.f2
        if self.config.reading:
            return measured | {f"reading_{name}": float(count) for name, count in trace.state.counts().items()}
        if usage is not None:
            measured["prompt_tokens_off"] = float(usage.input_tokens - self.data.target["length"])
        return measured

    async def validate(self, runtime: vf.Runtime) -> bool:
        """Solve the task from its own text; no model is asked. Raises `ConfigError` for a task that cannot be solved."""
        messages = [{"role": m.role, "content": m.content} for m in self.data.prompt or []]
        if self.config.reading:  # the text is not in the prompt
            messages = rebuild(self.data.target["recipe"], load_tokenizer(self.config.tokenizer)).messages
        row = {**self.data.target, "messages": messages}
        reply = await asyncio.to_thread(core.solve, row, self.config.tokenizer)
        return core.score_row(reply, row).correct

    async def _score(self, trace: vf.Trace) -> Score:
        reply = trace.assistant_messages[-1].model_dump() if trace.assistant_messages else None
        if reply and reply.get("tool_calls"):  # a call is no answer
            reply = None
        finished = bool(trace.calls) and ending(trace.calls[-1].finish_reason) is Ending.FINISHED
        return await asyncio.to_thread(core.score_completion, reply, self.data.target, finished)


class LongthreadTaskset(vf.Taskset[LongthreadTask, LongthreadConfig]):
    """Rows without end; `-n` says how many."""

    INFINITE = True

    def load(self) -> Iterator[LongthreadTask]:
        """Yield the tasks of the config; settings that cannot work end the process in one line."""
        config = self.config.task.model_copy(update={"tokenizer": self.config.tokenizer})
        with exit_on_error(_flag):
            rows = core.Rows(self.config)
        for row in rows:
            # Messages, never one text: a harness would put that on its command line, which holds 128 KiB.
            prompt = [_message(message) for message in row["messages"]]
            if config.reading:
                file = TextFile(row["messages"][0]["content"], row["recipe"]["options"]["numbered"])
                limits = Limits(config.reading_turns, config.reading_tokens)
                total = file.count(rows.haystacks.tokens)
                prompt = [vf.UserMessage(content=prompt_text(file, total, "tools", limits))]
            yield LongthreadTask(LongthreadData(prompt=prompt, target=dict(core.target_of(row))), config)


def _message(message: dict[str, str]) -> vf.Message:
    kinds = {"system": vf.SystemMessage, "user": vf.UserMessage, "assistant": vf.AssistantMessage}
    return kinds[message["role"]](content=message["content"])


def _flag(setting: str) -> str:
    return "taskset." + {"tokenizer_name": "tokenizer"}.get(setting, setting)
