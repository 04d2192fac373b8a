"""MemoryEnv: one document asked four ways, so that the same questions say when to read, look up, remember, or do both.

    memory-env evaluate --env.tokenizer_name DIR --env.modes context,retrieval --openai.base_url URL --openai.model_name NAME
    memory-env documents --env.tokenizer_name DIR --env.modes weights,hybrid   # then lift fit and lift serve, docs/memory.md

Modes: `context` (the text in the prompt), `retrieval` (passages of it), `weights` (a memory behind `lift serve`, chosen by
its name in each request) and `hybrid` (passages, and a memory where they say none: `memory/hybrid.py`). Questions are those
of generated haystacks, of a file, or of a text about itself (`memory/questions.py`).
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path

from environments.atropos.evaluate import evaluate
from environments.config import DEFAULT_TASKS, ServerSettings
from environments.haystack.sample import Sample
from environments.haystack_env import HaystackEnv
from environments.inference.contracts import Completion, PlainServer, ServerAddress
from environments.inference.endpoint import Endpoint
from environments.inference.errors import RequestRejected
from environments.inference.preflight import WINDOWS, served_models
from environments.memory import questions as sources
from environments.memory.config import (
    CONTEXT,
    HYBRID,
    LOOKED_UP,
    REMEMBERED,
    RETRIEVAL,
    WEIGHTS,
    MemoryEnvConfig,
    check_memory,
)
from environments.memory.hybrid import POLICY, Confirming, following, opening, same, stated
from environments.memory.memories import Memory, check_names, check_text, served_memories
from environments.memory.passages import Passages
from environments.memory.prompts import Prompts
from environments.memory.questions import Document, Question
from environments.memory.report import write_report
from environments.memory.rollout import Exchange, MemoryRequest, Posed, group_of, mode_of
from environments.presets import task_of
from environments.retrieval.ranking import Hit
from environments.rollouts import row_log
from environments.rollouts.rollout import RolloutGroup, RolloutRequest
from environments.rollouts.scoring import Score
from longthread.errors import ConfigError
from longthread.files import write_text

KEPT = 8  # questions that stay in memory, since each is asked in every mode
SEPARATORS = 8  # tokens between two passages, at most


class MemoryEnv(HaystackEnv):
    """Environment of questions that are asked in several modes, each the same."""

    name = "memory"
    env_config_cls = MemoryEnvConfig
    default_tasks = DEFAULT_TASKS[name]
    not_shaping = HaystackEnv.not_shaping | {"documents_path", "chunk_store", "memory_url"}
    config: MemoryEnvConfig

    def __init__(
        self, config: MemoryEnvConfig, servers: list[ServerSettings], slurm: bool = False, testing: bool = False
    ):
        self._settings, self.modes = config, check_memory(config, servers)
        self.questions: list[Question] = []  # of a file, or of a text about itself
        self._recent: OrderedDict[str, Question] = OrderedDict()
        self.memories: Mapping[str, Memory] = {}
        super().__init__(config, servers, slurm, testing)
        self.memory_url = (config.memory_url or self.servers[0].base_url or "").rstrip("/")
        self.memory_endpoints = self.endpoints
        if config.memory_url:  # another server, which gets no key
            address = ServerAddress(self.memory_url, "x", self.model_name, timeout=self.servers[0].timeout)
            self.memory_endpoints = [Endpoint(PlainServer(address), self.haystacks.tokens.tokenizer)]

    def _probe(self) -> None:
        settings, tokens = self._settings, self.haystacks.tokens
        self.window = settings.window
        self.prompts = Prompts(tokens, self.options, settings.max_new_tokens, settings.order)
        looked_up = any(mode in LOOKED_UP for mode in self.modes)
        self.passages = Passages.of(settings, tokens) if looked_up else None
        self.questions = sources.given(settings, self.grid.tasks, self.default_tasks, self.options, tokens)
        if not self.questions:
            super()._probe()
        self._question_tokens = len(self.prompts.prepare(self._first(), RETRIEVAL, 0).tokens)
        self._check_window()

    def _first(self) -> Question:
        if self.questions:
            return self.questions[0]
        task, length = self.grid.tasks[0], min(self.grid.lengths)
        return sources.of_haystack(self._haystacks_of(task).sample(0, "eval", task_of(task).name, length), "probe")

    def _check_window(self) -> None:
        """Raise `ConfigError` where the passages, or not even a question and its reply, fit into the window."""
        settings, least = self._settings, self._question_tokens + self._settings.max_new_tokens
        if self.window and self.passages and (needed := self._longest_looked_up()) > self.window:
            raise ConfigError(
                f"{settings.passages} passages of {settings.chunk_tokens} tokens take {needed:,} with question and reply, "
                f"more than the window of {self.window:,}: ask for fewer, or for shorter ones",
                setting=("passages", "chunk_tokens", "window"),
            )
        if 0 < self.window < least:
            raise ConfigError(
                f"a question and its reply take {least:,} tokens, more than the window of {self.window:,}: serve the model "
                "with a longer one, or ask for shorter replies",
                setting=("window", "max_new_tokens"),
            )

    def _longest_looked_up(self) -> int:
        settings = self._settings
        passages = settings.passages * (settings.chunk_tokens + SEPARATORS)
        return self._question_tokens + passages + settings.max_new_tokens

    def longest_sequence(self) -> int:
        """Tokens of the longest prompt with its longest completion, in any mode."""
        looked_up = self._longest_looked_up() if self.passages else 0
        if CONTEXT not in self.modes:
            return looked_up
        lengths = [question.sample.length for question in self.questions] or self.grid.lengths
        whole = max(lengths) + self.config.max_new_tokens
        return max(looked_up, min(whole, self.window) if self.window else whole)

    async def setup(self) -> None:
        """Ask every server whether it is there, and for the window of its model. Raises `ConfigError`."""
        entries = [e for s in self.servers if s.base_url for e in await served_models(str(s.base_url), s.api_key)]
        named = [entry for entry in entries if entry.get("id") == self.model_name]
        stated = [entry[name] for entry in named for name in WINDOWS if isinstance(entry.get(name), int)]
        served = min(stated, default=0)
        if 0 < served < self.window:
            raise ConfigError(
                f"window {self.window:,} is more than the {served:,} tokens that the server states for {self.model_name!r}: "
                "leave it out, or give at most as many",
                setting="window",
            )
        if not self.window:
            self.window = served
            self._check_window()
        await super().setup()

    def run_digest(self) -> str:
        """Return hex digits that name a run by the settings and the questions that shape its rows."""
        own = [(q.document.digest, q.asked, q.sample.answer.values) for q in self.questions]
        memories = sorted((m.name, m.digest, m.stored_bytes, m.seconds) for m in self.memories.values())
        named = {"settings": super().run_digest(), "questions": own, "memories": memories}
        return row_log.digest({**named, "hybrid": POLICY} if HYBRID in self.modes else named)

    # ---- questions ----

    def request(self, index: int) -> MemoryRequest:
        """Return request number `index` of a run: each question in every mode, one after the other."""
        number, place = divmod(index, len(self.modes))
        if self.questions:
            return self._own_request(index, number % len(self.questions), "train", self.modes[place])
        return replace(_in_mode(super().request(number), self.modes[place]), index=index)

    def evaluation_requests(self) -> list[RolloutRequest]:
        """Return the requests of one evaluation: every question in every mode."""
        if self.questions:
            pairs = [(number, mode) for number in range(len(self.questions)) for mode in self.modes]
            return [self._own_request(i, number, "eval", mode) for i, (number, mode) in enumerate(pairs)]
        return [_in_mode(request, mode) for request in super().evaluation_requests() for mode in self.modes]

    def _own_request(self, index: int, number: int, split: str, mode: str) -> MemoryRequest:
        sample = self.questions[number].sample
        return MemoryRequest(
            index, number, split, sample.recipe["task"], sample.length, repeat=number, mode=mode, number=number
        )

    def question(self, request: RolloutRequest) -> Question:
        """Return the question of a request, with its document. Runs in worker threads."""
        if isinstance(request, MemoryRequest) and request.number >= 0:
            return self.questions[request.number]
        key = f"{request.split}/{request.seed}/{request.task}/{request.length}/{request.depth}/{request.difficulty}"
        if (known := self._recent.get(key)) is None:
            known = sources.of_haystack(self.sample(request), haystack_name(request))
            with self._building:
                self._recent[key] = known
                while len(self._recent) > KEPT:
                    self._recent.popitem(last=False)
        return known

    # ---- rollouts ----

    def build(self, request: RolloutRequest) -> tuple[Sample, list[int]]:
        """Return the request's sample with the messages of its first prompt, and that prompt's token ids."""
        question, memory = self._asked(request)
        posed = self._posed(question, opening(mode_of(request)), memory)
        return posed.sample, posed.prepared.tokens

    async def rollout(self, request: RolloutRequest, n: int) -> RolloutGroup:
        """Ask the request's question in its mode, and return it with `n` scored completions. Raises `CompletionError`."""
        question, memory = await asyncio.to_thread(self._asked, request)
        exchanges, replies = list[Exchange](), list[str]()
        while mode := following(mode_of(request), replies):
            exchanges.append(await self._exchange(question, mode, memory, request.split, n))
            replies.append(stated([self.scorer.said(completion) for completion in exchanges[-1].completions]))
        answer, proposed = exchanges[0], replies[1] if len(replies) > 1 else ""
        if proposed and await self._confirmed(exchanges, proposed, request.split, n):
            answer = exchanges[1]
        scores = await asyncio.to_thread(self._scores, question, answer.completions)
        return group_of(request, exchanges, answer, scores, memory, proposed)

    async def _confirmed(self, exchanges: list[Exchange], proposed: str, split: str, n: int) -> bool:
        """Return whether the text confirms what the memory proposes, asked last; what is asked for it joins the exchanges.

        Raises `CompletionError`.
        """
        posed, started = exchanges[0].posed, time.monotonic()
        found = await asyncio.to_thread(self._confirming, posed, proposed)
        exchanges[-1] = replace(exchanges[-1], seconds=exchanges[-1].seconds + time.monotonic() - started)
        if not found:
            return False
        if not found.followed:
            hits = [Hit(found.passage, 0.0)]
            exchanges.append(await self._exchange(posed.question, RETRIEVAL, None, split, n, hits))
            read = stated([self.scorer.said(completion) for completion in exchanges[-1].completions])
            return same(read, proposed)
        return True

    def _confirming(self, posed: Posed, proposed: str) -> Confirming | None:
        """Return what of a question's document confirms what its memory proposes. Runs in worker threads."""
        if not self.passages or not posed.index:
            return None
        return self.passages.confirming(posed.question, posed.index, proposed)

    def _asked(self, request: RolloutRequest) -> tuple[Question, Memory | None]:
        """Return a request's question, and the memory its mode needs. Raises `RequestRejected` for one of another text."""
        question = self.question(request)
        return question, self._memory(question.document) if mode_of(request) in REMEMBERED else None

    async def _exchange(
        self,
        question: Question,
        mode: str,
        memory: Memory | None,
        split: str,
        n: int,
        hits: Sequence[Hit] | None = None,
    ) -> Exchange:
        """Ask a question once, the model itself or the memory; with `hits` in place of a search. Raises `CompletionError`."""
        posed = await asyncio.to_thread(self._posed, question, mode, memory, hits)
        model = memory.name if memory and mode == WEIGHTS else ""
        endpoints, started = self.memory_endpoints if model else self.endpoints, time.monotonic()
        completions = await self._complete(endpoints, posed.sample, posed.prepared.tokens, split, n, model)
        return Exchange(posed, completions, model, posed.seconds + time.monotonic() - started)

    def _posed(self, question: Question, mode: str, memory: Memory | None, hits: Sequence[Hit] | None = None) -> Posed:
        """Return a question with its prompt. Runs in worker threads."""
        index, started = None, time.monotonic()
        if self.passages and mode in LOOKED_UP and hits is None:
            index, started = self.passages.index(question.document), time.monotonic()
            hits = self.passages.find(question, index)
        searched = time.monotonic() - started
        prepared = self.prompts.prepare(question, mode, self.window, hits or (), memory)
        return Posed(question, mode, prepared, index, searched)

    def _memory(self, document: Document) -> Memory:
        memory = self.memories.get(document.name) or Memory(document.name)
        try:
            check_text(memory, document, self.memory_url)
        except ConfigError as error:
            raise RequestRejected(error.message, setting=error.settings) from None
        return memory

    def _scores(self, question: Question, completions: Sequence[Completion]) -> list[Score]:
        """Return each completion's score by the answer, of several right ones, that it fits best."""
        samples = [replace(question.sample, answer=a) for a in (question.sample.answer, *question.alternatives)]
        scores = [self.scorer.scores(sample, completions) for sample in samples]
        return [max(of_one, key=lambda score: score.score) for of_one in zip(*scores, strict=True)]

    # ---- commands ----

    def commands(self) -> Mapping[str, Callable[[], Coroutine[None, None, None]]]:
        """Return what each command runs, by its name."""
        return {**super().commands(), "documents": self.write_documents}

    async def process_manager(self) -> None:
        """Run `process`."""
        await self._find_memories([self.request(index) for index in range(self.n_groups_to_process)])
        await super().process_manager()

    async def evaluate(self, *args: object, **kwargs: object) -> None:
        """Run one evaluation in all modes."""
        await self._find_memories(self.evaluation_requests())
        await evaluate(self, write_report)

    async def env_manager(self) -> None:
        """Run `serve`. Raises `ConfigError` for modes with a memory, whose weights are not those of the trainer."""
        if remembered := [mode for mode in self.modes if mode in REMEMBERED]:
            raise ConfigError(
                f"mode {remembered[0]} is for evaluate and process: serve would train a model on what only its memory knows",
                setting="modes",
            )
        if self.questions:
            raise ConfigError(
                "questions of a file are for evaluate and process: serve trains on generated haystacks",
                setting=("questions", "document"),
            )
        await super().env_manager()

    async def _find_memories(self, requests: Sequence[RolloutRequest]) -> None:
        """Ask the server for its memories. Raises `ConfigError` unless there is one of each document, of the same text.

        A generated haystack's text is compared when it is made.
        """
        asked = [request for request in requests if mode_of(request) in REMEMBERED]
        if asked:
            try:
                self.memories = await served_memories(self.memory_url, self._memory_key())
            except ConfigError as error:
                raise ConfigError(error.message, setting="memory_url") if self.config.memory_url else error from None
            check_names(self.memories, map(self._document_name, asked), self.memory_url)
            for document in {question.document.name: question.document for question in self.questions}.values():
                check_text(self.memories[document.name], document, self.memory_url)

    def _memory_key(self) -> str | None:
        return self.memory_endpoints[0].config.api_key

    def _document_name(self, request: RolloutRequest) -> str:
        if isinstance(request, MemoryRequest) and request.number >= 0:
            return self.questions[request.number].document.name
        return haystack_name(request)

    async def write_documents(self) -> None:
        """Write the documents of an evaluation as text files, for `lift fit`."""
        folder, names = Path(self.config.documents_path), set[str]()
        for request in self.evaluation_requests():
            if (name := self._document_name(request)) not in names:
                names.add(name)
                write_text(folder / f"{name}.txt", self.question(request).document.text)
        print(f"documents  {len(names)} in {folder}")
        print(
            f"next       lift fit {folder}/NAME.txt --model MODEL --library LIBRARY for each; then lift serve LIBRARY"
        )


def _in_mode(request: RolloutRequest, mode: str) -> MemoryRequest:
    return MemoryRequest(**{f.name: getattr(request, f.name) for f in fields(RolloutRequest)}, mode=mode)


def haystack_name(request: RolloutRequest) -> str:
    """Return the name of a generated haystack as a document."""
    return f"{request.task}-{request.length}-{request.seed}"


def main() -> None:
    """Run the command line."""
    MemoryEnv.cli()


if __name__ == "__main__":
    main()
