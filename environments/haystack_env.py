"""HaystackEnv: an Atropos environment whose prompts are haystacks, base of the needle environments.

What faces Atropos is in `atropos/`, one file a command; this class hands over. The traps of atroposlib 0.4.0 that are dealt
with are listed, each with its test, in `docs/atropos-traps.md`.
"""

import asyncio
import gc
import logging
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from random import Random
from typing import ClassVar

from environments.atropos.base import BaseEnv, EvalHandlingEnum, follow_proxies, server_config
from environments.atropos.evaluate import evaluate
from environments.atropos.process import process
from environments.atropos.serve import ScoredGroup, ServeSession, check_trainer
from environments.cli import Command, main
from environments.config import LATER_SETTINGS, AtroposSettings, HaystackEnvConfig, ServerSettings
from environments.config_checks import check, request_fields, sample_options
from environments.curriculum import task_ladders
from environments.curriculum.ladder import Ladder
from environments.curriculum.policy import Curriculum
from environments.haystack.recipe import without_later_defaults
from environments.haystack.sample import Haystacks, Sample
from environments.haystack.tokens import PLACEHOLDER, load_tokenizer
from environments.inference.completions import request_group
from environments.inference.contracts import Completion, CompletionRequest
from environments.inference.endpoint import Endpoint
from environments.inference.errors import RequestRejected
from environments.inference.preflight import check_server
from environments.inference.token_servers import TOKEN_SERVERS
from environments.presets import VARIANTS, haystacks_of, task_of
from environments.reading.episode import Episodes, Sampling
from environments.reports import wandb_log, wandb_run
from environments.rollouts import requests, row_log
from environments.rollouts.completion_scoring import CompletionScorer
from environments.rollouts.first_replies import FirstReplies
from environments.rollouts.rollout import RolloutGroup, RolloutRequest, finite
from environments.rollouts.runner import EXPECTED_ERRORS, failure_line
from environments.rollouts.thinking import opened_thinking
from longthread.errors import ConfigError, RunError
from longthread.files import JsonObject

logger = logging.getLogger(__name__)


