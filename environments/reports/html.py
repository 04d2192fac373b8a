"""Self-contained HTML pages: the report of one evaluation, and a viewer of rollouts.

Model output, haystacks and names are hostile text: every piece of data goes through `escape`, nothing from the data
becomes markup, and the page's content security policy allows its own style and script, by hash, and nothing else.
A page is one file and asks the network for nothing.

    from environments.reports.html import write_rollouts_html
    write_rollouts_html(map(json.loads, open("rollouts.jsonl")), Path("rollouts.html"))
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from longthread.files import replacing
from longthread.secrets import redact

# Score 0 to score 1, for the figures and the pages. People expect red-yellow-green, which one man in twelve cannot
# read: under simulated red-green blindness two RdYlGn colours half a scale apart differ by 3 (CIE76), and its two ends
# by 18. This keeps the reading (dark red is bad, amber halfway, green good) with a far lighter, bluish green: 23 or
# more for any two scores 0.25 apart, 37 at half a scale (tests/environments/test_report.py measures both).
SCORE_COLOURS = ("#67001f", "#b2182b", "#e2643c", "#f6ab52", "#f9e58c", "#b5e2b8", "#4fb8a4")
LONGEST_TEXT = 4_000  # characters of one text that a page shows whole; beyond, its head and its tail
LONGEST_NAME = 80  # characters of a task, a role, a score's part
HISTOGRAM_BINS = 20

# C0 controls and DEL draw as their control pictures: a reader sees them, and browsers would drop or replace some.
_VISIBLE = {code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n\r"} | {127: 0x2421}
_SURROGATE = re.compile("[\ud800-\udfff]")

_STYLE = (
    """
