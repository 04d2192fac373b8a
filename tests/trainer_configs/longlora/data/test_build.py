"""`longthread longlora data` from text to rows that are read again: exact, complete, counted, resumable."""

import errno
import gzip
import json
import multiprocessing
import os
import signal
import threading
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from environments.haystack.filler import prose
from longthread.errors import ConfigError, RunError
from tests.environments.patience import PATIENCE
from trainer_configs.longlora.data import build as data
from trainer_configs.longlora.data.build import Settings, build
from trainer_configs.longlora.data.command import REASONS, app
from trainer_configs.longlora.data.encoder import Encoder, load_encoder, sentence_borders, token_cuts
from trainer_configs.longlora.data.quality import Checks
from trainer_configs.longlora.data.sources import Source

NOVEL = gzip.decompress((Path(__file__).parents[3] / "data" / "persuasion.txt.gz").read_bytes()).decode()
OPEN = Checks(0, False, 1, "any", 0, 1, 0)  # every check off
PROSE = ["\n\n".join(map(prose.join, islice(prose.passages(seed, "train"), 1 + seed % 7))) for seed in range(60)]


@pytest.fixture(scope="session")
def gpt2_folder(tokenizer_of, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer") / "gpt2"
    tokenizer_of("gpt2").save_pretrained(folder)
    return str(folder)


def write_corpus(folder):
    path = folder / "corpus.jsonl"
    path.write_text("".join(json.dumps({"text": text, "n": 1}) + "\n" for text in PROSE))
    return path


@pytest.fixture
def corpus(tmp_path):
    return write_corpus(tmp_path)


def make(source, out, tokenizer, **options):
    options = {"length": 512, "num_proc": 1, "checks": OPEN} | options
    return Settings(Source(str(source)), out, tokenizer, **options)


def read(out):
    """All rows of a folder, as columns of lists, checked for what Axolotl relies on."""
    columns = {}
    for path in sorted((out / "data").iterdir()):
        assert path.suffix == ".parquet"
        for name, values in pq.read_table(path).to_pydict().items():
            columns.setdefault(name, []).extend(values)
    assert list(columns) == ["input_ids", "labels", "position_ids", "length"]  # a mask would hide the positions
    for ids, labels, positions, length in zip(*columns.values(), strict=True):
        assert len(ids) == len(positions) == length and labels == ids
        assert positions[0] == 0 and all(b in (0, a + 1) for a, b in zip(positions, positions[1:], strict=False))
    return columns


def pieces(columns):
    """Documents, or their parts, of each row, by the restarts of the positions."""
    for ids, positions in zip(columns["input_ids"], columns["position_ids"], strict=True):
        yield [part.tolist() for part in np.split(np.array(ids), np.flatnonzero(np.array(positions) == 0)[1:])]


def files(out):
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


# ---- tokens -----------------------------------------------------------------------------------------------------


def test_blocks_give_the_tokens_of_the_whole(tokenizer_of, tokenizer_name):
    encoder = Encoder(tokenizer_of(tokenizer_name))
    for text in (NOVEL, "\n\n".join(PROSE[:30]), "", "  ", "word " * 9000):
        whole, spans = encoder.encode(text)
        ids, chars = encoder.encode_long(text, sentence_borders(text))
        assert ids.tolist() == whole.tolist() and chars.tolist() == spans.tolist()


def test_cuts_are_at_sentences(tokenizer_of, tokenizer_name):
    tokenizer = tokenizer_of(tokenizer_name)
    encoder, text = Encoder(tokenizer), NOVEL[:30_000]
    borders = sentence_borders(text)
    ids, chars = encoder.encode(text)
    cuts = token_cuts(chars, borders)
    starts = set(borders[:, 1].tolist())
    assert len(cuts) > (0.9 if tokenizer_name != "crossing" else 0.2) * len(borders)
    for cut in cuts.tolist():
        first, before = chars[cut], text[: chars[cut - 1][1]].rstrip()
        assert any(start in starts for start in range(first[0], first[1]))
        assert before[-1] in ".?!'\")" and text[len(before) : first[0]].strip() == ""


def test_a_document_cannot_spell_control_tokens(tokenizer_of):
    tokenizer = tokenizer_of("gpt2")
    encoder = Encoder(tokenizer)
    ids, _ = encoder.encode("It ended.<|endoftext|> It began.")
    assert encoder.eos not in ids.tolist() and "<|endoftext|>" in tokenizer.decode(ids)
    assert encoder.eos in encoder.encode("It ended.<|endoftext|>", special=True)[0].tolist()


def test_borders_of_other_scripts():
    text = "今日は雨です。外に出ません。「いいえ。」と言う。"
    assert [text[a:b] for a, b in sentence_borders(text)] == ["", "", ""]
    assert [text[:a] for a, _ in sentence_borders(text)][0] == "今日は雨です。"


# ---- join -------------------------------------------------------------------------------------------------------


def test_join_holds_every_token_once_and_bounds_documents(corpus, tmp_path, gpt2_folder):
    stats, made = build(make(corpus, tmp_path / "out", gpt2_folder, chunk_chars=20_000))
    columns, encoder = read(tmp_path / "out"), load_encoder(gpt2_folder)
    assert made == stats["rows"] == len(columns["input_ids"]) and set(columns["length"]) == {512}
    documents = [[*encoder.encode(text)[0].tolist(), encoder.eos] for text in PROSE]
    wanted = sorted(token for document in documents for token in document)
    written = sorted(token for ids in columns["input_ids"] for token in ids)
    assert len(wanted) - len(written) == stats["left_over_tokens"] + stats["rejected_tokens"].get("left_over", 0) < 512
    texts = [" ".join(map(str, document)) + " " for document in documents]
    ends = unfinished = 0
    for row in pieces(columns):
        for piece in row:
            assert any(" ".join(map(str, piece)) + " " in text for text in texts)  # of one document, as it stands
            assert encoder.eos not in piece[:-1]
            ends += piece[-1] == encoder.eos
            text = encoder.tokenizer.decode(piece).removesuffix("<|endoftext|>").rstrip()
            unfinished += text[-1] not in ".?!'\""
    assert stats["units"] == len(PROSE) == stats["kept"] + sum(stats["rejected"].values())
    assert ends >= stats["kept"] - 16 and unfinished <= stats["cut_rows"] <= 0.02 * stats["rows"]
    assert stats["pieces"] == sum(len(row) for row in pieces(columns))


@given(
    st.lists(st.sampled_from([*PROSE[:9], "", "no end", "Hi.", "<b>", NOVEL[:3000]]), min_size=1, max_size=12),
    st.data(),
)
@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_counts_add_up_whatever_comes(tmp_path_factory, gpt2_folder, texts, draw):
    folder = tmp_path_factory.mktemp("any")
    (folder / "x.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in [*texts, "It ends."]))
    mode = draw.draw(st.sampled_from(["join", "window"]))
    checks = draw.draw(st.sampled_from([OPEN, Checks(), Checks(truncated=False, language="any")]))
    length = draw.draw(st.sampled_from([16, 100, 512]))
    overlap = draw.draw(st.integers(0, length // 4)) if mode == "window" else 0
    options = {"length": length, "mode": mode, "overlap": overlap, "checks": checks, "chunk_chars": 5000}
    stats, _ = build(make(folder / "x.jsonl", folder / "out", gpt2_folder, **options))
    assert stats["units"] == stats["kept"] + sum(stats["rejected"].values())
    assert stats["unit_tokens"] == stats["rows"] * length + stats["left_over_tokens"]
    assert set(stats["rejected"]) <= set(REASONS)
    if stats["rows"]:
        assert set(read(folder / "out")["length"]) == {length}
    if mode == "join":
        assert stats["units"] == len(texts) + 1


def test_each_reason_is_counted(tmp_path, gpt2_folder):
    long = [text for text in PROSE if len(text) > 4000][:4]
    # the same text but for a name; the same paragraph over and over
    near, loop = long[0].replace(" the ", " the ", 1) + " So it was.", (long[1][:300] + "\n\n") * 20 + "It ended."
    html = "<p class='x'>It was he and she who had to be there. </p>" * 40 + "."
    german = "Niemand weiss, warum der Hund heute so laut bellt und warum die Katze schweigt, obwohl es regnet. " * 30
    texts = [*long, near, loop, html, german, long[3][:-9], "Too short."]
    path = tmp_path / "mixed.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    stats, _ = build(make(path, tmp_path / "out", gpt2_folder, length=256, checks=Checks(min_share=0.1)))
    expected = dict.fromkeys(("too_short", "truncated", "markup", "language", "repeated", "near_duplicate"), 1)
    assert stats["rejected"] == expected and stats["kept"] == 4


# ---- window -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("overlap", [0, 100])
def test_windows_stand_in_the_text_and_share_what_they_say(tmp_path, gpt2_folder, overlap):
    (tmp_path / "novel.txt").write_text(NOVEL)
    options = {"length": 1024, "mode": "window", "overlap": overlap}
    stats, _ = build(
        make(tmp_path / "novel.txt", tmp_path / "whole", gpt2_folder, **options, checks=replace(OPEN, truncated=True))
    )
    plain, _ = build(make(tmp_path / "novel.txt", tmp_path / "plain", gpt2_folder, **options))
    encoder = load_encoder(gpt2_folder)
    ids, chars = encoder.encode(NOVEL)
    cuts = {0, len(ids) + 1, *token_cuts(chars, sentence_borders(NOVEL)).tolist()}
    text = [*ids.tolist(), encoder.eos]
    places = {}
    for place in range(len(text)):
        places.setdefault(tuple(text[place : place + 16]), place)
    for out, result in ((tmp_path / "whole", stats), (tmp_path / "plain", plain)):
        columns = read(out)
        assert set(columns["length"]) == {1024}
        starts = [places[tuple(row[:16])] for row in columns["input_ids"]]
        shared = [a + 1024 - b for a, b in zip(starts, starts[1:], strict=False)]
        for start, row in zip(starts, columns["input_ids"], strict=True):
            assert row == text[start : start + 1024] and start in cuts
            assert start + 1024 in cuts or out.name == "plain"
        assert result["overlaps"] == len(shared) and result["overlap_tokens"] == sum(max(0, s) for s in shared)
    assert all(s >= overlap for s in shared) and plain["overlap_min"] == min(shared)  # of "plain"
    assert plain["cut_rows"] > 0 == stats["cut_rows"]
    covered = set()
    for row in read(tmp_path / "whole")["input_ids"]:
        start = places[tuple(row[:16])]
        covered |= set(range(start, start + 1024))
    assert len(text) - len(covered) == sum(stats["rejected_tokens"].values())  # what no window holds is counted


# ---- sources ----------------------------------------------------------------------------------------------------


def test_prose_and_needles(tmp_path, gpt2_folder):
    stats, _ = build(make("prose", tmp_path / "prose", gpt2_folder, length=1024, limit=20, checks=Checks()))
    assert stats["rows"] == 20 and not set(stats["rejected"]) - {"left_over"}
    stats, _ = build(make("needles", tmp_path / "needles", gpt2_folder, length=1024, limit=10, checks=Checks()))
    columns, tokenizer = read(tmp_path / "needles"), load_encoder(gpt2_folder).tokenizer
    assert len(columns["length"]) == 10 and set(columns["length"]) == {1024} and stats["pieces"] == 10
    found = 0
    for ids in columns["input_ids"]:
        prompt, _, reply = tokenizer.decode(ids).rpartition("<|im_start|>assistant\n")
        answer = reply.partition("<answer>")[2].partition("</answer>")[0]
        assert answer and ids[-1] == tokenizer.eos_token_id
        found += all(value in prompt for value in answer.split("; ")) and answer != "none"
    assert found >= 5  # the text holds what is answered; some ask for what it does not hold


def test_folders_files_and_datasets_give_the_same_rows(tmp_path, gpt2_folder):
    (tmp_path / "books").mkdir()
    for number, text in enumerate(PROSE[:9]):
        (tmp_path / "books" / f"{number}.txt").write_text(text)
    pq.write_table(pa.table({"body": PROSE[:9]}), tmp_path / "x.parquet")
    build(make(tmp_path / "books", tmp_path / "a", gpt2_folder))
    build(replace(make("", tmp_path / "b", gpt2_folder), source=Source(str(tmp_path / "x.parquet"), "body")))
    assert read(tmp_path / "a") == read(tmp_path / "b")


def test_long_files_are_parted_without_loss(tmp_path, monkeypatch):
    monkeypatch.setattr("environments.haystack.filler.corpora.DOCUMENT_CHARS", 10_000)
    (tmp_path / "long.txt").write_text(NOVEL)
    parts = list(Source(str(tmp_path / "long.txt")).items())
    assert "".join(parts) == NOVEL and max(map(len, parts)) <= 10_000 and len(parts) > 9
    assert all(part.endswith("\n") for part in parts[:-1])
    assert list(Source(str(tmp_path / "long.txt")).items(3)) == parts[3:]


# ---- runs -------------------------------------------------------------------------------------------------------


def test_processes_change_nothing(corpus, tmp_path, gpt2_folder):
    one, two = (
        make(corpus, tmp_path / f"out{n}", gpt2_folder, num_proc=n, checks=Checks(), chunk_chars=60_000) for n in (1, 2)
    )
    build(one)
    build(two)
    assert files(one.out) == files(two.out) and len(files(one.out)) > 2


def build_to_the_first_shard(run, reached):
    """For a process of its own: builds in a process group of its own, and waits for ever where its first shard stands and
    its state does not."""
    os.setsid()
    replace_file = Path.replace

    def waiting(self, target):
        replace_file(self, target)
        if Path(target).name.startswith("train-"):
            reached.set()
            threading.Event().wait()

    Path.replace = waiting
    build(run)


def test_killed_runs_go_on_to_the_same_bytes(tmp_path, gpt2_folder):
    corpus = tmp_path / "corpus.jsonl"
    texts = [text for text in PROSE if len(text) > 2000] * 2  # the second half: near-duplicates of the first
    corpus.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    killed, whole = (
        make(corpus, tmp_path / name, gpt2_folder, checks=Checks(), chunk_chars=12_000) for name in ("a", "b")
    )
    forked = multiprocessing.get_context("fork")  # all is imported already
    reached = forked.Event()
    process = forked.Process(target=build_to_the_first_shard, args=(replace(killed, num_proc=2), reached))
    process.start()
    try:
        assert reached.wait(PATIENCE)
        os.killpg(process.pid, signal.SIGKILL)
        process.join()
    finally:
        process.kill()
    assert process.exitcode == -signal.SIGKILL and not (killed.out / data.STATS).exists()
    done = len(list(killed.out.glob("data/train-*.parquet")))
    stats, made = build(killed)
    assert 0 < made == stats["rows"] and done == 1  # all of them: that shard is written anew
    build(whole)
    assert files(killed.out) == files(whole.out) and stats["rejected"]["near_duplicate"] >= len(texts) // 2 - 1
    assert build(killed) == (stats, 0)  # a finished run is recognised


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, gpt2_folder):
    """A run, and the files that it left."""
    folder = tmp_path_factory.mktemp("undisturbed")
    run = make(write_corpus(folder), folder / "out", gpt2_folder, checks=Checks(), chunk_chars=40_000)
    build(run)
    return run, files(run.out)


@pytest.mark.parametrize("broken", range(1, 6))
def test_stopping_anywhere_loses_nothing(undisturbed, tmp_path, monkeypatch, broken):
    """The disk is full at the n-th file: one line, whole shards stay, and the same command goes on."""
    run = replace(undisturbed[0], out=tmp_path / "out")
    calls, replace_file = [], Path.replace

    def full(self, target):
        calls.append(target)
        if len(calls) == broken + 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        return replace_file(self, target)

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(RunError, match="No space left on device; the . shards there are whole: make room") as error:
        build(run)
    assert "\n" not in str(error.value)
    assert not list(run.out.rglob("*.part"))
    monkeypatch.undo()
    build(run)
    assert files(run.out) == undisturbed[1]


def test_another_run_in_the_folder_is_refused(corpus, tmp_path, gpt2_folder):
    run = make(corpus, tmp_path / "out", gpt2_folder)
    build(run)
    for other, name in (
        (replace(run, length=256), "length"),
        (replace(run, checks=Checks()), "checks"),
        (replace(run, seed=3), "seed"),
    ):
        with pytest.raises(ConfigError, match=f"holds a run with another {name}") as error:
            build(other)
        assert "\n" not in str(error.value)
    build(replace(run, num_proc=2))  # the same rows
    corpus.write_text(corpus.read_text() * 2)
    with pytest.raises(ConfigError, match="another files"):
        build(run)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes").write_text("mine")
    with pytest.raises(ConfigError, match="holds something else"):
        build(replace(run, out=tmp_path / "full"))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"length": 15}, "length 15 must lie between 16 and"),
        ({"length": 1 << 23}, "length 8388608 must lie between"),
        ({"mode": "slide"}, r"mode must be one of join, window \(got 'slide'\)"),
        ({"mode": "window", "overlap": 512}, "overlap 512 must be at least 0 and below the length 512"),
        ({"overlap": 5}, "no meaning in mode join"),
        ({"mode": "window", "overlap": 500, "checks": Checks()}, "near-duplicate of the one before"),
        ({"limit": -1}, "limit -1 must be at least 0"),
        ({"num_proc": 0}, "num_proc 0 must be at least 1"),
        ({"checks": Checks(max_markup=2)}, r"max_markup 2 must lie between 0 and 1 \(max_markup\)"),
        ({"checks": Checks(language="klingon")}, "language must be one of en, any, .* \\(got 'klingon'\\)"),
        ({"source": Source("prose")}, r"prose is endless: give the number of rows \(limit\)"),
        ({"source": Source("needles"), "limit": 3, "mode": "window"}, "cannot be windowed"),
        ({"source": Source("CORPUS", "body")}, "has no column 'body': use one of n, text"),
        ({"source": Source("CORPUS", "n")}, "column 'n' of .* holds int"),
        ({"source": Source("missing.txt")}, "missing.txt does not exist"),
        ({"source": Source("missing.jsonl")}, "missing.jsonl does not exist"),
        ({"source": Source("owner/missing")}, "cannot load dataset .* give a local folder or file"),
        ({"source": Source("EMPTY")}, "no .txt or .md file below"),
        ({"source": Source("BLANK")}, "holds no text"),
        ({"tokenizer": "missing/tokenizer"}, r"cannot be loaded .* give a local folder .* \(tokenizer\)$"),
    ],
)
def test_errors_are_one_line_before_any_work(corpus, tmp_path, gpt2_folder, change, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "blank.txt").write_text(" \n\n ")
    places = {"CORPUS": corpus, "EMPTY": tmp_path / "empty", "BLANK": tmp_path / "blank.txt"}
    if "source" in change:
        name = change["source"].name
        change = change | {"source": replace(change["source"], name=str(places.get(name, name)))}
    with pytest.raises(ConfigError, match=message) as error:
        build(replace(make(corpus, tmp_path / "out", gpt2_folder), **change))
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()


