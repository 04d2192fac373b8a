"""Training rows: rollouts of a real `process`, then the pure selection, then the command and its errors."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import processors
from typer.testing import CliRunner

from environments.datasets.chat_text import in_template
from environments.datasets.export import ExportJob, app, export
from environments.datasets.process_rows import ProcessRow, right_reply
from environments.datasets.select import (
    DEPTH_BINS,
    REASONS,
    AskedSample,
    Candidate,
    SelectionRules,
    answer_of,
    best_completions,
    completion_candidates,
    preference_pairs,
    select,
)
from environments.haystack.sample import Haystacks, Options
from environments.haystack.tasks import TASKS
from environments.haystack.tasks.task import Answer
from environments.inference.contracts import Completion
from environments.rollouts.rollout import RolloutGroup, RolloutRequest
from environments.rollouts.scoring import score
from tests.environments.loopback import ChatServer, choice, make_env, rows_of, tokenizer_folder
from tests.environments.tiny_model import tiny_tokenizer

KINDS = ("sft", "dpo", "pretrain")
GROUPS = 6
ASKED = "single,multi_value,chain"
LENGTH = 6000  # tokens (bytes, with the tiny tokenizer) that hold a chain and its decoys


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tokenizer_folder(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tokenizer: Path) -> dict[str, Any]:
    """Rollouts of `process`, compact and full, of a model that is right, wrong, silent, cut off, and says nothing."""
    folder = tmp_path_factory.mktemp("rollouts")
    right: dict[str, str] = {}

    def reply(body: dict[str, Any], _: int) -> list[dict[str, Any]]:
        said = f"<answer>{right[body['messages'][-1]['content']]}</answer>"
        wrong, none = choice("<answer>zzz</answer>"), choice("<answer>none</answer>")
        return [choice(said), choice(f"{said}\n"), wrong, none, choice(f"Well: {said}", "length"), choice(" ")]

    made: dict[str, Any] = {"tokenizer": tokenizer}
    with ChatServer(reply).running() as server:
        for store in ("compact", "full"):
            path = made[store] = folder / f"{store}.jsonl"
            env = make_env(
                tokenizer,
                server.url,
                tasks=ASKED,
                lengths=str(LENGTH),
                store=store,
                group_size=6,
                total_steps=GROUPS,
                data_path_to_save_groups=str(path),
            )
            made["samples"] = [env.build(env.request(i))[0] for i in range(GROUPS)]
            right |= {s.messages[0]["content"]: "; ".join(s.answer.values) or "none" for s in made["samples"]}
            asyncio.run(env.process_manager())
    return made


def run(kind: str, *arguments: object) -> Any:
    return CliRunner().invoke(app, [kind, *map(str, arguments)])


def exported(made: dict[str, Any], kind: str, out: Path, *arguments: object, store: str = "full") -> list[Any]:
    result = run(kind, made[store], out, "--tokenizer", made["tokenizer"], *arguments)
    assert result.exit_code == 0, result.output
    return rows_of(out)


def error_of(result: Any, code: int = 2) -> str:
    """The one line of an error; progress is not counted."""
    assert result.exit_code == code and (result.exception is None or isinstance(result.exception, SystemExit))
    said = [line for line in result.stderr.splitlines() if line.strip() and not line.startswith(("read:", "write:"))]
    assert len(said) == 1 and said[0].startswith("error: "), said
    return said[0]


# ---- rows of a real run ----


@pytest.mark.parametrize("kind", KINDS)
def test_compact_and_full_rollouts_give_the_same_bytes(made: dict[str, Any], tmp_path: Path, kind: str) -> None:
    exported(made, kind, tmp_path / "a.jsonl", store="compact")
    exported(made, kind, tmp_path / "b.jsonl")
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_full_rollouts_need_no_tokenizer(made: dict[str, Any], tmp_path: Path) -> None:
    assert run("dpo", made["full"], tmp_path / "a.jsonl").exit_code == 0
    assert rows_of(tmp_path / "a.jsonl") == exported(made, "dpo", tmp_path / "b.jsonl")


def test_conversations_are_the_samples_own_words_and_the_reply(made: dict[str, Any], tmp_path: Path) -> None:
    """Stronger than a search for leaks: there is nothing in the text that the model was not asked or did not say."""
    right = {s.messages[0]["content"]: s for s in made["samples"]}
    rows = exported(made, "sft", tmp_path / "a.jsonl")
    assert {row["messages"][0]["content"] for row in rows} == set(right) and len(rows) == GROUPS
    for row in rows:
        sample = right[row["messages"][0]["content"]]
        said = "; ".join(sample.answer.values) or "none"
        assert row == {
            "messages": [*sample.messages, {"role": "assistant", "content": f"<answer>{said}</answer>"}],
            "score": 1.0,
            "task": sample.recipe["task"],
            "prompt_tokens": sample.length,
        }


def test_prompts_are_exact_to_the_token(made: dict[str, Any], tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    rows = exported(made, "dpo", tmp_path / "a.jsonl")
    for row in rows:
        for conversation in (row["chosen"], row["rejected"]):
            prompt = tokenizer.apply_chat_template(conversation[:-1], add_generation_prompt=True, return_dict=False)
            assert len(prompt) == row["prompt_tokens"] == LENGTH


def test_pairs_differ_in_the_reply_alone(made: dict[str, Any], tmp_path: Path) -> None:
    rows = exported(made, "dpo", tmp_path / "a.jsonl")
    assert len(rows) == GROUPS
    for row in rows:
        assert row["chosen"][:-1] == row["rejected"][:-1]
        assert row["score_chosen"] == 1.0 and row["score_rejected"] <= 0.02
        # What Axolotl looks for in the rendered template; blanks at its ends, or nothing, would give a wrong row.
        for reply in (row["chosen"][-1]["content"], row["rejected"][-1]["content"]):
            assert reply == reply.strip() != ""


def test_pretraining_text_is_the_prompt_and_the_right_answer(made: dict[str, Any], tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    prompts = {
        tokenizer.apply_chat_template(s.messages, tokenize=False, add_generation_prompt=True): s
        for s in made["samples"]
    }
    rows = exported(made, "pretrain", tmp_path / "a.jsonl")
    assert len(rows) == GROUPS
    for row in rows:
        prompt, sample = next((p, s) for p, s in prompts.items() if row["text"].startswith(p))
        reply = row["text"].removeprefix(prompt).removesuffix("<|im_end|>")
        assert score(reply, sample.answer).score == 1.0
        assert tokenizer(row["text"])["input_ids"][-1] == tokenizer.eos_token_id


def test_no_completion_is_lost_from_the_count(made: dict[str, Any], tmp_path: Path) -> None:
    paths = (made["full"],)
    outcome = export(ExportJob("sft", paths, tmp_path / "a.jsonl", SelectionRules(min_score=1.0)))
    # Where the fact is absent, "none" is the right reply itself.
    absent = sum(s.answer.kind == "absent" for s in made["samples"])
    assert outcome.read == 6 * GROUPS and outcome.rows == outcome.samples == GROUPS == outcome.kept
    assert outcome.dropped == {
        "truncated": GROUPS,
        "empty": GROUPS,
        "duplicate": GROUPS + absent,
        "low_score": 2 * GROUPS - absent,
    }


@pytest.mark.parametrize("kind", KINDS)
def test_every_row_fits_the_sequence_len_that_is_named(made: dict[str, Any], tmp_path: Path, kind: str) -> None:
    """axolotl-ai-cloud/axolotl 3547, PR 2211: rows above sequence_len are dropped, or cut, without a line."""
    tokenizer = tiny_tokenizer()
    outcome = export(ExportJob(kind, (made["full"],), tmp_path / "a.jsonl", SelectionRules(min_score=0.01), tokenizer))
    for row in rows_of(tmp_path / "a.jsonl"):
        for name in {"messages", "chosen", "rejected"} & row.keys():
            ids = tokenizer.apply_chat_template(row[name], return_dict=False)
            assert len(ids) <= outcome.sequence_len
        assert len(tokenizer(row.get("text", ""))["input_ids"]) <= outcome.sequence_len


def test_order_of_the_lines_and_their_spread_over_files_change_nothing(made: dict[str, Any], tmp_path: Path) -> None:
    lines = made["full"].read_text(encoding="utf-8").splitlines(keepends=True)
    Random(1).shuffle(lines)
    parts = [tmp_path / "x.jsonl", tmp_path / "y.jsonl"]
    parts[0].write_text("".join(lines[:2]) + lines[3], encoding="utf-8")
    parts[1].write_text("".join(lines[2:]), encoding="utf-8")  # line 3 stands in both
    more = ["--per-sample", 0, "--limit", 3, "--seed", 5]
    exported(made, "dpo", tmp_path / "a.jsonl", *more)
    assert run("dpo", *parts, tmp_path / "b.jsonl", *more).exit_code == 0
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()


def test_blanks_around_a_reply_change_nothing(made: dict[str, Any], tmp_path: Path) -> None:
    rows = rows_of(made["full"])
    for row in rows:
        row["completions"] = [f"\n {text} " for text in row["completions"]]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run("dpo", tmp_path / "in.jsonl", tmp_path / "a.jsonl").exit_code == 0
    assert rows_of(tmp_path / "a.jsonl") == exported(made, "dpo", tmp_path / "b.jsonl")


@pytest.mark.parametrize(
    ("finish_reason", "fault"),
    [
        ("stop", ""),
        ("eos", ""),  # vespa-engine/vespa PR 33327: Together
        ("end_turn", ""),  # aws-samples/bedrock-access-gateway 11
        ("length", "truncated"),
        ("max_tokens", "truncated"),  # UKGovernmentBEIS/inspect_ai 5143
        ("content_filter", "filtered"),
        ("abort", "broken_off"),
        ("whatever", "unknown_finish_reason"),
        (None, "no_finish_reason"),
    ],
)
def test_only_a_reply_known_to_be_whole_is_used(row_of: Any, finish_reason: str | None, fault: str) -> None:
    row, _ = row_of("single")
    row = row.model_copy(update={"completions": ["<answer>x</answer>"], "finish_reasons": [finish_reason]})
    assert [c.fault for c in completion_candidates(row, (0, 0))] == [fault]


def test_the_seed_decides_what_is_drawn(made: dict[str, Any], tmp_path: Path) -> None:
    drawn = {seed: exported(made, "sft", tmp_path / f"{seed}.jsonl", "--limit", 2, "--seed", seed) for seed in range(4)}
    assert all(len(rows) == 2 for rows in drawn.values()) and any(drawn[0] != rows for rows in drawn.values())


@pytest.mark.parametrize("kind", KINDS)
def test_datasets_reads_the_rows_with_one_schema(made: dict[str, Any], tmp_path: Path, kind: str) -> None:
    """In small blocks: a score written as 1 in one and as 0.5 in the next would be two types."""
    import datasets

    lines = rows_of(made["full"])
    for row in lines[:3]:
        row["scores"] = [int(score) for score in row["scores"]]
    (tmp_path / "ints.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    rules = SelectionRules(min_score=0.01, min_margin=0.5)
    export(ExportJob(kind, (tmp_path / "ints.jsonl",), tmp_path / "a.jsonl", rules, tiny_tokenizer()))
    read = datasets.load_dataset(
        "json", data_files=str(tmp_path / "a.jsonl"), split="train", chunksize=4096, cache_dir=str(tmp_path / "cache")
    )
    assert read.to_list() == rows_of(tmp_path / "a.jsonl")
    assert all(read.features[name].dtype == "float64" for name in read.features if name.startswith("score"))


# ---- the right reply and the answer said ----


@pytest.fixture(scope="module")
def row_of() -> Callable[..., tuple[ProcessRow, Any]]:
    """A row of `process` with one completion, of any task and options, and its sample."""
    base = Haystacks(tiny_tokenizer(), Options(pool_tokens=4 * LENGTH))

    def make(task: str, seed: int = 0, **options: Any) -> tuple[ProcessRow, Any]:
        haystacks = base.variant(Options(pool_tokens=4 * LENGTH, **options))
        length = LENGTH if task != "reconstruct" else 2 * LENGTH  # its question quotes paragraphs
        sample = haystacks.sample(seed, "train", task, length)
        row = RolloutGroup(
            RolloutRequest(0, seed, "train", task, LENGTH),
            sample,
            [],
            [Completion("", [], None, "stop")],
            [score("", sample.answer)],
        )
        return ProcessRow.model_validate_json(json.dumps(row.row(False))), sample

    return make


@pytest.mark.parametrize("task", [task for task in TASKS if task != "custom"])
@pytest.mark.parametrize("options", [{}, {"numbered": True}, {"answer_format": "plain"}], ids=str)
def test_the_right_reply_earns_the_whole_score(row_of: Any, task: str, options: dict[str, Any]) -> None:
    if options.get("numbered") and TASKS[task].items:
        pytest.skip("the whole text is the evidence")
    row, sample = row_of(task, **options)
    evidence = sample.evidence if options.get("numbered") else None
    earned = score(right_reply(row), sample.answer, options.get("answer_format", "tags"), evidence)
    assert earned.score == 1.0 and earned.correct


def test_steps_and_evidence_are_shown_where_they_are_asked_for(row_of: Any) -> None:
    row, sample = row_of("chain", numbered=True, hops="3")
    cited = ", ".join(map(str, sorted(sample.evidence)))
    assert right_reply(row) == (
        f"<steps>{'; '.join(sample.answer.steps)}</steps> <evidence>{cited}</evidence> "
        f"<answer>{sample.answer.values[0]}</answer>"
    )


SET = Answer("set", ("ab-1", "cd-2"), "words")


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ("<answer>AB-1; cd-2</answer>", "I think <answer>cd-2, “ab-1”.</answer>", True),
        ("<think>x</think><answer>ab-1</answer>", "<steps>y</steps> <answer>ab-1</answer>", True),
        ("<answer>none</answer>", "<answer>Not stated.</answer>", True),
        ("<answer>ab-1</answer>", "<answer>ab-1; cd-2</answer>", False),
        ("<answer>ab-1</answer>", "ab-1", False),
        ("<answer></answer>", "<answer>none</answer>", False),
    ],
)
def test_answers_are_compared_as_scoring_compares_them(a: str, b: str, same: bool) -> None:
    assert (answer_of(a, SET, "tags") == answer_of(b, SET, "tags")) is same


def test_a_list_in_another_order_says_something_else() -> None:
    listed = Answer("list", SET.values, "words")
    assert answer_of("<answer>a; b</answer>", listed, "tags") != answer_of("<answer>b; a</answer>", listed, "tags")


def test_text_does_not_begin_twice() -> None:
    """Axolotl's `completion` tokenises with special tokens; a template that writes the first one would double it."""
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{{ bos_token }}" + tokenizer.chat_template
    messages = [{"role": "user", "content": "hi"}]
    plain = in_template(tokenizer, messages)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", tokenizer.bos_token_id)]
    )
    rendered = tokenizer.apply_chat_template(messages, return_dict=False)
    assert tokenizer(in_template(tokenizer, messages))["input_ids"] == rendered[:-1]  # without the line's end
    assert tokenizer(plain, add_special_tokens=False)["input_ids"] == rendered[:-1]