:root{color-scheme:light}
body{font:15px/1.5 system-ui,sans-serif;color:#1c2024;background:#fff;max-width:1120px;margin:0 auto;padding:20px 24px}
h1{font-size:24px;line-height:1.25;margin:0 0 12px;overflow-wrap:anywhere}h2{font-size:18px;margin:32px 0 8px}
h3{font-size:13px;margin:12px 0 4px;color:#5c636b;font-weight:600}
.facts{display:flex;flex-wrap:wrap;gap:10px;margin:0 0 14px;padding:0;list-style:none}
.facts li{flex:1 1 150px;border:1px solid #dfe3e8;border-radius:8px;padding:8px 12px;color:#5c636b;font-size:12.5px;
line-height:1.35}
.facts b{display:block;color:#1c2024;font-size:21px;line-height:1.3}
figure{margin:0 0 20px}img{max-width:100%;height:auto}figure.first{text-align:center}
figure.first img{max-height:68vh}
figcaption{color:#5c636b;font-size:13px}.pair{display:grid;grid-template-columns:1fr 1fr;gap:8px 20px}
@media(max-width:800px){.pair{grid-template-columns:1fr}}
pre,.text{white-space:pre-wrap;overflow-wrap:anywhere;unicode-bidi:plaintext}
pre{font:12.5px/1.45 ui-monospace,"DejaVu Sans Mono",monospace;background:#f6f7f9;border-radius:6px;padding:8px 10px;
margin:4px 0 8px;max-height:26em;overflow:auto}
pre.table{white-space:pre;max-height:none}
table{border-collapse:collapse;font-size:13px}td,th{text-align:left;padding:3px 14px 3px 0;vertical-align:top;
border-bottom:1px solid #eceff2;font-weight:400;overflow-wrap:anywhere}th{color:#5c636b;white-space:nowrap}
details{border:1px solid #dfe3e8;border-radius:8px;margin:6px 0;padding:0 12px}
details[open]{padding-bottom:8px}summary{cursor:pointer;padding:6px 0}
details details{border:0;padding:0;margin:0}details details summary{color:#5c636b;font-size:13px}
.meta{color:#5c636b;font-size:13px}.cut{color:#8a5a00;background:#fff3d6;border-radius:4px;padding:0 4px;margin:0 4px}
.score{display:inline-block;min-width:34px;text-align:center;border-radius:5px;padding:0 6px;margin-right:6px;
font-weight:600;font-variant-numeric:tabular-nums}
.badge{display:inline-block;border-radius:5px;padding:0 7px;font-size:12px;background:#e8ebef;color:#1c2024}
.answer{background:#cdeee6}.link{background:#d8e6fb}.superseded{background:#fde6c8}.decoy,.distractor{background:#f8d9d5}
mark{background:#ffe77a;padding:0 2px;border-radius:3px}.window{border-left:3px solid #dfe3e8;padding-left:10px;
margin:4px 0 10px}
.filter{margin:12px 0}.filter input{width:70px}.warning{color:#8a2c0d}[hidden]{display:none}
"""
    + "\n".join(
        f".s{i}{{background:{colour};color:{'#fff' if i < 2 else '#1c2024'}}}" for i, colour in enumerate(SCORE_COLOURS)
    )
    + "\n"
)

_FILTER = """
const task=document.getElementById("task"),lo=document.getElementById("lo"),hi=document.getElementById("hi");
function show(){
  let shown=0;
  for(const group of document.querySelectorAll("details.group")){
    const score=Number(group.dataset.score);
    const keep=(task.selectedIndex===0||group.dataset.task===task.value)
      &&(lo.value===""||score>=Number(lo.value))&&(hi.value===""||score<=Number(hi.value));
    group.hidden=!keep;shown+=keep;
  }
  document.getElementById("shown").textContent=shown+" shown";
}
for(const box of [task,lo,hi])box.addEventListener("input",show);
show();
"""


# ---- text -------------------------------------------------------------------------------------------------------


def visible(text: str) -> str:
    """`text` as a page shows it: control characters as pictures, lone surrogates (not encodable) as U+FFFD."""
    return _SURROGATE.sub("\ufffd", text.translate(_VISIBLE))


def escape(value: Any) -> str:
    """Any value of the data as HTML text or a quoted attribute; None is a dash, other non-text is JSON."""
    return html.escape(visible(_text(value)), quote=True)


def clipped(value: Any, limit: int = LONGEST_TEXT) -> str:
    """`escape(value)`, or its head and tail of `limit // 2` characters with the number left out between them."""
    text = _text(value)
    if len(text) <= limit:
        return escape(text)
    half = limit // 2
    gap = f'<span class="cut">… {len(text) - 2 * half:,} characters …</span>'
    return escape(text[:half]) + gap + escape(text[-half:])


def _name(value: Any) -> str:
    """Text, not yet escaped, that stands in a line with others."""
    text = _text(value)
    return text if len(text) <= LONGEST_NAME else text[:LONGEST_NAME] + "…"


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return "–" if value is None else json.dumps(value, ensure_ascii=False, default=str)


def answer_text(answer: Any) -> str:
    """The expected answer as one line: `{"kind": "set", "values": ["a", "b"]}` gives `a, b (set)`."""
    if not isinstance(answer, Mapping):
        return _text(answer)
    if answer.get("kind") == "absent":
        return "not in the text: abstaining is right"
    values = answer.get("values")
    if not isinstance(values, list | tuple):
        return _text(answer)
    joined = ", ".join(_text(value) for value in values)
    return joined if answer.get("kind") in (None, "one") else f"{joined} ({_text(answer.get('kind'))})"


# ---- pieces of a page -------------------------------------------------------------------------------------------


def _hash(source: str) -> str:
    return "'sha256-" + base64.b64encode(hashlib.sha256(source.encode()).digest()).decode() + "'"


def _head(title: str, script: str = "") -> str:
    policy = f"default-src 'none'; img-src data:; style-src {_hash(_STYLE)}; script-src {_hash(script)}; "
    policy += "base-uri 'none'; form-action 'none'"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<h1>{escape(title)}</h1>\n"
    )


def _number(value: Any, digits: str = ".2f") -> str:
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return format(value, digits) if good else "?"


def _percent(value: Any, digits: str) -> str:
    return "?" if _number(value) == "?" else f"{100 * value:{digits}} %"


def _score(value: Any) -> str:
    text = _number(value)
    step = 0 if text == "?" else round(min(max(value, 0.0), 1.0) * (len(SCORE_COLOURS) - 1))
    return f'<span class="score s{step}">{text}</span>'


_ROLES = ("answer", "link", "superseded", "decoy", "distractor")


def _needle(needle: Mapping[str, Any]) -> str:
    role = needle.get("role")
    badge = f"badge {role}" if role in _ROLES else "badge"
    where = f"depth {_percent(needle.get('depth'), '.1f')}"
    tokens = f"tokens {_number(needle.get('token_start'), ',')}–{_number(needle.get('token_end'), ',')}"
    before, after = needle.get("before"), needle.get("after")
    return (
        f'<div class="window"><span class="{badge}">{escape(_name(role))}</span> '
        f'<span class="meta">{where} · {tokens}</span>'
        f'<div class="text">{"… " + clipped(before) if before else ""}<mark>{clipped(needle.get("text"))}</mark>'
        f"{clipped(after) + ' …' if after else ''}</div></div>"
    )


def _needles(needles: Any) -> str:
    found = [needle for needle in needles if isinstance(needle, Mapping)] if isinstance(needles, list | tuple) else []
    if not found:
        return ""
    return f"<h3>Needles in the text ({len(found)})</h3>" + "".join(map(_needle, found))


def _asked(question: Any, answer: Any) -> str:
    return (
        f'<h3>Question</h3><div class="text">{clipped(question)}</div>'
        f'<h3>Expected answer</h3><div class="text">{clipped(answer_text(answer))}</div>'
    )


def _facts(facts: Iterable[tuple[str, str, str]]) -> str:
    items = (f"<li>{escape(name)}<b>{escape(value)}</b>{escape(note)}</li>" for name, value, note in facts)
    return f'<ul class="facts">{"".join(items)}</ul>\n'


def _figure(caption: str, png: bytes, css: str = "") -> str:
    data = base64.b64encode(png).decode()
    return f'<figure class="{css}"><img alt="{escape(caption)}" src="data:image/png;base64,{data}"></figure>\n'


# ---- the report of one evaluation -------------------------------------------------------------------------------


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _sample(record: Mapping[str, Any]) -> str:
    at = "random depth" if record.get("depth") is None else f"depth {_percent(record['depth'], '.0f')}"
    meta = [f"{_number(record.get('length'), ',')} tokens", at, f"seed {escape(_name(record.get('seed')))}"]
    meta += [f"finish {escape(_name(record.get('finish_reason')))}"] + ["abstained"] * bool(record.get("abstained"))
    return (
        f"<details><summary>{_score(record.get('score'))}<b>{escape(_name(record.get('task')))}</b> "
        f'<span class="meta">{" · ".join(meta)}</span></summary>'
        f"{_asked(record.get('question'), record.get('answer'))}"
        f"<h3>Completion</h3><pre>{clipped(record.get('completion'))}</pre>{_needles(record.get('needles'))}</details>\n"
    )


def report_page(
    title: str,
    facts: Sequence[tuple[str, str, str]],
    pictures: Sequence[tuple[str, str, bytes]],
    table: str,
    config: Mapping[str, Any],
    worst: Sequence[Mapping[str, Any]],
    failures: Mapping[str, int],
) -> str:
    """The page of one evaluation.

    `facts` are (name, value, note); `pictures` are (file name, caption, PNG), the first of them on the first screen;
    `worst` are records; `failures` maps an error to how often it came.
    """
    links = " · ".join(f'<a href="{escape(name)}">{escape(name)}</a>' for name, _, _ in pictures)
    rows = "".join(
        f"<tr><th>{escape(key)}</th><td>{clipped(value)}</td></tr>" for key, value in _flat(redact(dict(config)))
    )
    failed = "".join(f"<tr><th>{count}×</th><td>{clipped(error)}</td></tr>" for error, count in failures.items())
    parts = [_head(title), _facts(facts)]
    parts += [_figure(caption, png, "first") for _, caption, png in pictures[:1]]
    parts += [f'<p class="meta">Pictures: {links} · numbers: <a href="grid.csv">grid.csv</a></p>']
    parts += [
        '<div class="pair">' + "".join(_figure(caption, png) for _, caption, png in pictures[1:]) + "</div>",
        f'<h2>Table</h2><pre class="table">{escape(table)}</pre>',
        f"<h2>Failures</h2><p>Not in any mean.</p><table>{failed}</table>" if failed else "",
        f"<h2>Config</h2><table>{rows}</table>" if rows else "",
        f"<h2>Worst samples ({len(worst)})</h2>" + "".join(map(_sample, worst)) if worst else "",
        "</body>\n</html>\n",
    ]
    return "\n".join(parts)


# ---- the viewer of rollouts -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Group:
    """One row of rollouts, checked: every list has k entries."""

    task: str
    length: Any
    scores: list[float]
    completions: list[str]
    finish_reasons: list[Any]
    details: list[Any]
    prompt: list[Mapping[str, Any]]
    row: Mapping[str, Any]

    @property
    def mean(self) -> float:
        return math.fsum(self.scores) / len(self.scores)


def _per_rollout(row: Mapping[str, Any], key: str, k: int) -> list[Any]:
    value = row.get(key)
    return value if isinstance(value, list) and len(value) == k else [None] * k


def _group(row: Any) -> _Group:
    """The row checked. Raises ValueError with a short reason when it is not a group of rollouts."""
    if not isinstance(row, Mapping):
        raise ValueError("not a JSON object")
    scores = row.get("scores")
    if not isinstance(scores, list) or not scores or any(_number(score) == "?" for score in scores):
        raise ValueError("scores is not a list of finite numbers")
    k = len(scores)
    prompts = [m if isinstance(m, list) and m else [{}] for m in _per_rollout(row, "messages", k)]
    completions = row.get("completions")
    if completions is None:
        completions = [m[-1].get("content") if isinstance(m[-1], Mapping) else None for m in prompts]
    if not isinstance(completions, list) or len(completions) != k or not all(isinstance(c, str) for c in completions):
        raise ValueError("not one completion for each score")
    recipe = row.get("recipe")
    if not isinstance(recipe, Mapping):
        recipe = {}
    return _Group(
        task=_name(recipe.get("task", row.get("task"))),
        length=row.get("length", recipe.get("length")),
        scores=scores,
        completions=completions,
        finish_reasons=_per_rollout(row, "finish_reasons", k),
        details=_per_rollout(row, "details", k),
        prompt=[m for m in prompts[0][:-1] if isinstance(m, Mapping)],
        row=row,
    )


def _part(value: Any) -> str:
    number = _number(value, ".3g")
    return escape(_name(value)) if number == "?" else number


def _rollout(group: _Group, i: int) -> str:
    details = group.details[i]
    parts = details.items() if isinstance(details, Mapping) else ()
    shown = " · ".join(f"{escape(_name(key))} {_part(value)}" for key, value in parts)
    finish = "" if group.finish_reasons[i] is None else f"finish {escape(_name(group.finish_reasons[i]))}"
    meta = " · ".join(text for text in (finish, shown) if text)
    completion = f"<pre>{clipped(group.completions[i])}</pre>"
    return f'<div>{_score(group.scores[i])}<span class="meta">{meta}</span>{completion}</div>'


def _message(message: Mapping[str, Any]) -> str:
    return f"<h3>{escape(_name(message.get('role')))}</h3><pre>{clipped(message.get('content'))}</pre>"


def _details(number: int, group: _Group) -> str:
    k = len(group.scores)
    prompt = "".join(map(_message, group.prompt))
    return (
        f'<details class="group" data-task="{escape(group.task)}" data-score="{group.mean:.6g}"><summary>'
        f"{_score(group.mean)}<b>{escape(group.task)}</b> "
        f'<span class="meta">#{number} · {_number(group.length, ",")} tokens · '
        f"{k} rollout{'s' if k > 1 else ''}</span></summary>"
        f"{_asked(group.row.get('question'), group.row.get('answer'))}{_needles(group.row.get('needles'))}"
        f"<h3>Rollouts</h3>{''.join(_rollout(group, i) for i in range(k))}"
        + (f"<details><summary>Prompt ({len(group.prompt)} messages)</summary>{prompt}</details>" if prompt else "")
        + "</details>\n"
    )


@dataclass
class _Tally:
    """What the head of the viewer says; filled row by row."""

    groups: int = 0
    rollouts: int = 0
    total: float = 0.0
    tasks: Counter[str] = field(default_factory=Counter)
    bins: list[int] = field(default_factory=lambda: [0] * HISTOGRAM_BINS)
    skipped: Counter[str] = field(default_factory=Counter)

    def add(self, group: _Group) -> None:
        self.groups += 1
        self.rollouts += len(group.scores)
        self.total += math.fsum(group.scores)
        self.tasks[group.task] += 1
        for score in group.scores:
            share = min(max(score, 0.0), 1.0)  # beyond 0..1: counted in the outermost bar
            self.bins[min(int(share * HISTOGRAM_BINS), HISTOGRAM_BINS - 1)] += 1


def _histogram(bins: Sequence[int]) -> str:
    """An inline SVG: rollouts by score."""
    width, height, top = 24, 110, max(max(bins), 1)
    bars = []
    for i, count in enumerate(bins):
        tall = height * count / top
        colour = SCORE_COLOURS[round(i / (len(bins) - 1) * (len(SCORE_COLOURS) - 1))]
        x = 30 + i * width
        bars.append(
            f'<rect x="{x}" y="{20 + height - tall:.1f}" width="{width - 3}" height="{tall:.1f}" fill="{colour}">'
            f"<title>{i / len(bins):.2f} to {(i + 1) / len(bins):.2f}: {count:,} rollouts</title></rect>"
        )
        if count:
            bars.append(
                f'<text x="{x + (width - 3) / 2}" y="{16 + height - tall:.1f}" font-size="9" fill="#5c636b" '
                f'text-anchor="middle">{count:,}</text>'
            )
    end = 30 + len(bins) * width
    ticks = "".join(
        f'<text x="{30 + share * (end - 33):.0f}" y="{height + 36}" font-size="11" fill="#5c636b" '
        f'text-anchor="middle">{share:g}</text>'
        for share in (0, 0.25, 0.5, 0.75, 1)
    )
    return (
        f'<figure><svg width="{end + 20}" height="{height + 42}" role="img" aria-label="rollouts by score">'
        f'{"".join(bars)}<line x1="28" x2="{end}" y1="{height + 20.5}" y2="{height + 20.5}" stroke="#5c636b"/>{ticks}'
        "</svg><figcaption>Rollouts by score</figcaption></figure>\n"
    )


def _viewer_head(title: str, tally: _Tally, shown: int) -> str:
    mean = _number(tally.total / tally.rollouts) if tally.rollouts else "–"
    facts = [
        ("Groups", f"{tally.groups:,}", ", ".join(f"{t} {n:,}" for t, n in tally.tasks.most_common(6))),
        ("Shown here", f"{shown:,}", "all groups" if shown == tally.groups else "the first groups of the file"),
        ("Rollouts", f"{tally.rollouts:,}", "completions in all groups"),
        ("Mean score", mean, "over all rollouts"),
        ("Rows skipped", f"{sum(tally.skipped.values()):,}", "unreadable rows, in no number here"),
    ]
    reasons = "".join(f"<li>{n:,} × {escape(reason)}</li>" for reason, n in tally.skipped.most_common())
    options = "".join(f'<option value="{escape(t)}">{escape(t)}</option>' for t, _ in tally.tasks.most_common(50))
    return (
        _head(title, _FILTER)
        + _facts(facts)
        + (f'<ul class="warning">{reasons}</ul>' if reasons else "")
        + _histogram(tally.bins)
        + f'<p class="filter">Task <select id="task"><option value="">all</option>{options}</select> '
        'mean score from <input id="lo" type="number" step="0.05"> to <input id="hi" type="number" step="0.05"> '
        '<span id="shown" class="meta"></span></p>\n'
    )


def write_rollouts_html(rows: Iterable[Any], out: Path, limit: int = 200, title: str = "Rollouts") -> Path:
    """The viewer of rollouts: one `<details>` a group, the first `limit` groups; the head counts all of them.

    One row is in memory at a time. A row that is no group (missing keys, wrong types) is skipped and counted on the
    page by reason. An exception of the iterable itself passes through, and leaves no file behind.
    """
    tally, shown = _Tally(), 0
    with tempfile.TemporaryFile() as body:
        for row in rows:
            try:
                group = _group(row)
                text = _details(tally.groups + 1, group) if shown < limit else ""
            except ValueError as error:
                tally.skipped[str(error)] += 1
                continue
            except (TypeError, AttributeError, LookupError, RecursionError, OverflowError) as error:
                tally.skipped[f"cannot be shown ({type(error).__name__})"] += 1
                continue
            tally.add(group)
            if text:
                body.write(text.encode())
                shown += 1
        body.seek(0)
        with replacing(out) as page:
            page.write(_viewer_head(title, tally, shown).encode())
            shutil.copyfileobj(body, page)
            page.write(f"<script>{_FILTER}</script>\n</body>\n</html>\n".encode())
    return out