def test_tokenizers_that_cannot_serve(tokenizer_of, tmp_path):
    from transformers import PreTrainedTokenizerFast

    bare = PreTrainedTokenizerFast(tokenizer_object=tokenizer_of("gpt2").backend_tokenizer)
    with pytest.raises(ConfigError, match="has no eos token"):
        Encoder(bare)


def test_bos_comes_before_every_document_if_the_tokenizer_wants_it(tmp_path, tokenizer_of):
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoTokenizer

    tokenizer_of("mistral").save_pretrained(tmp_path / "bos")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "bos")
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)]
    )
    tokenizer.save_pretrained(tmp_path / "bos")
    encoder = load_encoder(str(tmp_path / "bos"))
    assert encoder.bos == [tokenizer.bos_token_id]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in PROSE[:20]))
    build(make(tmp_path / "x.jsonl", tmp_path / "out", str(tmp_path / "bos")))
    begun = 0
    for row in pieces(read(tmp_path / "out")):
        for piece in row:
            assert encoder.bos[0] not in piece[1:] and encoder.eos not in piece[:-1]
            begun += piece[0] == encoder.bos[0]
    assert begun >= 18
    build(make(tmp_path / "x.jsonl", tmp_path / "w", str(tmp_path / "bos"), mode="window", length=128))
    assert {row[0] for row in read(tmp_path / "w")["input_ids"]} == set(encoder.bos)