# ---- the pure selection ----


@st.composite
def sampled(draw: st.DrawFn) -> list[AskedSample]:
    candidate = st.builds(
        Candidate,
        place=st.just((0, 0)),
        index=st.integers(0, 9),
        digest=st.sampled_from("abcdefgh"),
        answer=st.sampled_from("xyz"),
        score=st.sampled_from([0.0, 0.02, 0.25, 0.5, 0.75, 1.0]),
        fault=st.sampled_from(["", "", "", "truncated", "no_finish_reason", "empty"]),
    )
    depths = st.one_of(st.none(), st.floats(0, 1))
    return [
        AskedSample(str(i), (i,), draw(st.sampled_from("st")), draw(st.sampled_from([1, 2])), draw(depths), found)
        for i, found in enumerate(draw(st.lists(st.lists(candidate, max_size=7), max_size=9)))
    ]


RULES = st.builds(
    SelectionRules,
    tasks=st.sampled_from([(), ("s",)]),
    lengths=st.sampled_from([(), (1,)]),
    per_sample=st.integers(0, 3),
    balance=st.booleans(),
    limit=st.integers(0, 6),
    seed=st.integers(0, 3),
    min_score=st.sampled_from([0.0, 0.5, 1.0]),
    min_margin=st.sampled_from([0.0, 0.25, 0.5]),
)
PROPERTY = settings(max_examples=30, deadline=None)


