"""Tokenizers and haystacks that every test shares: three real tokenizers and two built to be awkward."""

import gc
import hashlib
import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported: no test may reach the network
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["TTY_COMPATIBLE"] = "0"  # what tests read is plain text of the width they ask for, whatever FORCE_COLOR says

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from benchmarks import reference_tokenizers
from environments.haystack.filler import prose
from environments.haystack.filler.sources import SOURCES, Text
from environments.haystack.pools import Pools
from environments.haystack.sample import Haystacks, Options
from environments.haystack.tokens import Tokens

REAL = reference_tokenizers.NAMES
TOKENIZERS = (*REAL, "cl100k-like", "crossing")
POOL = 65_536  # tokens: enough for haystacks of 32,768
KEPT = 64  # pools, and what is drawn for them, of a few megabytes each
# Files that take longest, begun first: with `--dist loadfile` a long one begun last would leave the other process idle.
LONGEST = (
    "trainer_configs/longlora/extend/test_run.py",
    "environments/haystack/test_sample.py",
    "lift/training/test_fit.py",
    "trainer_configs/atropos_rl/test_run.py",
    "benchmarks/test_adversaries.py",
    "environments/haystack/tasks/test_linked.py",
    "trainer_configs/longlora/data/test_build.py",
    "trainer_configs/test_recipes.py",
    "environments/reports/test_report.py",
    "environments/rollouts/test_scoring.py",
    "benchmarks/test_lift_benchmark.py",
    "benchmarks/test_memory_benchmark.py",
    "environments/datasets/test_collect.py",
    "trainer_configs/longlora/test_plugin.py",
    "test_startup.py",
    "environments/test_needle_env.py",
    "environments/haystack/test_golden.py",
    "environments/haystack/tasks/test_whole_text.py",
    "trainer_configs/longlora/attention/test_transformers_hook.py",
    "trainer_configs/longlora/attention/test_parallel_documents.py",
    "environments/curriculum/test_policy.py",
    "test_examples.py",
)
# cl100k's pre-tokenizer: "." swallows the blank line behind it, so the end of a paragraph costs less than its pieces.
CL100K = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files of `LONGEST` first, in that order."""
    folder = Path(__file__).parent
    rank = {folder / name: number for number, name in enumerate(LONGEST)}
    assert all(path.is_file() for path in rank), "a file of LONGEST was moved"
    items.sort(key=lambda item: rank.get(item.path, len(rank)))


def _trained(pre_tokenizer: Any, vocabulary: int, texts: list[str]) -> Any:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizer
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=vocabulary, initial_alphabet=alphabet, show_progress=False)
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    tokenizer.chat_template = reference_tokenizers.CHATML
    return tokenizer


@cache
def build_tokenizer(name: str) -> Any:
    """One of `TOKENIZERS`. "crossing" was trained on text without any split, so that its merges cross spaces."""
    if name == "smollm2":
        from environments.inference.embedded.demo_model import DemoModelError, fetch

        try:
            fetch()
        except DemoModelError as error:
            pytest.skip(f"the demo model's tokenizer cannot be had: {error}")
    if name in REAL:
        return reference_tokenizers.load(name)
    passages = list(islice(prose.passages(7, "train"), 120))
    if name == "cl100k-like":
        split = pre_tokenizers.Split(Regex(CL100K), "isolated")
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        texts = [prose.join(passage) for passage in passages]
        return _trained(pre_tokenizers.Sequence([split, byte_level]), 6000, texts)
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    texts = [" ".join(paragraph[i : i + 2]) for p in passages for paragraph in p for i in range(0, len(paragraph), 2)]
    return _trained(byte_level, 1500, texts)


@cache
def _base(name: str, filler_mode: str) -> Haystacks:
    return Haystacks(build_tokenizer(name), Options(filler_mode=filler_mode, pool_tokens=POOL))


def make_haystacks(name: str, **options: Any) -> Haystacks:
    """Haystacks with these options that share their pools with all others of the tokenizer and filler mode.

    A pool takes a second to write and depends on the filler's options alone, which must be left at their defaults.
    """
    base = _base(name, options.get("filler_mode", "coherent"))
    return base.variant(replace(base.options, **options))


@pytest.fixture(scope="session", autouse=True)
def _endless_text_is_written_once() -> Iterator[None]:
    """Haystacks of one process share their pools of endless text, and what is drawn for these: most of what they cost."""
    kept: dict[tuple[object, ...], Any] = {}

    def shared(method: str) -> Callable[..., Any]:
        make = getattr(Pools, method)

        def once(self: Pools, *which: Any) -> Any:
            texts = [text for text in which if isinstance(text, Text)]
            if not all(SOURCES[text.filler].endless for text in texts):  # its folder may have changed
                return make(self, *which)
            key = (method, self.tokens.fingerprint, *which)
            if key not in kept:
                made = make(self, *which)  # a bank asks for its pool
                if len(kept) >= KEPT:
                    del kept[next(iter(kept))]
                kept[key] = made
            return kept[key]

        return once

    with pytest.MonkeyPatch.context() as patch:
        for method in ("_make_pool", "_make_items", "_make_bank"):
            patch.setattr(Pools, method, shared(method))
        yield


@pytest.fixture(scope="session", autouse=True)
def _a_tokenizer_is_hashed_once() -> Iterator[None]:
    """A tenth of a second for each of the many `Tokens` of one tokenizer: its parts are sorted, and written anew."""
    known: dict[tuple[bytes, str, str], str] = {}
    take = Tokens.fingerprint.func

    def fingerprint(self: Tokens) -> str:
        whole = hashlib.sha256(self._backend.to_str().encode()).digest()
        parts = (whole, repr(self.tokenizer.chat_template), repr(self.chat.variables))
        if parts not in known:
            known[parts] = take(self)
        return known[parts]

    prop = cached_property(fingerprint)
    prop.__set_name__(Tokens, "fingerprint")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tokens, "fingerprint", prop)
        yield


@pytest.fixture(autouse=True)
def _one_environment() -> Iterator[None]:
    """After a `map` in several processes, datasets leaves a copy as `os.environ`; rich goes on reading the first one,
    so that later tests of the same process would set a `COLUMNS` that nobody reads."""
    first = os.environ
    yield
    os.environ = first  # noqa: B003


@pytest.fixture(scope="module", autouse=True)
def _imports_are_no_garbage() -> None:
    """A collection of garbage need not look through all that was imported; an environment that ran took it out again."""
    if not gc.get_freeze_count():
        gc.freeze()


def pytest_sessionfinish() -> None:
    gc.unfreeze()  # what is frozen outlives the interpreter, and Triton reports it as leaks


@pytest.fixture(scope="session")
def tokenizer_of() -> Callable[[str], Any]:
    return build_tokenizer


@pytest.fixture(scope="session")
def haystacks_of() -> Callable[..., Haystacks]:
    return make_haystacks


@pytest.fixture(scope="session", params=TOKENIZERS)
def tokenizer_name(request: pytest.FixtureRequest) -> str:
    build_tokenizer(request.param)  # skips here, with its reason, if it cannot be had
    return request.param


@pytest.fixture(scope="session")
def gpt2() -> Any:
    return build_tokenizer("gpt2")
