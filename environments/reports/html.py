"""Self-contained HTML pages, and two of them: the report of one evaluation and a comparison of several.

Model output, haystacks and names are hostile text. Jinja escapes every expression of the templates, after `as_text` has
made control characters visible; each page's content security policy allows its own style and script, by hash, and nothing
else. A page is one file and asks the network for nothing.
"""

import base64
import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import NamedTuple
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from environments.reports.colours import SCORE_COLOURS
from environments.reports.metrics import Record
from longthread.counts import counted
from longthread.secrets import redact

LONGEST_TEXT = 4_000  # characters of one text that a page shows whole; beyond, its head and its tail
LONGEST_NAME = 80  # characters of a task, a role, a score's part

# C0 controls and DEL draw as their control pictures: a reader sees them, and browsers would drop or replace some.
_VISIBLE = {code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n\r"} | {127: 0x2421}
_SURROGATE = re.compile("[\ud800-\udfff]")


# ---- text -------------------------------------------------------------------------------------------------------


def visible(text: str) -> str:
    """Return `text` as a page shows it: control characters as pictures, lone surrogates (not encodable) as U+FFFD."""
    return _SURROGATE.sub("\ufffd", text.translate(_VISIBLE))


def as_text(value: object) -> str:
    """Return any value of the data as visible text, not yet escaped: None is a dash, other non-text is JSON."""
    if isinstance(value, Markup):
        return value
    if isinstance(value, str):
        return visible(value)
    return "–" if value is None else visible(json.dumps(value, ensure_ascii=False, default=str))


def cut(value: object, limit: int = LONGEST_TEXT) -> tuple[str, int, str]:
    """Return a text's head, how many characters are left out in the middle, and its tail; a short text is all head."""
    text, half = as_text(value), limit // 2
    return (text, 0, "") if len(text) <= limit else (text[:half], len(text) - 2 * half, text[-half:])


def short(value: object) -> str:
    """Return any value as text to stand in a line with others, cut behind `LONGEST_NAME` characters."""
    text = as_text(value)
    return text if len(text) <= LONGEST_NAME else text[:LONGEST_NAME] + "…"


def number(value: object, form: str = ".2f") -> str:
    """Return a finite number in the format `form`; "?" for anything else."""
    try:
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return format(value, form)
    except OverflowError:  # an integer beyond any float
        pass
    return "?"


def percent(share: object, form: str) -> str:
    """Return a share as a percentage, 0.5 as "50 %"; "?" for what is not a finite number."""
    return f"{100 * share:{form}} %" if isinstance(share, int | float) and number(share) != "?" else "?"


def shade(score: object) -> int:
    """Return the index of the colour for a score from 0 to 1; 0, the lowest score's, for what is not a finite number."""
    if not isinstance(score, int | float) or number(score) == "?":
        return 0
    return round(min(max(score, 0.0), 1.0) * (len(SCORE_COLOURS) - 1))


def link(path: str) -> str:
    """Return a relative path as the target of a link, whatever characters it has."""
    return quote(path, errors="replace")


def answer_text(answer: object) -> str:
    """Return the expected answer as one line: `{"kind": "set", "values": ["a", "b"]}` gives `a, b (set)`."""
    if not isinstance(answer, Mapping):
        return as_text(answer)
    if answer.get("kind") == "absent":
        return "not in the text: abstaining is right"
    values = answer.get("values")
    if not isinstance(values, list | tuple):
        return as_text(answer)
    joined = ", ".join(map(as_text, values))
    return joined if answer.get("kind") in (None, "one") else f"{joined} ({as_text(answer.get('kind'))})"


# ---- templates --------------------------------------------------------------------------------------------------


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _sha256(source: str) -> str:
    """Return the text's hash as a source of the content security policy
    (https://www.w3.org/TR/CSP3/#grammardef-hash-source)."""
    return "sha256-" + _base64(hashlib.sha256(source.encode()).digest())


TEMPLATES = Environment(
    loader=PackageLoader("environments.reports"),
    autoescape=True,
    finalize=as_text,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
TEMPLATES.filters |= {
    function.__name__: function for function in (cut, short, number, counted, percent, shade, link, answer_text)
}
TEMPLATES.filters |= {"base64": _base64, "sha256": _sha256}


def source(name: str) -> str:
    """Return the text of a style or a script of this package."""
    return resources.files("environments.reports").joinpath("templates", name).read_text(encoding="utf-8")


def _style() -> str:
    scores = (
        f".s{i} {{ background: {colour}; color: {'#fff' if i < 2 else '#1c2024'}; fill: {colour}; }}\n"
        for i, colour in enumerate(SCORE_COLOURS)
    )
    return "\n" + source("page.css") + "".join(scores)


def render(template: str, title: str, script: str = "", **contents: object) -> Iterator[str]:
    """Yield the page of a template, a piece at a time. Only the package's own style and script are markup."""
    own = {"style": Markup(_style()), "script": Markup(script)}
    return TEMPLATES.get_template(template).generate(title=title, **own, **contents)


# ---- the report of one evaluation, and several side by side -----------------------------------------------------


class Fact(NamedTuple):
    """A number at the top of a page, with its name above it and a note below it."""

    name: str
    value: str
    note: str


class Picture(NamedTuple):
    """A picture of a page, which also stands in a file beside it."""

    file: str
    caption: str
    png: bytes


@dataclass(frozen=True)
class ReportPage:
    """What the page of one evaluation shows; the first picture is on the first screen."""

    title: str
    facts: Sequence[Fact]
    pictures: Sequence[Picture]
    table: str
    config: Mapping[str, object]
    worst: Sequence[Record]
    failures: Mapping[str, int]  # error -> how often it came

    def html(self) -> str:
        """Return the page as HTML, without the secrets of its config."""
        contents = vars(self) | {"settings": list(_flat(redact(self.config)))}
        return "".join(render("report.jinja", **contents))


def _flat(config: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


class ComparisonRow(NamedTuple):
    """One evaluation in a comparison: its name, the link to its page, and its facts."""

    name: str
    page: str
    facts: Sequence[Fact]


def comparison_page(title: str, picture: Picture, evaluations: Sequence[ComparisonRow]) -> str:
    """Return the HTML page of several evaluations side by side; each has the same facts."""
    return "".join(render("comparison.jinja", title, picture=picture, evaluations=evaluations))