def test_the_folder_is_what_load_dataset_reads(corpus, tmp_path, gpt2_folder, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    stats, _ = build(make(corpus, tmp_path / "out", gpt2_folder, chunk_chars=60_000))
    loaded = datasets.load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded.num_rows == stats["rows"]
    assert {"input_ids", "labels", "position_ids"} <= set(loaded.features)
    assert loaded[0]["input_ids"] == read(tmp_path / "out")["input_ids"][0]


def test_command(corpus, tmp_path, gpt2_folder):
    runner = CliRunner()
    arguments = ["data", str(corpus), str(tmp_path / "out"), "--tokenizer", gpt2_folder, "--num-proc", "1"]
    result = runner.invoke(app, [*arguments, "--length", "512"])
    assert result.exit_code == 0 and "kept" in result.output and "near_duplicate" in result.output
    assert "tokens/s" in result.output.replace("\n", " ") and "sequence_len: 512" in result.output
    assert "already there" in runner.invoke(app, [*arguments, "--length", "512"]).output
    for _ in range(2):  # made, and there already
        result = runner.invoke(
            app, ["data", str(corpus), str(tmp_path / "none"), *arguments[3:], "--length", "4194304"]
        )
        assert result.exit_code == 1 and "no row of 4,194,304 tokens" in result.stderr
        assert "for Axolotl" not in result.output  # it would fail to load them
    result = runner.invoke(app, [*arguments, "--length", "7"])
    assert result.exit_code == 2 and result.stderr.startswith("error: length 7 must lie between 16 and")
    assert result.stderr.endswith("(--length)\n") and result.stderr.count("\n") == 1
