"""Everything of an environment that faces Atropos, written once: `process`, `serve` and `evaluate`.

A subclass gives itself a name and default tasks. The traps of atroposlib 0.4.0 that are dealt with here are listed, each
with its test, in `docs/atropos-traps.md`.
"""

import asyncio
import contextlib
import gc
import logging
import threading
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from random import Random
from typing import Any

from atroposlib.envs.base import APIServerConfig, BaseEnvConfig, EvalHandlingEnum

from environments import cli as env_cli
from environments.atropos.serve import ScoredGroup, ServingEnv
from environments.config import SEEDS, HaystackEnvConfig, check
from environments.curriculum import task_ladders
from environments.curriculum.policy import Curriculum, Ladder
from environments.haystack.layout import LayoutError
from environments.haystack.sample import Haystacks, Options, Sample, absent_twin
from environments.haystack.tasks.linked import LINKED, number_range
from environments.haystack.tokens import load_tokenizer
from environments.inference.completions import check_server, request_group
from environments.inference.endpoint import TOKEN_SERVERS, CompletionRequest, Endpoint, RequestRejected
from environments.reports import metrics as report_numbers
from environments.reports import report, wandb_log, wandb_run
from environments.rollouts import row_log
from environments.rollouts.rollout import RolloutGroup, RolloutRequest, finite
from environments.rollouts.runner import EXPECTED_ERRORS, Progress, Runner, failure_line
from environments.rollouts.scoring import score
from longthread.errors import ConfigError, RunError
from longthread.files import read_jsonl

logger = logging.getLogger(__name__)