@PROPERTY
@given(sampled(), RULES, st.sampled_from([best_completions, preference_pairs]))
def test_whatever_the_rules_every_completion_is_kept_once_or_counted_once(
    samples: list[AskedSample], rules: SelectionRules, choose: Any
) -> None:
    picks, dropped = select(samples, rules, choose)
    kept = [(pick.asked.key, c.digest) for pick in picks for c in pick.candidates]
    assert len(kept) + dropped.total() == sum(len(s.candidates) for s in samples)
    assert len(set(kept)) == len(kept) and dropped.keys() <= REASONS.keys() and min(dropped.values(), default=1) > 0
    assert not any(c.fault for pick in picks for c in pick.candidates)
    assert not rules.tasks or all(pick.asked.task in rules.tasks for pick in picks)
    assert not rules.lengths or all(pick.asked.length in rules.lengths for pick in picks)
    assert not rules.limit or len(picks) <= rules.limit
    assert not rules.per_sample or max(Counter(p.asked.key for p in picks).values(), default=0) <= rules.per_sample


@PROPERTY
@given(sampled(), RULES)
def test_pairs_keep_their_margin_and_differ_in_the_answer(samples: list[AskedSample], rules: SelectionRules) -> None:
    for pick in select(samples, rules, preference_pairs)[0]:
        chosen, rejected = pick.candidates
        assert chosen.score - rejected.score > rules.min_margin and chosen.answer != rejected.answer


