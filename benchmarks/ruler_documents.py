"""RULER's prompts and metric as lm_eval has them, made offline: its own task objects, cut to the samples that are asked for.

lm_eval makes 500 documents of a task and length whatever the limit is, one after another from one seeded generator: the first
`samples` of them are made here, and are the same.

The tasks that hide needles in essays download these, which are nobody's to give on. Named with `_prose` behind, they are made
of this project's fiction in the essays' place; all else is lm_eval's.
"""

import contextlib
import importlib
import importlib.util
import io
import logging
import random
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate, islice
from typing import Any, NamedTuple
from unittest.mock import patch

from environments.haystack.filler import prose
from longthread.errors import ConfigError

# No download:
AS_THEY_ARE = ("niah_single_1", "niah_multikey_2", "niah_multikey_3", "ruler_vt", "ruler_cwe", "ruler_fwe")
PROSE = "_prose"
IN_ESSAYS = ("niah_single_2", "niah_single_3", "niah_multikey_1", "niah_multivalue", "niah_multiquery")
TASKS = (*AS_THEY_ARE, *(f"{task}{PROSE}" for task in IN_ESSAYS))
DOCUMENTS = 500  # of a task and length in lm_eval
SEEDS = 0, 1234  # of `random` and numpy in lm_eval's simple_evaluate
MISSING = "lm_eval's RULER tasks need a package that is missing: install longthread[ruler]"


class Question(NamedTuple):
    """A document of lm_eval, and the prompt that lm_eval makes of it; at most `new_tokens` are generated."""

    document: dict[str, Any]
    prompt: str
    new_tokens: int


def check_installed() -> None:
    """Raise `ConfigError` where lm_eval or a package of its RULER tasks is missing."""
    for name in ("lm_eval", "nltk", "wonderwords", "scipy"):
        if importlib.util.find_spec(name) is None:
            raise ConfigError(f"{MISSING} ({name})")


def questions(model: str, task: str, length: int, samples: int, chat: bool) -> list[Question]:
    """Return the first questions of a task at a length in tokens, seeded as lm_eval's `simple_evaluate` seeds them.

    `chat`: each as a user's message in the model's own template, with lm_eval's beginning of the answer behind it.
    """
    import numpy as np
    from lm_eval.tasks import TaskManager, get_task_dict
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)

    def template(messages: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Render as lm_eval's HFLM does."""
        return str(
            tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
            )
        )  # fmt: skip

    logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it advises to set the lengths, which are set, for every cell
    random.seed(SEEDS[0])
    np.random.seed(SEEDS[1])
    name = task.removesuffix(PROSE)
    essays = _essays(length) if name != task else contextlib.nullcontext()
    with contextlib.redirect_stdout(io.StringIO()), _first(samples), essays:
        manager = TaskManager(metadata={"pretrained": model, "max_seq_lengths": [length]})
        made = get_task_dict([name], manager)[name]
        made.build_all_requests(
            limit=samples, rank=0, world_size=1, apply_chat_template=chat, chat_template=template if chat else None
        )
    return [Question(dict(i.doc), i.args[0], i.args[1]["max_gen_toks"]) for i in made.instances]


def metric(question: Question, reply: str) -> float:
    """Return lm_eval's score of a reply: the share of the expected strings that stand in it."""
    from lm_eval.tasks.ruler.common_utils import process_results

    return float(process_results(question.document, [reply])[str(question.document["max_length"])])


@contextlib.contextmanager
def _first(samples: int) -> Iterator[None]:
    """Let lm_eval's loops over a task's 500 documents end after so many."""
    with contextlib.redirect_stdout(io.StringIO()), patch("nltk.data.find"):  # no prose is cut into sentences here
        niah = importlib.import_module("lm_eval.tasks.ruler.prepare_niah")

    def cut(iterable: Iterable[Any], *_: Any, **__: Any) -> Iterable[Any]:
        return islice(iterable, samples) if iterable == range(DOCUMENTS) else iterable

    # The other tasks' modules are executed anew, and take tqdm from its package, while a task is loaded.
    with patch.object(niah, "tqdm", cut), patch("tqdm.tqdm", cut):
        yield


class Fiction:
    """Fiction in the place of essays: `words` of it, and the `sentences` of which they are, in order."""

    def __init__(self, words: int):
        self.sentences, self.words = list[str](), list[str]()
        sentences = (sentence for passage in prose.passages(0, "eval") for part in passage for sentence in part)
        while len(self.words) < words:
            self.sentences.append(next(sentences))
            self.words += self.sentences[-1].split()
        self._ends = list(accumulate(len(sentence.split()) for sentence in self.sentences))

    def cut(self, text: str) -> list[str]:
        """Return the sentences of the first words of it, which `text` is; the last of them may be a part of one."""
        words = len(text.split())
        whole = bisect_right(self._ends, words)
        rest = self.words[self._ends[whole - 1] if whole else 0 : words]
        return [*self.sentences[:whole], *([" ".join(rest)] if rest else [])]


@contextlib.contextmanager
def _essays(length: int) -> Iterator[None]:
    """Let lm_eval take fiction of up to `length` words for its essays."""
    niah, text = importlib.import_module("lm_eval.tasks.ruler.prepare_niah"), Fiction(length)
    given: Callable[..., Any] = niah.get_haystack

    def haystack(type_haystack: str) -> Any:
        return text.words if type_haystack == "essay" else given(type_haystack)

    with patch.object(niah, "get_haystack", haystack), patch.object(niah, "cached_sent_tokenize", text.cut):
        yield