class HaystackEnv(ServingEnv):
    """Base of the needle environments. Subclasses set `name` and may override `default_config`."""

    env_config_cls = HaystackEnvConfig
    default_tasks = "single"

    @classmethod
    def config_init(cls) -> tuple[HaystackEnvConfig, list[APIServerConfig]]:
        config = cls.env_config_cls(
            tasks=cls.default_tasks,
            group_size=8,
            batch_size=-1,
            max_token_length=4096 + 128,
            tokenizer_name="",
            use_wandb=False,
            wandb_name=cls.name,
            include_messages=True,
            max_eval_workers=4,
            max_num_workers=4,
            steps_per_eval=0,
            eval_handling=EvalHandlingEnum.NONE,  # stopping training would throw away prompts already read
            worker_timeout=3600,  # a 128k prompt takes its time; atroposlib's 600 s are less than its own request limit
            total_steps=100,
        )
        # A list: anything else makes atroposlib ignore the URL. health_check would send a real request every second and
        # hang without a word when it fails.
        server = APIServerConfig(
            base_url="http://127.0.0.1:9001/v1", api_key="x", model_name="default", health_check=False, timeout=1800
        )
        return config, [server]

    @classmethod
    def cli(cls) -> None:
        env_cli.main(cls)

    @classmethod
    def atropos_cli(cls) -> None:
        super().cli()

    def __init__(self, config: Any, server_configs: Any, slurm: bool = False, testing: bool = False):
        servers = server_configs if isinstance(server_configs, list) else [server_configs]
        self.tasks, self.lengths, self.grid_depths = check(config, servers)
        wandb_run.check_login(config)
        self.options = Options(
            pool_tokens=max(Options.pool_tokens, 2 * max(self.lengths)),
            may_abstain=config.absent_share > 0 or any(task.startswith("absent") for task in self.tasks),
            **{f.name: getattr(config, f.name) for f in fields(Options) if f.name in type(config).model_fields},
        )
        self.haystacks = Haystacks(load_tokenizer(config.tokenizer_name), self.options)
        self._probe()
        out, config.data_path_to_save_groups = config.data_path_to_save_groups, None
        real = [
            s.model_copy(
                update={
                    "api_key": env_cli.secret(s.api_key),
                    "base_url": (s.base_url or "").rstrip("/"),  # atroposlib cuts "/v1" off the end
                    "tokenizer_name": config.tokenizer_name if s.tokenizer_name == "none" else s.tokenizer_name,
                }
            )
            for s in servers
        ]
        super().__init__(config, real, slurm, testing)  # would open the output file, and leave it empty on failure
        config.data_path_to_save_groups = out
        self.servers = real
        self.endpoints = [Endpoint(server, self.tokenizer) for server in self.server.servers]
        self.server_type = real[0].server_type
        self.token_exact = self.server_type in TOKEN_SERVERS
        self.next_index = self.failures = 0
        self.refusal = ""  # of the model's server
        self.rollout_log = wandb_log.RolloutLog(config)
        self._building = threading.Lock()
        self.curriculum = Curriculum(self._ladders()) if config.curriculum else None
        self.curriculum_state: dict[str, Any] = {}

    def _probe(self) -> None:
        """One sample of every task and length, so that what cannot work fails before any work starts."""
        for task in dict.fromkeys([*self.tasks, *map(absent_twin, self.tasks if self.options.may_abstain else [])]):
            for length in (min(self.lengths), max(self.lengths)):
                try:
                    self.haystacks.sample(0, "train", task, length)
                except LayoutError as error:
                    raise ConfigError(f"task {task} at {length} tokens: {error}") from None

    def longest_sequence(self) -> int:
        return max(self.lengths) + self.config.max_new_tokens

    # ---- items ----

    async def setup(self) -> None:
        for server in self.servers:
            await check_server(server)
        gc.freeze()  # a hundred thousand objects of imported modules, looked through by every collection on the loop

    def item(self, index: int, split: str = "train") -> RolloutRequest:
        """The `index`-th rollout item: task and length follow from the seed alone."""
        rng, share = Random(f"{self.config.seed} {split} {index}"), self.config.absent_share
        # Evenly spread, so that a short run has its share of absent facts and of every task too.
        lacking = int((index + 1) * share + 0.5) > int(index * share + 0.5)
        present = index - int(index * share + 0.5)  # counted apart: both counts over one index would fall into step
        task = self.tasks[(index - present if lacking else present) % len(self.tasks)]
        task = absent_twin(task) if lacking else task
        return RolloutRequest(index, self.config.seed * SEEDS + index, split, task, rng.choice(self.lengths))

    def grid_items(self) -> list[RolloutRequest]:
        """The evaluation grid: tasks x lengths x depths x repeats, and for each length its share of absent facts."""
        items: list[RolloutRequest] = []
        for length in self.lengths:
            cells: list[tuple[str, float | None, int]] = [
                (task, depth, repeat)
                for repeat in range(self.config.repeats)
                for task in dict.fromkeys(self.tasks)
                if not task.startswith("absent")
                for depth in dict.fromkeys(self.grid_depths)
            ]
            share = self.config.absent_share
            lacking = round(len(cells) * share / (1 - share))
            twins = list(dict.fromkeys(map(absent_twin, self.tasks)))
            if any(task.startswith("absent") for task in self.tasks):
                lacking = max(lacking, self.config.repeats * len(twins))
            cells += [(twins[i % len(twins)], None, i // len(twins)) for i in range(lacking)]
            for task, depth, repeat in cells:
                seed = self.config.seed * SEEDS + len(items)
                items.append(RolloutRequest(len(items), seed, "eval", task, length, depth, repeat))
        return items

    async def get_next_item(self) -> RolloutRequest:
        if self.refusal:
            raise RunError(self.refusal)
        if self.failures > self.config.max_failures:
            raise RunError(
                f"stopped after {self.failures} failed items in a row (--env.max_failures {self.config.max_failures})"
            )
        item = self.item(self.next_index)
        if self.curriculum:
            rng = Random(f"{self.config.seed} lesson {self.next_index}")
            task, counted_task, difficulty = task_ladders.draw(self.curriculum, self.tasks, self.next_index, rng)
            item = replace(item, task=task, length=difficulty.length, difficulty=difficulty, counted_task=counted_task)
        self.next_index += 1
        return item

    def save_checkpoint(self, step: int, data: dict | None = None) -> None:
        state: dict[str, Any] = {"next_index": self.next_index}
        if self.curriculum:
            state["curriculum_state"] = self.curriculum.state()
        super().save_checkpoint(step, {**(data or {}), **state})

    def load_checkpoint(self) -> None:
        super().load_checkpoint()  # sets every saved key as an attribute
        if self.curriculum and self.curriculum_state:
            self.curriculum = Curriculum.restore(self.curriculum_state, self._ladders())
            for note in self.curriculum.notes:
                logger.warning("curriculum: %s", note)

    def _ladders(self) -> dict[str, Ladder]:
        least, most = number_range(self.options.hops, 2, 8, "hops")
        return task_ladders.ladders(self.config, self.tasks, set(LINKED), self.lengths, tuple(range(least, most + 1)))

    # ---- rollouts ----

    def build(self, item: RolloutRequest) -> tuple[Sample, list[int]]:
        """The item's sample and the tokens of its prompt. Runs in worker threads; samples are made one at a time."""
        with self._building:
            depths = None if item.depth is None else [item.depth]
            haystacks = self.haystacks
            if item.difficulty:
                haystacks = haystacks.variant(task_ladders.options(self.options, item.difficulty))
            sample = haystacks.sample(item.seed, item.split, item.task, item.length, depths)
        tokens = self.haystacks.tokens
        return sample, tokens.encode_prompt(tokens.render(sample.messages), sample.length)

    async def rollout(self, item: RolloutRequest, n: int, split: str = "train") -> RolloutGroup:
        """`n` scored completions of one item. Raises `CompletionError`."""
        sample, prompt = await asyncio.to_thread(self.build, item)
        temperature = self.config.temperature if split == "train" else self.config.eval_temperature
        request = CompletionRequest(sample.messages, prompt, self.config.max_new_tokens, temperature, split)
        completions = await request_group(self.endpoints, request, n)
        evidence, form = sample.evidence if self.options.numbered else None, self.options.answer_format
        scores = await asyncio.to_thread(lambda: [score(c.text, sample.answer, form, evidence) for c in completions])
        return RolloutGroup(item, sample, prompt, completions, scores)

    async def collect_trajectories(self, item: RolloutRequest) -> tuple[ScoredGroup | None, list[RolloutRequest]]:
        try:
            rollout = await self.rollout(item, self.config.group_size)
            scores = [finite(s.score) for s in rollout.scores]
        except Exception as error:  # whatever it is: atroposlib would log it and go on for ever
            self.failures += 1
            self.rollout_log.fail()
            self.refusal = str(error) if isinstance(error, RequestRejected) else ""
            logger.warning(
                "item %s failed: %s", item.index, failure_line(error), exc_info=not isinstance(error, EXPECTED_ERRORS)
            )
            return None, []
        self.failures = 0  # in a row
        self.rollout_log.add(rollout)
        if self.curriculum and item.difficulty:
            self.curriculum.record(item.counted_task, item.difficulty, sum(scores) / len(scores))
        # SGLang's log-probabilities are after temperature; vLLM's, and ours, before it.
        heated = {"generation_params": {"temperature": self.config.temperature}} if self.server_type == "sglang" else {}
        return ScoredGroup(rollout, **heated), []

    async def wandb_log(self, wandb_metrics: dict | None = None) -> None:
        metrics = {**(wandb_metrics or {}), **self.rollout_log.metrics()}
        if self.curriculum:
            metrics |= self.curriculum.metrics()
        await super().wandb_log(metrics)

    async def create_rollout_table(self, wandb_metrics: dict) -> dict:
        return wandb_metrics | (await asyncio.to_thread(self.rollout_log.media) if self.config.use_wandb else {})

    # ---- process ----

    async def process_manager(self) -> None:
        """Groups of rollouts to a JSONL file and a page, several at a time; continues where a killed run stopped."""
        model = self.servers[0].model_name
        with wandb_run.start_run(self.config, "process", model, self.wandb_project, self.wandb_group) as run:
            await self.setup()
            items = [self.item(index) for index in range(self.n_groups_to_process)]
            out = Path(self.config.data_path_to_save_groups or f"data/{self.name}.jsonl")
            runner = self._runner("groups", self.max_num_workers, self.group_size_to_process, "train")
            runner.sample_group = self.rollout_log.counting(runner.sample_group, run)
            with row_log.RowLog(out, self.run_digest(), [item.index for item in items]) as store:
                try:
                    progress = await runner.run(items, lambda i: i.index, store, signals=True)
                finally:  # whatever ended it: what is there is shown
                    self.rollout_log.send(run, final=True)
                    print(f"rollouts  {store.path}")
                    page = store.path.with_suffix(".html")
                    with _on_a_full_disk(page):
                        report.write_rollouts_html(read_jsonl(store.path), page, title=f"{self.name}: rollouts")
                        print(f"viewer    {page}")
            print(f"{len(store.done)} of {len(items)} groups; {progress.summary()}")
            _stop_if_unfinished(progress, len(items), len(store.done))

    # ---- evaluate ----

    async def evaluate(self, *args: Any, **kwargs: Any) -> None:
        """The depth x length grid: samples.jsonl, metrics.json, grid.csv, the heatmap and a self-contained report."""
        model = self.servers[0].model_name
        with wandb_run.start_run(self.config, "evaluate", model, self.wandb_project, self.wandb_group) as run:
            items = self.grid_items()
            base = Path(self.config.data_dir_to_save_evals or Path("data") / f"{self.name}_evaluation")
            if self.serving:  # one folder a step
                base = base / f"step-{self.curr_step}"
            runner = self._runner("samples", self.config.max_eval_workers, 1, "eval")
            with row_log.RowLog(base / "samples.jsonl", self.run_digest(), [item.key for item in items]) as store:
                try:
                    progress = await runner.run(items, lambda i: i.key, store, signals=not self.serving)
                finally:
                    out = _folder_of(store.path, base)
                    with _on_a_full_disk(out):
                        await asyncio.to_thread(self._report, store.path, out, run)
            if not self.serving:  # an evaluation that lacks a sample does not end the training
                _stop_if_unfinished(progress, len(items), len(store.done))

    def _report(self, samples: Path, out: Path, run: Any) -> None:
        """What an evaluation shows of its samples: tables, pictures, pages and, if there is a run, W&B."""
        records, model = list(read_jsonl(samples)), self.servers[0].model_name
        if not records:
            return
        config = {**self.config.model_dump(mode="json"), "model": model}
        drawn = report.draw_report(records, f"{self.name}: {model}", config)
        paths = drawn.write(out)
        metrics = report_numbers.write_metrics(out / "metrics.json", records, model, self.config.wandb_name)
        print(report_numbers.summary_table(records))
        print(f"samples  {samples}\nmetrics  {out / 'metrics.json'}")
        print(f"heatmap  {paths.pictures['heatmap']}\nreport   {paths.html}")
        where = (self.wandb_prepend, self.curr_step) if self.serving else (None, None)
        wandb_log.log_evaluation(run, drawn, metrics, *where)

    # ---- running many ----

    def _runner(self, unit: str, workers: int, n: int, split: str) -> Runner:
        def to_row(rollout: RolloutGroup) -> dict[str, Any]:
            return rollout.row(self.config.store == "full") if split == "train" else rollout.record()

        return Runner(
            name=self.name,
            unit=unit,
            sample_group=lambda item: self.rollout(item, n, split),
            to_row=to_row,
            workers=workers,
            max_failures=self.config.max_failures,
        )

    def run_digest(self) -> str:
        """Names a run by what shapes its rows: neither paths nor how many at a time."""
        config = self.config.model_dump(mode="json")
        shaping = {
            name: config[name] for name in HaystackEnvConfig.model_fields if name not in BaseEnvConfig.model_fields
        }
        del shaping["max_failures"]
        shaping |= {name: config[name] for name in config if "reasoning" in name or "thinking" in name}
        shaping |= {"group_size": config["group_size"], "model": self.servers[0].model_name, "env": self.name}
        shaping["token_exact"] = self.token_exact
        return row_log.digest({**shaping, "tokenizer": self.haystacks.tokens.fingerprint})


@contextlib.contextmanager
def _on_a_full_disk(path: Path) -> Iterator[None]:
    """Pictures and pages can be made again from the rows; that they could not be written hides no other error."""
    try:
        yield
    except OSError as error:
        logger.warning("cannot write %s (%s); longthread report makes it from the rows", path, error.strerror)


def _folder_of(samples: Path, base: Path) -> Path:
    """Where the pictures of that samples file go: beside it, or in a folder of its own if its name was taken."""
    return base if samples.stem == "samples" else base / samples.stem


def _stop_if_unfinished(progress: Progress, wanted: int, done: int) -> None:
    if not progress.finished or done < wanted:
        print(f"{done} of {wanted} done, {progress.failed} failed; the same command continues where this one stopped")
        raise SystemExit(1)