@PROPERTY
@given(sampled(), RULES)
def test_a_pair_is_found_where_there_is_one(samples: list[AskedSample], rules: SelectionRules) -> None:
    """By the definition, over all pairs of sound completions."""
    free = SelectionRules(min_margin=rules.min_margin)
    found = {pick.asked.key for pick in select(samples, free, preference_pairs)[0]}
    for asked in samples:
        best_of = {c.digest: c for c in sorted(asked.candidates, key=lambda c: c.score) if not c.fault}
        sound = best_of.values()
        exists = any(a.score - b.score > free.min_margin and a.answer != b.answer for a in sound for b in sound)
        # Alike texts with other answers cannot be: only then could which duplicate stays decide.
        if len({c.digest for c in asked.candidates}) == len(asked.candidates):
            assert (asked.key in found) is exists


@PROPERTY
@given(sampled(), RULES)
def test_the_best_completions_of_a_sample_are_kept_first(samples: list[AskedSample], rules: SelectionRules) -> None:
    one = SelectionRules(min_score=rules.min_score, per_sample=1, seed=rules.seed)
    kept = {pick.asked.key: pick.candidates[0].score for pick in select(samples, one, best_completions)[0]}
    for asked in samples:
        good = [c.score for c in asked.candidates if not c.fault and c.score >= one.min_score]
        assert kept.get(asked.key) == max(good, default=None)


