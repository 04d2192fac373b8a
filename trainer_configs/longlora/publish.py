"""Publish the model of a run of `longlora extend`: a folder with its card, and on request a repository of the hub.

    longthread longlora publish RUN                              # RUN/publish: the model, README.md, pictures, results.json
    longthread longlora publish RUN --push-to-hub OWNER/NAME     # and uploads it; log in with `hf auth login` before

The card says what was done and measured: the base, the window and its RoPE parameters, the line that serves it with vLLM, the
figures of all models of the run with their pictures, and each stage's recipe. Paths of this machine are left out.
"""

import json
import shlex
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from longthread.command_line import App
from longthread.counts import counted
from longthread.errors import ConfigError, RunError, exit_on_error, option
from longthread.files import JsonObject, replacing_folder, write_text
from trainer_configs.longlora.by_position import perplexity_of

if TYPE_CHECKING:
    from huggingface_hub import ModelCard

TEMPLATE = Path(__file__).with_name("card.jinja")
CARD = "README.md"
TAGS = ("long-context", "longlora", "longthread")
# Settings that the command of a card states otherwise, which hold a path, or decide nothing of what was trained.
NOT_STATED = {"model", "recipe", "gradual", "texts", "dpo_recipe", "held_out"}
NOT_STATED |= {"chat_rows", "lengths", "depths", "repeats", "untrained", "num_proc"}
OWN_PATHS = ("dataset_prepared_path", "output_dir")  # of a recipe: of no use to a reader


class Finished:
    """A run of `extend` that has ended: its results, and the folder of its last model. Raises `ConfigError`."""

    def __init__(self, run: Path):
        path = run / "results.json"
        try:
            self.results: JsonObject = json.loads(path.read_text())
            self.settings: JsonObject = self.results["settings"]
        except (OSError, ValueError, KeyError):
            raise ConfigError(f"{run} is not the folder of a run of longlora extend: it has no results.json") from None
        self.run = run
        self.trained = [stage for stage in self.results["stages"] if "skipped" not in stage]
        reported = {stage["name"] for stage in self.results["stages"]}
        unfinished = [folder for folder in run.glob("[0-9]*-*") if folder.name not in reported]
        if unfinished or not self.trained:
            raise ConfigError(f"{run} is not finished: run longthread longlora extend again, which goes on")
        self.model = run / self.trained[-1]["name"] / "merged"
        if not (self.model / "config.json").is_file():
            raise ConfigError(f"{self.model} is not there: it was the model of the last stage")

    def recipe(self, stage: str) -> str:
        """Return a stage's YAML without paths of this machine."""
        import yaml

        recipe = yaml.safe_load((self.run / stage / "recipe.yaml").read_text())
        for name in OWN_PATHS:
            recipe.pop(name, None)
        first = stage == self.trained[0]["name"]
        recipe["base_model"] = self.base if first else f"the model of the stage before ({self._before(stage)})"
        for dataset in recipe["datasets"]:
            dataset["path"] = Path(dataset["path"]).name
        return str(yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True)).rstrip()

    def _before(self, stage: str) -> str:
        names = [trained["name"] for trained in self.trained]
        return str(names[names.index(stage) - 1])

    @property
    def base(self) -> str:
        """Return the base model's name; of a folder on this machine its last part."""
        given = str(self.settings["model"])
        return Path(given).name if Path(given).is_dir() or given.startswith((".", "/", "~")) else given

    @property
    def command(self) -> str:
        """Return the command that made the run, without the paths of this machine."""
        s = self.settings
        words = ["longthread", "longlora", "extend", "OUT", "--model", self.base, "--recipe", Path(s["recipe"]).name]
        words += ["--gradual"] * s["gradual"]
        for name, value in s.items():
            if name not in NOT_STATED and value not in (None, ""):
                words += [option(name), str(value)]
        words += ["--texts", "TEXTS"] if s["texts"] else []
        words += ["--chat-rows", "CHATS"] if s.get("chat_rows") else []  # older runs have none
        return shlex.join(words)


def publish(run: Path, out: Path, name: str, base_model: str = "", license_name: str = "") -> Path:
    """Write the folder to publish: the model, its card, pictures and results. Raises `ConfigError` before any work."""
    finished = Finished(run)
    if out.exists():
        raise ConfigError(f"{out} exists: give a new folder", setting="out")
    made = card(finished, name, base_model, license_name)
    with replacing_folder(out) as draft:
        shutil.copytree(finished.model, draft, dirs_exist_ok=True)
        for picture in pictures(finished):
            shutil.copyfile(run / "report" / picture, draft / picture)
        shown = {key: value for key, value in finished.results.items() if key != "settings"}
        write_text(draft / "results.json", json.dumps(shown, indent=1) + "\n")
        write_text(draft / CARD, str(made))
    return out


def pictures(finished: Finished) -> list[str]:
    """Return the names of the pictures that the run's report has."""
    from trainer_configs.longlora.extend.report import CAPTIONS, CURVES

    return [
        name for name in (*(f"{kind}.png" for kind in CAPTIONS), CURVES) if (finished.run / "report" / name).is_file()
    ]


