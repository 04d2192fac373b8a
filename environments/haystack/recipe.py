"""Recipes: all that is needed to build a sample again, byte for byte. Stores keep recipes instead of texts."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any, NamedTuple

from environments.haystack.options import Options
from longthread.errors import ConfigError
from longthread.files import JsonObject

VERSION = 1  # raised whenever the same recipe would build another text


# Options that came after the first recipes. At the default they change nothing, and a recipe does not name them.
LATER = {
    "filler_sentences": "auto",
    "graph_ask": "any",
    "session_ask": "any",
    "aggregate_ask": "any",
    "gaps": "2-4",
    "no_context": False,
}


class Request(NamedTuple):
    """What one sample is asked to be. `depths` are those of the needles that the answer rests on, in order."""

    seed: int
    split: str
    task: str
    length: int
    depths: Sequence[float] | None = None


def write(request: Request, options: Options, fingerprint: str, filler: str, template: Mapping[str, Any]) -> JsonObject:
    """Return the recipe as JSON: request, options, the tokenizer's fingerprint, and the digest of the filler.

    `template`: variables of the chat template; without any the recipe does not speak of them.
    """
    depths = None if request.depths is None else list(request.depths)
    asked = request._replace(depths=depths)._asdict()
    return {
        "version": VERSION,
        **asked,
        "options": without_later_defaults(asdict(options)),
        "tokenizer": fingerprint,
        "filler": filler,
        **({"template": dict(template)} if template else {}),
    }


def without_later_defaults(settings: Mapping[str, Any]) -> JsonObject:
    """Return the settings without options that came later and are at their default, so that what they name keeps its name."""
    return {name: value for name, value in settings.items() if LATER.get(name) != value or name not in LATER}


def read(recipe: Mapping[str, Any], fingerprint: str) -> tuple[Request, Options]:
    """Return the request and the options of a recipe that `write` made.

    Raises `ConfigError` where this release, or this tokenizer, would build another sample.
    """
    if recipe.get("version") != VERSION:
        raise ConfigError(f"recipe version {recipe.get('version')!r} is not {VERSION}; use the release that wrote it")
    if recipe["tokenizer"] != fingerprint:
        raise ConfigError(
            f"the recipe is for tokenizer {recipe['tokenizer']}, not {fingerprint}; load the one it was made with"
        )
    if unknown := sorted(set(recipe["options"]) - {field.name for field in fields(Options)}):
        raise ConfigError(f"the recipe has unknown options {', '.join(unknown)}; use the release that wrote it")
    return Request(*(recipe[name] for name in Request._fields)), Options(**recipe["options"])


def check_filler(recipe: Mapping[str, Any], digest: str) -> None:
    """Raise `ConfigError` if the filler has another digest than the recipe's."""
    if digest != recipe["filler"]:
        raise ConfigError(
            f"the filler has changed ({digest}, not {recipe['filler']}): restore the corpus that the recipe was made from; "
            "one of .md files from 0.1 needs that release, which read Markdown otherwise"
        )