@PROPERTY
@given(sampled(), RULES, st.sampled_from([best_completions, preference_pairs]))
def test_balance_gives_every_cell_that_has_rows_the_same(
    samples: list[AskedSample], rules: SelectionRules, choose: Any
) -> None:
    def cells(picks: Any) -> Counter[Any]:
        return Counter(pick.asked.cell for pick in picks)

    free = SelectionRules(
        min_score=rules.min_score, min_margin=rules.min_margin, per_sample=rules.per_sample, seed=rules.seed
    )
    before = cells(select(samples, free, choose)[0])
    after = cells(select(samples, SelectionRules(**vars(free) | {"balance": True}), choose)[0])
    assert after == {cell: min(before.values()) for cell in before}
    limited = cells(select(samples, SelectionRules(**vars(free) | {"balance": True, "limit": rules.limit}), choose)[0])
    if rules.limit:
        assert sum(limited.values()) == min(rules.limit, sum(after.values()))
        assert (
            max((limited[cell] for cell in after), default=0) - min((limited[cell] for cell in after), default=0) <= 1
        )


@PROPERTY
@given(sampled(), RULES, st.sampled_from([best_completions, preference_pairs]), st.randoms())
def test_the_order_of_the_input_changes_nothing(
    samples: list[AskedSample], rules: SelectionRules, choose: Any, rng: Random
) -> None:
    def texts(samples: list[AskedSample]) -> Any:
        picks, dropped = select(samples, rules, choose)
        return [(pick.asked.key, [c.digest for c in pick.candidates]) for pick in picks], dropped

    def alike(candidates: list[Candidate]) -> list[Candidate]:
        return list({c.digest: c for c in candidates}.values())  # texts that are alike score alike

    once = [AskedSample(s.key, s.order, s.task, s.length, s.depth, alike(s.candidates)) for s in samples]
    other = [
        AskedSample(s.key, s.order, s.task, s.length, s.depth, rng.sample(s.candidates, len(s.candidates)))
        for s in once
    ]
    assert texts(once) == texts(rng.sample(other, len(other)))


