"""What each model of a run is asked: single needles at every depth and length, needles among others of their kind, questions
over one link, needles in other words where such are trained on, general questions without any text, and perplexity.

The models are served by the embedded server in this process, and asked by the environments' own `evaluate`, which goes on
where it was cut. A model that was shown no tags is asked for plain answers: what it finds counts, not the form it knows.
"""

import gc
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from environments.datasets import general_knowledge
from environments.inference.contracts import ServerAddress
from environments.reports.metrics import Record
from longthread.files import JsonObject, read_jsonl, write_json
from longthread.statistics import Share
from trainer_configs.longlora.extend.plan import LINK, REPLY_TOKENS, Plan, held_out_texts

ASKED: dict[str, JsonObject] = {  # settings of the evaluation of either kind
    "needles": {"tasks": "single"},
    "keys": {"tasks": "multi_key", "absent_share": 0.0},
    "links": {"tasks": "chain", "absent_share": 0.0, **LINK},
}
GAP: dict[str, JsonObject] = {"lexical_gap": {"tasks": "single", "absent_share": 0.0, "lexical_gap": True}}
PERPLEXITY_ROWS = 8


def kinds_asked(plan: Plan) -> dict[str, JsonObject]:
    """Return the settings of each kind of questions that the models of a run are asked."""
    return ASKED | GAP if plan.settings.lexical_gap else ASKED


def samples_of(out: Path, kind: str, name: str) -> Path:
    """Return the file of one model's answers."""
    return out / "evaluation" / kind / name / "samples.jsonl"


def records_of(out: Path, kind: str, name: str) -> list[Record]:
    """Return one model's answers; none where it was not asked."""
    path = samples_of(out, kind, name)
    return list(read_jsonl(path)) if path.is_file() else []


def evaluate(plan: Plan, out: Path, name: str, model: Path, window: int, taught: bool) -> None:
    """Ask one model whatever it was not asked yet, at the lengths that its window holds. `taught`: it knows the tags."""
    lengths = [length for length in plan.lengths if length + REPLY_TOKENS <= window]
    # A whole file of samples would not be gone on with: the same evaluation would begin another beside it.
    todo = {kind: asked for kind, asked in kinds_asked(plan).items() if not _done(out, kind, name).is_file()}
    asks_general = sum(share.asked for share in general_of(out, name).values()) < len(general_knowledge.questions())
    if not lengths or not (todo or asks_general):
        return
    from environments.cli import Command
    from environments.config import HaystackEnvConfig, ServerSettings
    from environments.inference.embedded.server import background
    from environments.needle_env import NeedleEnv

    common = {
        "tokenizer_name": str(model),
        "lengths": ",".join(map(str, lengths)),
        "depths": str(plan.settings.depths),
        "repeats": plan.settings.repeats,
        "seed": plan.settings.seed,
        "max_new_tokens": REPLY_TOKENS,
        "answer_format": "tags" if taught else "plain",
    }
    with background(model, model_name=name) as url:
        if asks_general:
            general_knowledge.ask(ServerAddress(url, "", name), general_path(out, name), progress=True)
        for kind, settings in todo.items():
            folder = str(samples_of(out, kind, name).parent)
            config = HaystackEnvConfig(**common | settings, data_dir_to_save_evals=folder)
            NeedleEnv.run(Command("evaluate", config, [ServerSettings(base_url=url, model_name=name)]))
            write_json(_done(out, kind, name), {"lengths": lengths, "answer_format": common["answer_format"]})
    free_memory()


def general_path(out: Path, name: str) -> Path:
    """Return the file of one model's replies to general questions."""
    return out / "evaluation" / "general" / f"{name}.jsonl"


def general_of(out: Path, name: str) -> dict[str, Share]:
    """Return how many general questions one model answered rightly, of each kind; nothing where it was not asked."""
    path = general_path(out, name)
    return general_knowledge.shares(path) if path.is_file() else {}


def _done(out: Path, kind: str, name: str) -> Path:
    return samples_of(out, kind, name).with_name("done.json")


def measure_perplexity(plan: Plan, out: Path, name: str, model: Path, window: int) -> None:
    """Write a model's perplexity by position, in rows of its window, on the held-out texts, if there are any."""
    from trainer_configs.longlora.by_position import by_position
    from trainer_configs.longlora.perplexity import Source
    from trainer_configs.longlora.token_nll import windows

    path = out / "evaluation" / "perplexity" / f"{name}.json"
    if path.is_file() or not (texts := held_out_texts(plan.settings)):
        return
    source = Source(str(model))
    rows_NL = windows(source.token_ids(texts), window, PERPLEXITY_ROWS)
    write_json(path, [asdict(bucket) for bucket in by_position(source.load(), rows_NL)])
    free_memory()


def free_memory() -> None:
    """Give back the GPU's memory, which the next training in its own process needs."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def evaluated(out: Path, names: Sequence[str], kind: str) -> dict[str, list[Record]]:
    """Return the answers of all models that were asked, in their order."""
    return {name: records for name in names if (records := records_of(out, kind, name))}