def card(finished: Finished, name: str, base_model: str = "", license_name: str = "") -> "ModelCard":
    """Return the model's card. `base_model`: its name on the hub, where the run was given a folder."""
    from huggingface_hub import ModelCard, ModelCardData
    from transformers import AutoConfig

    from trainer_configs.longlora.extend.report import table
    from trainer_configs.longlora.rope.serving import serving

    config = AutoConfig.from_pretrained(finished.model)
    served = serving(config, name)
    text = config.get_text_config()
    given = base_model or (finished.base if "/" in finished.base else "")
    data = ModelCardData(
        base_model=given or None, license=license_name or None, library_name="transformers",
        pipeline_tag="text-generation", tags=list(TAGS),
    )  # fmt: skip
    static = text.rope_parameters.get("rope_type") not in ("default", None)
    short = "short rows are read with them too, and may come out otherwise than in the base model."
    filled: dict[str, Any] = {
        "name": name.rpartition("/")[2],
        "base": given or finished.base,
        "native": f"{finished.results['native']:,}",
        "window": f"{text.max_position_embeddings:,}",
        "method": finished.settings["method"],
        "serve": served.command,
        "serve_notes": served.notes,
        "rope": json.dumps(text.rope_parameters, indent=1),
        "short_note": short if static else f"a larger theta, and no scaling type. {short.capitalize()}",
        "table": table(finished.results).rstrip(),
        "pictures": pictures(finished),
        "absent": _absent(finished),
        "perplexity": _perplexity(finished.results["perplexity"]),
        "data": _data(finished),
        "recipes": [(stage["name"], finished.recipe(stage["name"])) for stage in finished.trained],
        "command": finished.command,
    }
    return ModelCard.from_template(data, template_path=str(TEMPLATE), **filled)


def _data(finished: Finished) -> str:
    s = finished.settings
    rows = sum(stage["rows"] for stage in finished.trained if stage["kind"] == "extend")
    texts = "public-domain texts and generated fiction" if s["texts"] else "generated fiction"
    said = (
        f"Rows of longthread's environments in {texts}: {counted(rows, 'row')}, {s['tokens']:,} tokens at most, with up to "
        f"{counted(s['questions'], 'question')} a row about facts that were made up; "
        f"{100 * s['ordinary']:g} % of the rows are plain text."
    )
    if s.get("pose"):  # a run made before there was the setting has none
        said += f" {100 * s['pose']:g} % of the tokens stand in short rows whose positions skip ahead (PoSE)."
    if s.get("lexical_gap"):
        said += (
            f" {100 * s['lexical_gap']:g} % of the questions about facts and links describe their person in other words than "
            "the text does (lexical gap)."
        )
    kinds = [stage["kind"] for stage in finished.trained]
    return (
        said
        + " Then SFT on questions of all kinds." * ("sft" in kinds)
        + " Then DPO on its own rollouts." * ("dpo" in kinds)
    )


def _absent(finished: Finished) -> str:
    shares = {name: share for name, share in finished.results["absent"].items() if share}
    if finished.trained[-1]["name"] not in shares:
        return ""
    last = shares[finished.trained[-1]["name"]]
    return f"Of {last['n']} questions whose answer is not in the text, it answered {100 * last['mean']:.0f} % all the same."


def _perplexity(curves: JsonObject) -> str:
    """Return the perplexities as a Markdown table, a row a model."""
    if not curves:
        return ""
    buckets = next(iter(curves.values()))
    head = ["model", *(f"{bucket['start']:,}–{bucket['end']:,}" for bucket in buckets)]
    rows = [head, ["---"] * len(head)]
    rows += [[name, *(f"{perplexity_of(b['nll']):.2f}" for b in curve)] for name, curve in curves.items()]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def push(folder: Path, repository: str, private: bool) -> str:
    """Upload a published folder to a repository of the hub; return its address. Raises `RunError`."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi()
    try:
        url = api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=folder, commit_message="A longer window, by longthread")
    except (HfHubHTTPError, OSError) as error:
        raise RunError(f"the hub did not take {repository}: {str(error).strip().splitlines()[0][:200]}") from None
    return str(url)


def check_hub(repository: str) -> None:
    """Raise `ConfigError` for a repository that cannot be pushed to."""
    from huggingface_hub import constants, get_token
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise ConfigError(str(error).splitlines()[0], setting="push_to_hub") from None
    if "/" not in repository:
        raise ConfigError(f"must be OWNER/NAME (got {repository!r})", setting="push_to_hub")
    if constants.HF_HUB_OFFLINE:
        raise ConfigError("HF_HUB_OFFLINE is set: unset it to upload", setting="push_to_hub")
    if not get_token():
        raise ConfigError("no token of the hub on this machine: log in with hf auth login", setting="push_to_hub")


app = App(no_args_is_help=True, help="LongLoRA: publish.")


@app.command("publish")
def command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished run of longlora extend.")],
    out: Annotated[Path | None, typer.Option(help="A new folder; RUN/publish when left out.")] = None,
    push_to_hub: Annotated[str, typer.Option(help="OWNER/NAME of the repository to upload to.")] = "",
    private: Annotated[bool, typer.Option(help="A repository made now is private.")] = False,
    base_model: Annotated[str, typer.Option(help="The base's name on the hub, if the run had a folder.")] = "",
    license_name: Annotated[str, typer.Option("--license", help="Of the model: the base's, as a rule.")] = "",
) -> None:
    """Write the merged model with a card made from the run; on request upload it to the hub."""
    with exit_on_error(option):
        if push_to_hub:
            check_hub(push_to_hub)
        folder = out or run / "publish"
        publish(run, folder, push_to_hub or run.resolve().name, base_model, license_name)
        print(f"written: {folder} (card: {folder / CARD})")
        if push_to_hub:
            print(push(folder, push_to_hub, private))


@app.callback()
def main() -> None:
    """LongLoRA: publish."""