@pytest.mark.parametrize(("depth", "place"), [(None, -1), (0.0, 0), (0.19, 0), (0.2, 1), (1.0, DEPTH_BINS - 1)])
def test_a_cell_is_task_length_and_fifth_of_the_text(depth: float | None, place: int) -> None:
    assert AskedSample("k", (), "single", 100, depth).cell == ("single", 100, place)


def said(digest: str, score: float, answer: str = "", fault: str = "") -> Candidate:
    return Candidate((0, 0), 0, digest, answer or digest, score, fault)


@pytest.mark.parametrize(
    ("choose", "rules", "candidates", "dropped"),
    [
        (best_completions, SelectionRules(tasks=("other",)), [said("a", 1.0)], {"task": 1}),
        (best_completions, SelectionRules(lengths=(2,)), [said("a", 1.0)], {"length": 1}),
        (best_completions, SelectionRules(), [said("a", 1.0, fault="truncated")], {"truncated": 1}),
        (best_completions, SelectionRules(), [said("a", 1.0, fault="no_finish_reason")], {"no_finish_reason": 1}),
        (best_completions, SelectionRules(), [said("a", 1.0, fault="empty")], {"empty": 1}),
        (best_completions, SelectionRules(), [said("a", 1.0), said("a", 1.0)], {"duplicate": 1}),
        (best_completions, SelectionRules(min_score=0.5), [said("a", 0.5), said("b", 0.4)], {"low_score": 1}),
        (best_completions, SelectionRules(per_sample=1), [said("a", 1.0), said("b", 1.0)], {"per_sample": 1}),
        (best_completions, SelectionRules(limit=1), [said("a", 1.0), said("b", 1.0)], {"limit": 1}),
        (preference_pairs, SelectionRules(min_margin=0.5), [said("a", 1.0), said("b", 0.5)], {"margin": 2}),
        (
            preference_pairs,
            SelectionRules(min_margin=0.4),
            [said("a", 1.0, "x"), said("b", 0.5, "x")],
            {"same_answer": 2},
        ),
        (preference_pairs, SelectionRules(), [said("a", 1.0), said("b", 0.0), said("c", 0.0)], {"partner_taken": 1}),
        (
            preference_pairs,
            SelectionRules(per_sample=1),
            [said(x, s) for x, s in zip("abcd", (1, 1, 0, 0), strict=True)],
            {"per_sample": 2},
        ),
    ],
)
def test_what_is_dropped_is_counted_under_its_reason(
    choose: Any, rules: SelectionRules, candidates: list[Candidate], dropped: dict[str, int]
) -> None:
    assert select([AskedSample("k", (), "single", 1, None, candidates)], rules, choose)[1] == dropped


