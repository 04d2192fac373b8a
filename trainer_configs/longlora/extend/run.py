"""Runs a plan: rows of all stages, the models before, each stage's training, merge and evaluation, and the report.

OUT/
  run.json                   the settings; another run is refused
  chats.jsonl                general questions with the model's own replies, for the rows, unless they were given
  untrained/                 the model with its RoPE extended, weights linked
  N-KIND-LENGTH/             a stage: rows (or rollouts and pairs), recipe.yaml, train.log, adapter, merged, stage.json
  evaluation/                samples of every model, by kind of question
  report/ results.json       what came out

Each part is left alone where it is there already, so the same command goes on where it was cut; a training goes on at its
last checkpoint.
"""

import json
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path

from transformers import AutoConfig

from environments.datasets.export import MIN_MARGIN, ExportJob, Kind, export
from environments.datasets.reader_rows.chats import ask
from environments.datasets.select import SelectionRules
from environments.haystack.tokens import load_tokenizer
from environments.inference.contracts import ServerAddress
from longthread.counts import counted
from longthread.errors import ConfigError, DataError, RunError
from longthread.files import JsonObject, read_jsonl, replacing_folder, write_json
from trainer_configs.longlora.adapter import TEMPLATES, TOKENIZER
from trainer_configs.longlora.config import configure
from trainer_configs.longlora.data.reader_build import Build, build
from trainer_configs.longlora.data.run_folder import STATS, check_same
from trainer_configs.longlora.extend.axolotl_run import (
    StageConfig,
    Training,
    drop_cut_checkpoints,
    pairs_of,
    rows_of,
)
from trainer_configs.longlora.extend.evaluation import evaluate, free_memory, measure_perplexity
from trainer_configs.longlora.extend.plan import LINK, Plan, Stage, read_recipe
from trainer_configs.longlora.extend.report import write_report
from trainer_configs.longlora.merge import lines, merge
from trainer_configs.longlora.rope.extension import extended

RUN, STAGE, CHATS = "run.json", "stage.json", "chats.jsonl"
BEFORE, UNTRAINED = "before", "untrained"
PAIR_TOKENS = 8192  # tokens of the longest pairs: short ones are enough behind long rows, and two models read each


