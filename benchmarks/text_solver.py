"""Answers questions about the text itself, and about code, from prompt and question alone: all answers that they allow.

It shares no code with the tasks: sentences are looked up as they are quoted, paragraphs are put back where most of their
words stand beside the gap, and code is parsed by `ast` and its calls are followed.
"""

import ast
import re

from environments.haystack.sample import Sample

CLOZE = re.compile(r'Which word is left out, at ____, of this sentence of the text\? "(.*)____(.*)"', re.DOTALL)
ENTITY = re.compile(
    r'A sentence of the text begins with "(.*)"\. Which (name|number) stands in the rest of that sentence\?', re.DOTALL
)
GAPS = re.compile(r"(\d+) paragraphs were taken out .*?These are the paragraphs:\n(.*)\nGive the number", re.DOTALL)
CALL = re.compile(r"What does (\w+)\(\) return\?|What is the value of the constant (\w+)\?")
CANDIDATE = {"name": r"(?<![^\W\d_])[A-ZÀ-ÖØ-Þ]\w*", "number": r"\d+"}
SENTENCE_END = re.compile(r"[.?!…。！？।]+[\"'”’»)\]」]*(?=\s|$)")
CANNOT = "cannot be read"


def text_of(sample: Sample) -> str:
    """Return the haystack in the user's message, without the labels of its passages."""
    _, rest = sample.messages[0]["content"].split("\n\n", 1)
    haystack = rest.rsplit("\n\nQuestion: ", 1)[0]
    return re.sub(r"(?:^|(?<=\n\n))\[\d+\] ", "", haystack) if sample.recipe["options"]["numbered"] else haystack


def solve(text: str, question: str) -> tuple[str, list[list[str]]]:
    """Return the task that the question belongs to, and every answer that the text allows, each a list of values."""
    if match := CLOZE.fullmatch(question):
        left, right = map(re.escape, match.groups())
        return "cloze", [[word] for word in re.findall(rf"{left}(\S{{1,60}}?){right}", text)]
    if match := ENTITY.fullmatch(question):
        return "entity", [[value] for value in _entities(text, *match.groups())]
    if match := GAPS.match(question):
        return "reconstruct", _orders(text, re.split(r"^\d+\. ", match[2], flags=re.MULTILINE)[1:])
    if match := CALL.fullmatch(question):
        return "code", [[value] for value in _returned(text, match[1] or match[2])]
    return CANNOT, []


def _entities(text: str, opening: str, what: str) -> list[str]:
    """Return what the question may mean behind each place where the opening stands."""
    found = []
    for place in re.finditer(re.escape(opening), text):
        end = SENTENCE_END.search(text, place.end())
        candidates = re.findall(CANDIDATE[what], text[place.end() : end.start() if end else None])
        following = re.search(CANDIDATE[what], text[place.end() :])  # the sentence may go on behind an abbreviation
        found += candidates or ([following.group()] if following else [])
    return found


def _orders(text: str, listed: list[str]) -> list[list[str]]:
    """Return the order in which the listed paragraphs fill the gaps; nothing where two fit one gap."""
    paragraphs = text.split("\n\n")
    gaps = [paragraphs.index(f"[gap {n}]") for n in range(1, len(listed) + 1)]
    beside = [_words(paragraphs[gap - 1]) | _words(paragraphs[gap + 1]) for gap in gaps]
    order: list[str] = []
    for words in beside:
        shared = [len(_words(paragraph) & words) for paragraph in listed]
        order.append(str(shared.index(max(shared)) + 1))
    own = [
        max(range(len(beside)), key=[len(_words(paragraph) & words) for words in beside].__getitem__)
        for paragraph in listed
    ]
    return (
        [[str(own.index(gap) + 1) for gap in range(len(beside))]]
        if sorted(own) == list(range(len(own)))
        else [order, []]
    )


def _words(text: str) -> set[str]:
    """Return the words of five letters and more that stand between blanks; of Chinese every two characters in a row."""
    found: set[str] = set()
    for token in text.casefold().split():
        if re.search("[一-鿿]", token):
            found |= set(re.findall(r"(?=([^\W_]{2}))", token))
        elif re.fullmatch(r"[^\W_]{5,}", bare := re.sub(r"^[\W_]+|[\W_]+$", "", token)):
            found.add(bare)
    return found


def _returned(text: str, name: str) -> list[str]:
    """Return the value of each definition of that name, its calls followed; nothing for a call of what is not defined."""
    defined: dict[str, list[ast.AST]] = {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef):
            defined.setdefault(node.name, []).append(node)
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            defined.setdefault(node.targets[0].id, []).append(node.value)
    return [value for node in defined.get(name, ()) for value in _values(node, defined)]


def _values(node: ast.AST, defined: dict[str, list[ast.AST]]) -> list[str]:
    if isinstance(node, ast.FunctionDef):
        local = {
            n.targets[0].id: n.value
            for n in node.body
            if isinstance(n, ast.Assign) and isinstance(n.targets[0], ast.Name)
        }
        (returned,) = (n.value for n in node.body if isinstance(n, ast.Return))
        node = local[returned.id] if isinstance(returned, ast.Name) else returned  # type: ignore[assignment]
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        return [value for callee in defined.get(node.func.id, ()) for value in _values(callee, defined)]
    return [str(ast.literal_eval(node))]


def faults(sample: Sample) -> list[str]:
    """Return what is wrong with the sample; nothing, if its answer is the only one that its text allows."""
    text, task, answer = text_of(sample), sample.recipe["task"], sample.answer
    sort, found = solve(text, sample.question)
    wrong = [] if task.removeprefix("absent_").startswith(sort) else [f"reads as {sort}"]
    if (answer.kind == "absent") != task.startswith("absent_"):
        wrong.append("absent or not")
    elif found != ([] if answer.kind == "absent" else [list(answer.values)]):
        wrong.append("another answer" if len(found) == 1 else f"{len(found) and 'several'} answers")
    if task in ("cloze", "code_constant", "code_chain") and text.casefold().count(answer.values[0].casefold()) != 1:
        wrong.append("the answer does not stand once in the text")
    if any(text.count(needle.text) != 1 for needle in sample.needles):
        wrong.append("a needle does not stand once in the text")
    return wrong