@pytest.mark.parametrize("seed", range(4))
def test_a_limit_takes_from_each_cell_in_turn(seed: int) -> None:
    samples = [AskedSample(str(i), (i,), "st"[i % 2], 1, 0.5, [said("a", 1.0)]) for i in range(8)]
    picks, _ = select(samples, SelectionRules(balance=True, limit=4, seed=seed), best_completions)
    assert Counter(pick.asked.task for pick in picks) == {"s": 2, "t": 2}


def test_what_balance_costs_is_counted() -> None:
    rich = AskedSample("a", (0,), "single", 1, 0.5, [said("a", 1.0), said("b", 1.0)])
    poor = AskedSample("b", (1,), "chain", 1, 0.5, [said("a", 1.0)])
    picks, dropped = select([rich, poor], SelectionRules(balance=True), best_completions)
    assert dropped == {"balance": 1} and [pick.asked.task for pick in picks] == ["single", "chain"]


# ---- the command and its errors ----


def test_the_table_shows_what_was_read_kept_and_dropped(made: dict[str, Any], tmp_path: Path) -> None:
    result = run("sft", made["full"], tmp_path / "a.jsonl")
    assert f"{GROUPS} rollout rows of {GROUPS} samples" in result.stdout and "truncated" in result.stdout
    assert f"path: {tmp_path / 'a.jsonl'}, ds_type: json, type: chat_template" in result.stdout.replace("\n", "")


@pytest.mark.parametrize(("lost", "rows"), [(2, GROUPS - 1), (1, GROUPS)], ids=["torn", "without its end"])
def test_a_torn_last_line_is_passed_over(made: dict[str, Any], tmp_path: Path, lost: int, rows: int) -> None:
    torn = tmp_path / "torn.jsonl"
    torn.write_bytes(made["full"].read_bytes()[:-lost])
    assert run("sft", torn, tmp_path / "a.jsonl").exit_code == 0
    assert len(rows_of(tmp_path / "a.jsonl")) == rows


def test_nothing_left_says_what_to_loosen(made: dict[str, Any], tmp_path: Path) -> None:
    result = run("sft", made["full"], tmp_path / "a.jsonl", "--tasks", "count")
    assert "allow other tasks (--tasks)" in error_of(result, 1) and "task" in result.stdout
    assert not (tmp_path / "a.jsonl").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--tasks", "single,unheard"], "(got 'unheard') (--tasks)"),
        (["--lengths", "short"], "like 1024,4096 (--lengths)"),
        (["--per-sample", "-1"], "(--per-sample)"),
        (["--limit", "-1"], "(--limit)"),
        (["--min-score", "1.5"], "(--min-score)"),
        (["--tokenizer", "nowhere"], "or a hub name that this machine can reach (--tokenizer)"),
    ],
)
def test_a_wrong_setting_is_one_line(made: dict[str, Any], tmp_path: Path, arguments: list[str], words: str) -> None:
    assert words in error_of(run("sft", made["full"], tmp_path / "a.jsonl", *arguments))
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_margin_is_one_line(made: dict[str, Any], tmp_path: Path) -> None:
    assert "(--min-margin)" in error_of(run("dpo", made["full"], tmp_path / "a.jsonl", "--min-margin", 1))