class HaystackEnv(BaseEnv):
    """Base of the needle environments. A subclass sets `name` and `default_tasks`."""

    name = "haystack"
    env_config_cls = HaystackEnvConfig
    default_tasks = "single"
    # Settings beside Atropos' own that change no row.
    not_shaping: ClassVar[frozenset[str]] = frozenset({"max_failures", "state_path"})

    @classmethod
    def config_init(cls) -> tuple[HaystackEnvConfig, list[ServerSettings]]:
        """Return the default settings of the environment, and of one server."""
        return cls.env_config_cls(tasks=cls.default_tasks, wandb_name=cls.name), [ServerSettings()]

    @classmethod
    def cli(cls) -> None:
        """Run the command line of this process."""
        main(cls.config_init()[0], cls.run)

    @classmethod
    def run(cls, command: Command) -> None:
        """Run one command to its end. Raises `LongthreadError` for what a user can change."""
        env = cls(command.config, command.servers, command.slurm, command.testing)
        if command.name == "evaluate" and command.config.data_dir_to_save_evals:
            command.write(Path(command.config.data_dir_to_save_evals) / "evaluate_config.yaml")
        env.n_groups_to_process, env.group_size_to_process = env.config.total_steps, env.config.group_size
        try:
            asyncio.run(env.commands()[command.name]())
        finally:
            gc.unfreeze()  # what is frozen outlives the interpreter, and Triton reports it as leaks

    def __init__(
        self, config: HaystackEnvConfig, servers: list[ServerSettings], slurm: bool = False, testing: bool = False
    ):
        self.grid = check(config, servers)
        wandb_run.check_login(config)
        self.options, self._given = sample_options(config, self.grid), frozenset(config.model_fields_set)
        self.request_fields = request_fields(config.request)
        template = self.request_fields.get("chat_template_kwargs")
        self.haystacks = Haystacks(load_tokenizer(config.tokenizer_name), self.options, template=template)
        self.scorer = CompletionScorer(self.options, opened_thinking(self.haystacks.tokens.frame(PLACEHOLDER)[1]))
        self.episodes = Episodes.of(config, self.haystacks.tokens, self._ask, self.scorer.said)
        self._probe()
        self.servers = [server_config(server, config.tokenizer_name) for server in servers]
        config = config.model_copy(update={"eval_handling": EvalHandlingEnum(config.eval_handling.value)})
        # Given a path, atroposlib would open the file, and leave it empty when the run fails before its first group.
        super().__init__(config.model_copy(update={"data_path_to_save_groups": None}), self.servers, slurm, testing)
        self.config = config
        follow_proxies(config.rollout_server_url)
        self.endpoints = [Endpoint(server, self.haystacks.tokens.tokenizer) for server in self.server.servers]
        self.next_index = self.failures = 0
        self.rejection: RequestRejected | None = None  # by the model's server
        self.session: ServeSession | None = None  # while serving
        self.rollout_log = wandb_log.RolloutLog(config)
        self.first_replies = FirstReplies(config.max_new_tokens)
        self._building = threading.Lock()
        self.curriculum = Curriculum(self._ladders()) if config.curriculum else None
        self.curriculum_state: JsonObject = {}

    def _probe(self) -> None:
        requests.probe(self.haystacks, self.grid, "train", self._given)
        if self.episodes:
            task, longest = self.grid.tasks[0], max(self.grid.lengths)
            self.episodes.probe(self._haystacks_of(task).sample(0, "train", task_of(task).name, longest))

    def _haystacks_of(self, task: str) -> Haystacks:
        """Return the builder of samples of a task by the name in the settings: a benchmark's has options of its own."""
        return haystacks_of(self.haystacks, task, self._given)

    def commands(self) -> Mapping[str, Callable[[], Coroutine[None, None, None]]]:
        """Return what each command runs, by its name."""
        return {"process": self.process_manager, "evaluate": self._run_evaluate, "serve": self.env_manager}

    async def setup(self) -> None:
        """Ask every server whether it is there. Raises `ConfigError` if one is not."""
        for server in self.servers:
            await check_server(server, self.longest_sequence())
        gc.freeze()  # a hundred thousand objects of imported modules, looked through by every collection on the loop

    @property
    def model_name(self) -> str:
        """Name of the model that writes the completions."""
        return str(self.servers[0].model_name)

    @property
    def serving(self) -> bool:
        """Whether `serve` is running."""
        return self.session is not None

    def longest_sequence(self) -> int:
        """Tokens of the longest prompt with its longest completion, or of the longest episode of reading."""
        if self.episodes:
            return self.episodes.longest(self.config.max_new_tokens)
        return max(self.grid.lengths) + self.config.max_new_tokens

    def sampling_in_force(self, temperature: float) -> str:
        """Return in words the sampling parameters of requests of that temperature, as far as the server takes them."""
        return self.endpoints[0].form.in_force(temperature, self.request_fields)

    def run_digest(self) -> str:
        """Return hex digits that name a run by the settings that shape its rows: neither paths nor how many at a time."""
        config = self.config.model_dump(mode="json")
        own = set(type(self.config).model_fields) - set(AtroposSettings.model_fields) - self.not_shaping
        shaping = {name: config[name] for name in config if name in own or "reasoning" in name or "thinking" in name}
        shaping |= {"group_size": config["group_size"], "model": self.model_name, "env": self.name}
        for name in LATER_SETTINGS:  # at their default a run is named as it was before there was the setting
            if config[name] == HaystackEnvConfig.model_fields[name].default:
                del shaping[name]
        if variants := {task: asdict(self._haystacks_of(task).options) for task in self.grid.tasks if task in VARIANTS}:
            shaping["variants"] = variants
        shaping["token_exact"] = self.servers[0].server_type in TOKEN_SERVERS
        return row_log.digest({**without_later_defaults(shaping), "tokenizer": self.haystacks.tokens.fingerprint})

    # ---- rollouts ----

    def request(self, index: int) -> RolloutRequest:
        """Return request number `index` of a run; its task and length follow from the settings and this number."""
        return requests.training_request(self.config, self.grid, index)

    def evaluation_requests(self) -> list[RolloutRequest]:
        """Return the requests of one evaluation, one for each sample."""
        return requests.evaluation_requests(self.config, self.grid)

    def sample(self, request: RolloutRequest) -> Sample:
        """Return the request's sample. Runs in worker threads; builds one sample at a time."""
        with self._building:
            haystacks = self._haystacks_of(request.task)
            if request.difficulty:
                haystacks = haystacks.variant(task_ladders.options(self.options, request.difficulty))
            depths = None if request.depth is None else [request.depth]
            return haystacks.sample(request.seed, request.split, task_of(request.task).name, request.length, depths)

    def build(self, request: RolloutRequest) -> tuple[Sample, list[int]]:
        """Return the request's sample and its prompt's token ids. Runs in worker threads."""
        sample, tokens = self.sample(request), self.haystacks.tokens
        return sample, tokens.encode_prompt(tokens.render(sample.messages), sample.length)

    async def rollout(self, request: RolloutRequest, n: int) -> RolloutGroup:
        """Build the request's sample, and return it with `n` scored completions of its prompt. Raises `CompletionError`."""
        if self.episodes:
            return await self._read(self.episodes, request, n)
        sample, prompt = await asyncio.to_thread(self.build, request)
        completions = await self._complete(self.endpoints, sample, prompt, request.split, n)
        scores = await asyncio.to_thread(self.scorer.scores, sample, completions)
        return RolloutGroup(request, sample, prompt, completions, scores)

    async def _complete(  # noqa: PLR0913
        self, endpoints: Sequence[Endpoint], sample: Sample, prompt: list[int], split: str, n: int, model: str = ""
    ) -> list[Completion]:
        """Return `n` completions of the sample's messages by one of the endpoints, of `model` where that is another."""
        limit, temperature = self.config.max_new_tokens, self._temperature(split)
        asked = CompletionRequest(sample.messages, prompt, limit, temperature, split, self.request_fields, model)
        completions = await request_group(endpoints, asked, n)
        self.first_replies.add(completions)
        return completions

    def _temperature(self, split: str) -> float:
        return self.config.temperature if split == "train" else self.config.eval_temperature

    async def _read(self, episodes: Episodes, request: RolloutRequest, n: int) -> RolloutGroup:
        """Do the same by episodes of reading; what is scored of each is its answer."""
        sample = await asyncio.to_thread(self.sample, request)
        temperature = self._temperature(request.split)
        sampling = Sampling(self.config.max_new_tokens, temperature, request.split, self.request_fields)
        # A trainer takes sequences below its maximum.
        window = self.max_token_len - 1 if self.serving and self.max_token_len > 0 else 0
        prompt, completions, transcripts = await episodes.run(sample, sampling, n, window)
        self.first_replies.add(completions)
        answers = [replace(c, text=t.answer) for c, t in zip(completions, transcripts, strict=True)]
        scores = await asyncio.to_thread(self.scorer.scores, sample, answers)
        return RolloutGroup(request, sample, prompt, completions, scores, transcripts)

    async def _ask(self, request: CompletionRequest, n: int) -> list[Completion]:
        return await request_group(self.endpoints, request, n)

    async def process_manager(self) -> None:
        """Run `process`."""
        await process(self)

    async def evaluate(self, *args: object, **kwargs: object) -> None:
        """Run one evaluation."""
        await evaluate(self)

    async def env_manager(self) -> None:
        """Run `serve`. Raises `ConfigError` for questions without their text, from which nothing is learned."""
        if self.options.no_context:
            raise ConfigError(
                "no_context is a control for evaluate and process; serve would train on guesses", setting="no_context"
            )
        if self.episodes:
            self.episodes.check_serving(token_exact=self.servers[0].server_type in TOKEN_SERVERS)
        self.session = ServeSession(self)
        await self.session.run(super().env_manager)

    async def get_next_item(self) -> RolloutRequest:
        """Return the next request of the run; under a curriculum, at the difficulty that it draws.

        Raises `RunError` after too many failures in a row, and the server's rejection once it rejects all requests.
        """
        if self.rejection:
            raise self.rejection
        if self.failures > self.config.max_failures:
            raise RunError(
                f"stopped after {self.failures} failed items in a row, more than {self.config.max_failures}",
                setting="max_failures",
            )
        request = self.request(self.next_index)
        if self.curriculum:
            rng = Random(f"{self.config.seed} lesson {self.next_index}")
            task, counted_task, difficulty = task_ladders.draw(self.curriculum, self.grid.tasks, self.next_index, rng)
            request = replace(
                request, task=task, length=difficulty.length, difficulty=difficulty, counted_task=counted_task
            )
        self.next_index += 1
        return request

    async def collect_trajectories(self, item: RolloutRequest) -> tuple[ScoredGroup | None, list[RolloutRequest]]:
        """Return a scored group for the trainer, or None, which Atropos takes for a failure; no request is put back."""
        try:
            group = await self.rollout(item, self.config.group_size)
            scores = [finite(s.score) for s in group.scores]
        except Exception as error:  # whatever it is: atroposlib would log it and go on for ever
            self.failures += 1
            self.rollout_log.fail()
            self.rejection = error if isinstance(error, RequestRejected) else None
            expected = isinstance(error, EXPECTED_ERRORS)
            logger.warning("item %s failed: %s", item.index, failure_line(error), exc_info=not expected)
            return None, []
        self.failures = 0  # in a row
        self.rollout_log.add(group)
        if self.curriculum and item.difficulty:
            self.curriculum.record(item.counted_task, item.difficulty, sum(scores) / len(scores))
        # SGLang's log-probabilities are after temperature; vLLM's, and ours, before it.
        sampling = {"temperature": self.config.temperature}
        more = {"generation_params": sampling} if self.servers[0].server_type == "sglang" else {}
        return ScoredGroup(group, **more), []

    async def handle_send_to_api(
        self, scored_data: JsonObject | ScoredGroup, item: RolloutRequest, *args: object, **kwargs: object
    ) -> None:
        """Keep the group's row, and send it to run-api if a trainer can learn from it."""
        if self.session:
            await self.session.deliver(scored_data, item)

    async def register_env(self) -> None:
        """Register with run-api; groups may then be sent."""
        await super().register_env()
        if self.session:
            self.session.sender.connected.set()

    async def get_status(self) -> None:
        """Ask run-api for its status, as Atropos does ten times a second."""
        await (self.session.poll(super().get_status) if self.session else super().get_status())

    async def get_server_info(self) -> None:
        """Ask run-api what the trainer wants. Raises `ConfigError` if it would never get a batch."""
        try:
            await super().get_server_info()
        except ValueError as error:
            raise ConfigError(str(error)) from None
        # An episode that outgrows the trainer's window ends: only what opens it must fit.
        longest = self.episodes.shortest(self.config.max_new_tokens) if self.episodes else self.longest_sequence()
        check_trainer(self.config, self.max_token_len, longest, self.servers[0].server_type)

    async def wandb_log(self, wandb_metrics: JsonObject | None = None) -> None:
        """Log the numbers of the rollouts since the last call, and of the curriculum, to W&B."""
        curriculum = self.curriculum.metrics() if self.curriculum else {}
        await super().wandb_log({**(wandb_metrics or {}), **self.rollout_log.metrics(), **curriculum})

    async def create_rollout_table(self, wandb_metrics: JsonObject) -> JsonObject:
        """Return the metrics to log with the table of rollouts and the heatmap added, if W&B is on."""
        return wandb_metrics | (await asyncio.to_thread(self.rollout_log.media) if self.config.use_wandb else {})

    def state(self) -> JsonObject:
        """Return what a later run goes on from: the number of the next request, and the curriculum's state."""
        curriculum = {"curriculum_state": self.curriculum.state()} if self.curriculum else {}
        return {"next_index": self.next_index, **curriculum}

    def restore(self, state: JsonObject) -> None:
        """Continue with the next request and the curriculum of a `state`."""
        for name, value in state.items():
            setattr(self, name, value)
        if self.curriculum and self.curriculum_state:
            self.curriculum = Curriculum.restore(self.curriculum_state, self._ladders())
            for note in self.curriculum.notes:
                logger.warning("curriculum: %s", note)

    def save_checkpoint(self, step: int, data: JsonObject | None = None) -> None:
        """Save the state of the run; atroposlib saves nothing of its own."""
        super().save_checkpoint(step, {**(data or {}), **self.state()})

    def load_checkpoint(self) -> None:
        """Load a checkpoint, and continue with its next request and its curriculum."""
        super().load_checkpoint()  # sets every saved key as an attribute
        self.restore({})

    def _ladders(self) -> dict[str, Ladder]:
        least, most = self.options.bounds("hops")
        hops = tuple(range(least, most + 1))
        return task_ladders.ladders(self.config, self.grid.tasks, self.grid.lengths, hops)