@dataclass
class ExtendRun:
    """One run of a plan in its folder."""

    plan: Plan
    out: Path
    skipped: dict[str, str] = field(default_factory=dict)  # stage -> why it was not trained

    def run(self) -> Path:
        """Do all of it; return the folder of the last model. Raises `ConfigError` or `RunError`."""
        self._check_chats()
        self._begin()
        for stage in self.plan.stages:
            if stage.kind != "dpo":
                self._make_rows(stage)
        self._check_first()
        evaluate(self.plan, self.out, BEFORE, self.plan.model, self.plan.native, taught=False)
        measure_perplexity(self.plan, self.out, BEFORE, self.plan.model, self.plan.native)
        model = self.plan.model
        for stage in self.plan.stages:
            model = self._train(stage, model)
            if stage.name not in self.skipped:
                evaluate(self.plan, self.out, stage.name, model, stage.length, taught=True)
            self._report()
        last = [stage.name for stage in self.plan.stages if stage.name not in self.skipped][-1]
        measure_perplexity(self.plan, self.out, last, model, self.plan.settings.to)
        self._report()
        if self.plan.settings.untrained:
            # Last, as it takes as long as what was trained and says least: at lengths that it never saw it writes to no end.
            untrained = self._untrained()
            evaluate(self.plan, self.out, UNTRAINED, untrained, self.plan.settings.to, taught=False)
            measure_perplexity(self.plan, self.out, UNTRAINED, untrained, self.plan.settings.to)
            self._report()
        return model

    def _begin(self) -> None:
        """Write the settings, or see that the folder is this run's. Raises `ConfigError`."""
        settings = asdict(self.plan.settings)
        del settings["num_proc"], settings["untrained"]
        run: JsonObject = json.loads(json.dumps(settings, default=str))
        path = self.out / RUN
        if path.is_file():
            check_same(self.out, json.loads(path.read_text()), run)
        elif self.out.exists() and any(self.out.iterdir()):
            raise ConfigError(f"{self.out} exists and holds something else: give a new or empty folder")
        else:
            write_json(path, run)

    def _check_chats(self) -> None:
        """Raise `ConfigError` for given conversations that some stage's rows cannot hold."""
        if file := self.plan.settings.chat_rows:
            for stage in self.plan.stages:
                if stage.kind != "dpo":
                    self._build(stage, file).maker().check_chats()

    def _build(self, stage: Stage, chats: Path | None) -> Build:
        rows, settings = self.out / stage.name / "rows", self.plan.settings
        return Build(
            self.plan.row_settings(stage), rows, str(self.plan.model), settings.texts, chats, settings.num_proc
        )

    def _make_rows(self, stage: Stage) -> None:
        chats, settings = self.plan.settings.chat_rows, self.plan.settings
        if settings.chats and not chats:
            chats = self.out / CHATS
            if not (self.out / stage.name / "rows" / STATS).is_file():
                self._ask_chats(chats)
        build(self._build(stage, chats), progress=True)

    def _ask_chats(self, path: Path) -> None:
        """Have the model answer general questions, as it is. Raises `ConfigError` for one that does not end its replies."""
        from environments.inference.embedded.server import background

        settings = self.plan.settings
        with background(self.plan.model, model_name=BEFORE) as url:
            try:
                ask(ServerAddress(url, "", BEFORE), settings.chats, settings.seed, path, progress=True)
            except DataError:
                raise ConfigError(
                    f"{settings.model} ends hardly any reply to a general question: give an instruct model, or --chats 0, "
                    "and a new folder",
                    setting="chats",
                ) from None
        free_memory()

    def _check_first(self) -> None:
        """Have the plugin check the first stage's recipe before anything is trained. Raises `ConfigError`."""
        stage = self.plan.stages[0]
        config = self._config(stage, self.plan.model, rows_of(self.out / stage.name / "rows"))
        configure(config.of(self._recipe(stage)))

    def _untrained(self) -> Path:
        """Return a folder with the model's weights, linked, and the config that the last extension gives it."""
        folder = self.out / UNTRAINED
        if folder.is_dir():
            return folder
        config = AutoConfig.from_pretrained(self.plan.model)
        for stage in self.plan.stages:
            if stage.kind == "extend":
                for name, value in extended(config, target_length=stage.length, **self.plan.settings.extension).items():
                    setattr(config.get_text_config(), name, value)
        with replacing_folder(folder) as draft:
            config.save_pretrained(draft)
            for pattern in (*TOKENIZER, *TEMPLATES, "generation_config.json"):
                for path in self.plan.model.glob(pattern):
                    target = draft / path.relative_to(self.plan.model)
                    target.parent.mkdir(exist_ok=True)
                    shutil.copyfile(path, target)
            for path in self.plan.model.glob("*.safetensors*"):
                (draft / path.name).symlink_to(path.resolve())
        return folder

    # ---- a stage ----

    def _train(self, stage: Stage, base: Path) -> Path:
        """Train and merge a stage; return its model, or `base` where there was nothing to learn from."""
        folder = self.out / stage.name
        merged = folder / "merged"
        if (folder / STAGE).is_file():
            stated: JsonObject = json.loads((folder / STAGE).read_text())
            if reason := stated.get("skipped"):
                self.skipped[stage.name] = reason
            return base if reason else merged
        datasets = rows_of(folder / "rows")
        if stage.kind != "dpo":
            rows = self.plan.row_settings(stage)
            count, stage = rows.rows, stage._replace(rows=rows.count + rows.pose)
        else:
            count, reason = self._make_pairs(stage, base)
            if not count:
                self.skipped[stage.name] = reason
                write_json(folder / STAGE, {**stage._asdict(), "skipped": self.skipped[stage.name]})
                return base
            datasets = pairs_of(folder / "pairs.jsonl")
        config = self._config(stage._replace(rows=count), base, datasets)
        made = config.of(self._recipe(stage))
        for name in drop_cut_checkpoints(folder / "adapter"):
            print(f"{stage.name}: {name} was cut off while it was written, and is removed", flush=True)
        print(f"{stage.name}: {counted(made['max_steps'], 'step')}, see {folder / 'train.log'}", flush=True)
        training = Training(config.write(self._recipe(stage)), folder / "train.log").start()
        if error := training.wait():
            tail = next(
                (line for line in reversed((folder / "train.log").read_text().splitlines()) if line.strip()), ""
            )
            raise RunError(f"{stage.name}: {error}: {tail.strip()[:200]}")
        if not merged.is_dir():
            result = merge(folder / "adapter", merged, base=str(base), dtype="float32")
            print(*lines(result), sep="\n", flush=True)
        figures = training.figures() | {"steps": made["max_steps"]}  # those before a checkpoint, too
        write_json(folder / STAGE, {**stage._asdict(), "learning_rate": made["learning_rate"], **figures})
        return merged

    def _config(self, stage: Stage, base: Path, datasets: list[JsonObject]) -> StageConfig:
        settings = self.plan.settings
        section: JsonObject = {"context_extension": None, "attention": "full"}
        more: JsonObject = {}
        if stage.kind == "extend":
            section = {"context_extension": settings.extension | {"target_length": stage.length}}
            section |= {"attention": settings.attention} if settings.attention else {}
            attention = settings.attention or self._recipe(stage)["longlora"].get("attention")
            if settings.pose and attention == "tail_global":
                # A chunk then holds a short row whole: one call of attention, in which nothing is cut off.
                section["group_size"] = self.plan.pose_length // 2 * 2
        if stage.kind == "dpo":
            more = {"rl": "dpo"}
        rate = settings.learning_rate if stage.kind != "dpo" else None
        return StageConfig(
            base, self.out / stage.name, datasets, stage.length, stage.rows, stage.rate, rate, settings.seed, section, more
        )  # fmt: skip

    def _recipe(self, stage: Stage) -> JsonObject:
        settings = self.plan.settings
        if stage.kind == "dpo":
            return read_recipe(settings.dpo_recipe, "dpo_recipe")
        return read_recipe(settings.recipe, "recipe")

    def _make_pairs(self, stage: Stage, model: Path) -> tuple[int, str]:
        """Write rollouts of the model and pairs of its good and bad replies; return how many pairs, or why there is none."""
        folder = self.out / stage.name
        rollouts, pairs = folder / "rollouts.jsonl", folder / "pairs.jsonl"
        if not pairs.is_file():
            if not rollouts.is_file() or sum(1 for _ in read_jsonl(rollouts)) < stage.rows:
                self._write_rollouts(stage, model, rollouts)
            rules = SelectionRules(per_sample=1, min_margin=MIN_MARGIN, seed=self.plan.settings.seed)
            outcome = export(ExportJob(Kind.DPO, (rollouts,), pairs, rules, load_tokenizer(str(model))))
            if not outcome.written:
                dropped = ", ".join(f"{count} {reason}" for reason, count in outcome.dropped.items() if count)
                return 0, f"no two replies to a prompt made a pair: of {outcome.read} replies {dropped} were dropped"
        return sum(1 for _ in read_jsonl(pairs)), ""

    def _write_rollouts(self, stage: Stage, model: Path, path: Path) -> None:
        from environments.cli import Command
        from environments.config import HaystackEnvConfig, ServerSettings
        from environments.inference.embedded.server import background
        from environments.needle_env import NeedleEnv

        config = HaystackEnvConfig(
            tokenizer_name=str(model),
            tasks="single,multi_key,chain",
            **LINK,
            lengths=",".join(str(length) for length in self._pair_lengths()),
            total_steps=stage.rows,
            seed=self.plan.settings.seed,
            data_path_to_save_groups=str(path),
        )
        with background(model, model_name=stage.name) as url:
            NeedleEnv.run(Command("process", config, [ServerSettings(base_url=url, model_name=stage.name)]))
        free_memory()

    def _pair_lengths(self) -> list[int]:
        return [length for length in self.plan.lengths if length <= PAIR_TOKENS] or [min(self.plan.lengths)]

    # ---- the report ----

    def _report(self) -> None:
        stages = []
        for stage in self.plan.stages:
            if (path := self.out / stage.name / STAGE).is_file():
                stages.append({"name": stage.name, **json.loads(path.read_text())})
        write_report(self.plan, self.out, [BEFORE, UNTRAINED], stages)