@pytest.mark.parametrize(("kind", "flag", "owner"), [("dpo", "--min-score", "sft"), ("sft", "--min-margin", "dpo")])
def test_a_setting_of_another_kind_is_one_line(
    made: dict[str, Any], tmp_path: Path, kind: str, flag: str, owner: str
) -> None:
    assert f"is for {owner}, not for {kind} ({flag})" in error_of(
        run(kind, made["full"], tmp_path / "a.jsonl", flag, 0.5)
    )


def test_pretraining_without_a_tokenizer_is_one_line(made: dict[str, Any], tmp_path: Path) -> None:
    assert "(--tokenizer)" in error_of(run("pretrain", made["full"], tmp_path / "a.jsonl"))


def test_nothing_that_is_there_is_written_over(made: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "a.jsonl"
    out.write_text("mine")
    assert "a.jsonl exists: give another name" in error_of(run("sft", made["full"], out))
    assert out.read_text() == "mine"
    assert "exists" in error_of(run("sft", made["full"], made["compact"]))  # OUT forgotten
    assert ".jsonl" in error_of(run("sft", made["full"], tmp_path / "a.json"))


def test_rows_that_cannot_be_rebuilt_here_are_one_line(made: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "a.jsonl"
    assert "compact.jsonl:1: a compact row" in error_of(run("sft", made["compact"], out))
    other = tmp_path / "tokenizer"
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["another"])
    tokenizer.save_pretrained(other)
    assert "full.jsonl:1: made with tokenizer" in error_of(run("sft", made["full"], out, "--tokenizer", other))
    assert not out.exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"filler": "0" * 16}, "the filler has changed"),
        ({"version": 99}, "recipe version 99"),
        ({"options": {"unheard": 1}}, "unknown options unheard"),
    ],
)
def test_a_recipe_of_another_release_or_corpus_leaves_no_file(
    made: dict[str, Any], tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    rows = rows_of(made["compact"])
    for row in rows:
        row["recipe"] |= change
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = run("sft", tmp_path / "in.jsonl", tmp_path / "a.jsonl", "--tokenizer", made["tokenizer"])
    assert words in error_of(result) and [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{}\nnot json\n", ":1: not a row of process (store: Field required)"),
        ("not json\n", ":1: invalid JSON"),
        ("[1]\n", ":1: not a row of process"),
        ('{"completions": []}\n', ":1: not a row of process"),
        ('{"recipe": {"split": "eval"}, "score": 1}\n', ":1: a row of the split 'eval'; what is evaluated on"),
        ("", ": no complete row"),
    ],
)
def test_input_that_is_no_rollouts_is_one_line(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "in.jsonl").write_text(text)
    assert f"in.jsonl{words}" in error_of(run("sft", tmp_path / "in.jsonl", tmp_path / "a.jsonl"))


def test_a_bad_line_is_named_by_its_number(made: dict[str, Any], tmp_path: Path) -> None:
    first, *_ = made["full"].read_text(encoding="utf-8").splitlines(keepends=True)
    row = json.loads(first)
    row["scores"] = row["scores"][1:]
    (tmp_path / "in.jsonl").write_text(first + json.dumps(row) + "\n", encoding="utf-8")
    said = error_of(run("sft", tmp_path / "in.jsonl", tmp_path / "a.jsonl"))
    assert "in.jsonl:2: not a row of process" in said and "differ in number" in said


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    assert "nowhere.jsonl is not a file" in error_of(run("sft", tmp_path / "nowhere.jsonl", tmp_path / "a.jsonl"))
