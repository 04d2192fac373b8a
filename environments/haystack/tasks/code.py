"""Facts in source code: what a function returns, or a constant equals. The text around them is code too.

    code_constant   the value of one constant, or of one function that returns it
    code_chain      f() returns what g() returns, and so on to a value

Around them stand functions and constants of nearly the same name ("distractor"), in code_chain also functions which those
call ("decoy"). All are Python, and stand between top-level blocks. `absent_code_constant` asks for a name that is defined
nowhere, `absent_code_chain` for a chain one of whose functions is missing. Train and eval share no name.
"""

from collections.abc import Callable

from environments.haystack.facts import VALUE_KINDS, WORDS, draw_values, first_drawn, in_split
from environments.haystack.filler import code
from environments.haystack.options import ANY
from environments.haystack.tasks.task import Answer, Draw, Needles, Quiz
from longthread.errors import ConfigError

RETURNS = (
    "def {f}():\n    return {v}",
    'def {f}():\n    """{V} the {w} {n}."""\n    return {v}',
    "def {f}():\n    {n} = {v}\n    return {n}",
)
CONSTANT = "{N} = {v}"
ASKED = {False: "What does {f}() return?", True: "What is the value of the constant {f}?"}


def code_constant(draw: Draw, absent: bool) -> Quiz:
    """Return a quiz about the value of a constant or of a function; absent: no such name is defined, only near ones."""
    _check(draw)
    constant = draw.rng.random() < 0.5
    asked = _name(draw)
    twins = [_twin(draw, asked) for _ in range(draw.options.distractors or absent)]
    names = twins if absent else [asked, *twins]
    kind, values = _values(draw, len(names))
    needles = [
        (_constant(name, value) if constant else _function(draw, name, _literal(value)), "distractor")
        for name, value in zip(names, values, strict=True)
    ]
    if not absent:
        needles[0] = (needles[0][0], "answer")
    answer = Answer("absent", (), kind) if absent else Answer("one", (values[0],), kind)
    question = ASKED[constant].format(f=asked.upper() if constant else asked)
    written = (name.upper() if constant else name for name in (asked, *twins))
    return Quiz(tuple(needles), (*values, *written), question, answer, between=True)


def code_chain(draw: Draw, absent: bool) -> Quiz:
    """Return a quiz about what the first function of a chain of calls returns; absent: one of its functions is missing."""
    _check(draw)
    hops, n = draw.number("hops"), draw.options.distractors
    path = [_name(draw) for _ in range(hops)]
    kind, values = _values(draw, 1 + n)
    chain = [_function(draw, f, f"{g}()") for f, g in zip(path, path[1:], strict=False)]
    chain.append(_function(draw, path[-1], _literal(values[0])))
    needles: Needles = [*((text, "link") for text in chain[:-1]), (chain[-1], "answer")]
    if absent:
        cut = draw.rng.randrange(hops)
        # What stands behind the cut cannot be reached from the head, so no answer rests on it.
        needles = needles[:cut] + [(text, "distractor") for text, _ in needles[cut + 1 :]]
    others: list[str] = []
    for i, value in enumerate(values[1:]):
        twin = _twin(draw, path[i % hops])
        others.append(twin)
        if i % hops == hops - 1:
            needles.append((_function(draw, twin, _literal(value)), "distractor"))
            continue
        callee = _name(draw)
        others.append(callee)
        needles.append((_function(draw, twin, f"{callee}()"), "distractor"))
        needles.append((_function(draw, callee, _literal(value)), "decoy"))
    answer = Answer("absent", (), kind) if absent else Answer("one", (values[0],), kind, tuple(path[1:]))
    question = ASKED[False].format(f=path[0])
    return Quiz(tuple(needles), (*values, *path, *others), question, answer, hops, between=True, passed="functions")


def _check(draw: Draw) -> None:
    options = draw.options
    if draw.gap:
        raise ConfigError(
            "names in code have no other words, so its tasks have no lexical gap", setting=("tasks", "lexical_gap")
        )
    if options.filler != "prose" and options.filler_sentences != "code":
        raise ConfigError(
            f"tasks of code need text cut between top-level blocks, not filler_sentences {options.filler_sentences}; "
            "set filler_sentences code, or leave the filler out",
            setting=("tasks", "filler_sentences"),
        )


def _name(draw: Draw) -> str:
    return _new(draw, lambda: code.name(draw.rng, draw.split))


def _twin(draw: Draw, name: str) -> str:
    """Draw a new name easily taken for another: one part of three changed, or an "s" at its end."""

    def alter() -> str:
        parts, rng = name.split("_"), draw.rng
        i = rng.randrange(4)
        if i == 3:
            return f"{name}s" if rng.random() < 0.5 else f"{name}_{rng.randint(2, 99)}"
        parts[i] = rng.choice((code.VERBS, WORDS, code.NOUNS)[i])
        return "_".join(parts)

    return _new(draw, alter)


def _new(draw: Draw, drawn: Callable[[], str]) -> str:
    name = first_drawn(drawn, lambda n: n not in draw.used and in_split(n, draw.split), f"a name in {draw.split}")
    draw.used.add(name)
    return name


def _values(draw: Draw, n: int) -> tuple[str, list[str]]:
    kind = draw.options.value_kind if draw.options.value_kind != ANY else draw.rng.choice(sorted(VALUE_KINDS))
    return kind, draw_values(kind, n, draw.split, draw.rng)


def _literal(value: str) -> str:
    return value if value.isdigit() else f'"{value}"'


def _constant(name: str, value: str) -> str:
    return CONSTANT.format(N=name.upper(), v=_literal(value))


def _function(draw: Draw, name: str, returned: str) -> str:
    rng = draw.rng
    words = {"V": rng.choice(code.VERBS).capitalize(), "w": rng.choice(WORDS), "n": rng.choice(code.NOUNS)}
    return rng.choice(RETURNS).format(f=name, v=returned, **words)
