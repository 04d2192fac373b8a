"""The text of a task behind two tools, `search` and `read`: a server of its own for each rollout."""

import verifiers.v1 as vf

from environments.haystack.sample import rebuild
from environments.haystack.tokens import Tokens, load_tokenizer
from environments.reading.text_file import TextFile
from environments.reading.tools import TextTools, ToolCall
from longthread_vf.data import LongthreadData


class TextToolsetConfig(vf.ToolsetConfig):
    """Where the tools run, and what the taskset sets: the tokenizer that counts, and the most tokens that may be read."""

    tokenizer: str = ""
    limit: int = 4096


class ReadingState(vf.State):
    """What a rollout has read so far."""

    searches: int = 0
    reads: int = 0
    tokens_read: int = 0
    share_read: float = 0.0
    tool_errors: int = 0

    def counts(self) -> dict[str, float]:
        """Return the counts by name."""
        return self.model_dump(exclude={"artifacts"})


class TextToolset(vf.Toolset[TextToolsetConfig, ReadingState]):
    """The tools over the text that the task's recipe builds."""

    TOOL_PREFIX = "text"

    async def setup_task(self, data: LongthreadData) -> None:
        """Build the text of the rollout's task, of which verifiers hands over the data."""
        recipe, tokenizer = data.target["recipe"], load_tokenizer(self.config.tokenizer)
        tokens = Tokens(tokenizer, recipe.get("template"))
        self._tools = TextTools(TextFile.of(rebuild(recipe, tokenizer)), tokens, self.config.limit)
        self._total = self._tools.file.count(tokens)

    @vf.tool
    def search(self, query: str) -> str:
        """Search the text. Shows the best sentence of the passages that match the words of the query, best first."""
        return self._run(ToolCall("search", {"query": query}))

    @vf.tool
    def read(self, first: int, last: int) -> str:
        """Read the passages of the text with the numbers from `first` to `last`."""
        return self._run(ToolCall("read", {"from": first, "to": last}))

    def _run(self, call: ToolCall) -> str:
        tools, state = self._tools, self.state
        [result] = tools.run([call])
        state.searches, state.reads, state.tool_errors = tools.searches, tools.reads, tools.errors
        state.tokens_read, state.share_read = tools.tokens_read, tools.tokens_read / self._total
        return result.text


if __name__ == "__main__":
    TextToolset.run()
