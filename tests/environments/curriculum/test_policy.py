"""The ladder and the rule by their properties; the whole by learners whose skill is known."""

from __future__ import annotations

import json
import math
from random import Random
from statistics import mean
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.curriculum import LEARNERS, STAIRS, Learner, Run, simulate
from environments.curriculum.figure import Step, curve
from environments.curriculum.ladder import KNOBS, Difficulty, Ladder, Limits, ladder
from environments.curriculum.policy import Curriculum, Rule, widened_estimate
from longthread.errors import ConfigError, DataError

SMALL = Limits(length=(1024, 2048, 4096), hops=(2, 3), decoys=(0, 1), distractors=(0, 4))
TOP = len(STAIRS.rungs) - 1


def rising(values: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(values, min_size=1, max_size=12, unique=True).map(lambda found: tuple(sorted(found)))


limits = st.builds(
    Limits,
    length=rising(st.integers(1, 10**6)),
    hops=rising(st.integers(1, 20)),
    decoys=rising(st.integers(0, 999)),
    distractors=rising(st.integers(0, 99)),
    lexical_gap=rising(st.booleans()),
    absent_share=rising(st.floats(0, 0.9)),
)
knobs = st.sets(st.sampled_from(KNOBS))
rates = st.floats(0, 1)


def feed(curriculum: Curriculum, rate: float, groups: int, task: str = "a") -> int:
    """Moves seen while `groups` groups at the present rung earn `rate`."""
    moves = 0
    for _ in range(groups):
        before = curriculum.present(task)
        curriculum.record(task, before, rate)
        moves += curriculum.present(task) != before
    return moves


def at_rung(rung: int, rule: Rule | None = None) -> Curriculum:
    """A curriculum that climbed to a rung of `ladder(KNOBS, SMALL)`, without replays."""
    curriculum = Curriculum({"a": ladder(KNOBS, SMALL)}, rule)
    while curriculum.present("a") != ladder(KNOBS, SMALL).rungs[rung]:
        feed(curriculum, 1.0, 1)
    return curriculum


# ---- ladders ----


@given(limits, knobs)
def test_consecutive_rungs_differ_in_one_used_knob_by_one_step_up(limits: Limits, knobs: set[str]) -> None:
    found = ladder(knobs, limits)
    for easier, harder in zip(found.rungs, found.rungs[1:], strict=False):
        changed = [knob for knob in KNOBS if getattr(easier, knob) != getattr(harder, knob)]
        assert len(changed) == 1 and changed[0] in knobs
        values = getattr(limits, changed[0])
        assert values.index(getattr(harder, changed[0])) == values.index(getattr(easier, changed[0])) + 1
    for knob in KNOBS:
        values = getattr(limits, knob)
        assert getattr(found.rungs[0], knob) == values[0]
        assert getattr(found.rungs[-1], knob) == (values[-1] if knob in knobs else values[0])
    assert len(found.rungs) == 1 + sum(len(getattr(limits, knob)) - 1 for knob in knobs)


@given(limits, knobs)
def test_all_knobs_are_at_the_same_share_of_their_way(limits: Limits, knobs: set[str]) -> None:
    found = ladder(knobs, limits)
    for rung, difficulty in enumerate(found.rungs):
        for knob in found.knobs:
            values = getattr(limits, knob)
            steps = len(values) - 1
            assert abs(values.index(getattr(difficulty, knob)) - steps * found.level(rung)) <= len(found.knobs)


def test_a_step_that_does_not_fit_waits_for_room() -> None:
    def fits(difficulty: Difficulty) -> bool:
        return difficulty.decoys * difficulty.hops * 32 <= difficulty.length / 2

    free, fitted = ladder(KNOBS, Limits(), lambda _: True), ladder(KNOBS, Limits(), fits)
    assert not all(map(fits, free.rungs)) and all(map(fits, fitted.rungs))
    assert fitted.rungs[-1].length == 32_768 and fitted.rungs[-1].decoys == 64
    for easier, harder in zip(fitted.rungs, fitted.rungs[1:], strict=False):
        assert sum(getattr(easier, knob) != getattr(harder, knob) for knob in KNOBS) == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Limits(length=()), r"length \(\) must be one or more values"),
        (lambda: Limits(hops=(3, 2)), r"hops \(3, 2\) must be one or more values, each harder"),
        (lambda: Limits(length=(0, 5)), r"length \(0, 5\) must be finite and at least 1"),
        (lambda: Limits(absent_share=(0.1, math.nan)), "absent_share"),
        (lambda: Limits(absent_share=(0.1, 0.95)), "absent_share 0.95 must be at most 0.9"),
        (lambda: ladder(["depth"], Limits()), "unknown knob 'depth'; there are length, hops"),
        (lambda: ladder(KNOBS, Limits(), lambda _: False), "the easiest rung does not fit"),
        (lambda: Ladder(()), "at least one rung"),
        (lambda: Rule(low=0.9), r"low 0.9 and high 0.8"),
        (lambda: Rule(lead=0.7), "lead 0.7"),
        (lambda: Rule(least=64), "least 64 must be from 1 to the window, 32"),
        (lambda: Rule(replay=1.0), "replay 1.0"),
        (lambda: Rule(z=math.nan), "z nan"),
        (lambda: Rule(most_falls=99), "most_falls 99"),
        (lambda: Curriculum({}), "at least one task"),
        (lambda: at_rung(0).draw("b", Random(0)), "unknown task 'b'; the curriculum has a"),
        (lambda: at_rung(0).record("a", at_rung(0).present("a"), math.nan), "pass rate must be from 0 to 1 .got nan"),
        (lambda: at_rung(0).record("a", at_rung(0).present("a"), 1.1), "pass rate must be from 0 to 1 .got 1.1"),
        (lambda: at_rung(0).record("a", STAIRS.rungs[0], 0.5), "is not on the ladder of a"),
        (lambda: curve([]), "history is empty"),
    ],
)
def test_errors_are_one_line(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


# ---- the rule ----


@given(st.lists(rates, max_size=120), st.lists(st.booleans(), max_size=120), st.integers(0, 99))
def test_never_leaves_the_ladder_and_moves_one_rung_at_a_time(found: list[float], late: list[bool], seed: int) -> None:
    rng, rungs = Random(seed), ladder(KNOBS, SMALL).rungs
    curriculum = Curriculum({"a": Ladder(rungs)}, Rule(least=1, z=0, window=4, replay=0.4))
    waiting: list[Difficulty] = []
    for rate, wait in zip(found, late, strict=False):
        before = rungs.index(curriculum.present("a"))
        waiting.append(curriculum.draw("a", rng))
        assert rungs.index(waiting[-1]) <= before
        if not wait:  # results come back late and out of order
            curriculum.record("a", waiting.pop(rng.randrange(len(waiting))), rate)
        assert abs(rungs.index(curriculum.present("a")) - before) <= 1


@given(st.lists(st.tuples(st.integers(0, len(ladder(KNOBS, SMALL).rungs) - 1), rates), max_size=100))
def test_a_result_is_counted_at_its_own_rung_only(results: list[tuple[int, float]]) -> None:
    rungs = ladder(KNOBS, SMALL).rungs
    curriculum = Curriculum({"a": Ladder(rungs), "b": Ladder(rungs)}, Rule(least=2, window=8))
    for rung, rate in results:
        stood = curriculum.present("a")
        before = [curriculum.rates("a", difficulty) for difficulty in rungs]
        curriculum.record("a", rungs[rung], rate)
        after = [curriculum.rates("a", difficulty) for difficulty in rungs]
        now = curriculum.present("a")
        for k, difficulty in enumerate(rungs):
            if difficulty == now != stood:
                assert after[k] == ()  # a move empties the window
            else:
                assert after[k] == ((*before[k], rate)[-8:] if k == rung else before[k])
    assert curriculum.level("b") == 0 and not any(curriculum.rates("b", difficulty) for difficulty in rungs)


def test_estimate_by_hand() -> None:
    centre, (average, error) = 2.5 / 3, widened_estimate([1.0, 1.0])
    assert average == 1
    assert error == pytest.approx(math.sqrt((2 * (1 - centre) ** 2 + (0.5 - centre) ** 2) / 2 / 3))


def test_a_move_needs_enough_groups_that_agree() -> None:
    assert feed(at_rung(1), 1.0, Rule().least - 1) == 0
    assert feed(at_rung(1), 1.0, Rule().least) == 1
    assert feed(at_rung(1), 0.0, Rule().least - 1) == 0
    assert feed(at_rung(1), 0.0, Rule().least) == 1
    for inside in (0.2, 0.3, 0.5, 0.7):
        assert feed(at_rung(1), inside, 200) == 0
    noisy = at_rung(1)  # a mean of 0.75 is above high - lead, but 8 groups of one completion do not prove it
    for rate in (1, 1, 1, 0, 1, 1, 1, 0):
        noisy.record("a", noisy.present("a"), rate)
    assert noisy.level("a") == at_rung(1).level("a")


def test_the_bottom_and_the_top_hold() -> None:
    last = len(ladder(KNOBS, SMALL).rungs) - 1
    assert feed(at_rung(0), 0.0, 200) == 0
    assert feed(at_rung(last), 1.0, 200) == 0


@pytest.mark.parametrize(("size", "p", "most"), [(1, 0.5, 0.05), (2, 0.5, 0.01), (8, 0.3, 0.01), (8, 0.6, 0.01)])
def test_chance_alone_seldom_moves(size: int, p: float, most: float) -> None:
    """Within the band, over 200 groups each looked at: the share of learners that noise moved."""
    moved = 0
    for seed in range(100):
        rng, curriculum = Random(seed), at_rung(2)
        rates = [sum(rng.random() < p for _ in range(size)) / size for _ in range(200)]
        moved += any(feed(curriculum, rate, 1) for rate in rates)
    assert moved <= most * 100


def test_each_fall_doubles_the_groups_before_the_next_try() -> None:
    curriculum, tries = at_rung(1), []
    for _ in range(6):
        tries.append(0)
        while feed(curriculum, 1.0, 1) == 0:
            tries[-1] += 1
        assert feed(curriculum, 0.0, Rule().least) == 1
    assert [n + 1 for n in tries] == [8, 16, 32, 64, 128, 128]


def test_passing_a_rung_forgives_its_falls() -> None:
    curriculum = at_rung(2)
    feed(curriculum, 0.0, 8)  # falls from 2 to 1
    assert feed(curriculum, 1.0, 8) == 0
    assert feed(curriculum, 1.0, 8 + 8) == 2  # tried again after 16, held, passed
    assert curriculum.state()["tasks"]["a"]["falls"] == {}


# ---- replay ----


def test_replay_share_and_that_all_passed_rungs_are_alike() -> None:
    curriculum, rng, n = at_rung(4), Random(7), 20_000
    rungs = ladder(KNOBS, SMALL).rungs
    drawn = [rungs.index(curriculum.draw("a", rng)) for _ in range(n)]
    counts = [drawn.count(rung) for rung in range(len(rungs))]
    assert sum(counts[5:]) == 0
    for count, share in [(sum(counts[:4]), 0.15), *[(count, 0.15 / 4) for count in counts[:4]]]:
        assert abs(count - n * share) < 4 * math.sqrt(n * share * (1 - share))  # 4 standard deviations
    assert {curriculum.draw("a", Random(i)) for i in range(99)} >= set(rungs[:5])
    assert all(at_rung(0).draw("a", Random(i)) == rungs[0] for i in range(99))


def test_replays_do_not_count_at_the_present_rung() -> None:
    curriculum = at_rung(3)
    for _ in range(100):
        curriculum.record("a", ladder(KNOBS, SMALL).rungs[0], 1.0)
    assert curriculum.level("a") == at_rung(3).level("a") and curriculum.rates("a", curriculum.present("a")) == ()


def test_no_climbing_while_easier_rungs_are_being_forgotten() -> None:
    curriculum, easiest = at_rung(3), ladder(KNOBS, SMALL).rungs[0]
    for _ in range(8):
        curriculum.record("a", easiest, 0.4)
    assert feed(curriculum, 1.0, 50) == 0
    for _ in range(32):
        curriculum.record("a", easiest, 0.9)
    assert curriculum.level("a") == at_rung(4).level("a")


def test_a_collapse_of_the_replays_steps_down_once_for_each_new_evidence() -> None:
    curriculum, rungs = at_rung(4), ladder(KNOBS, SMALL).rungs
    for expected in (3, 2, 1):
        for _ in range(7):
            curriculum.record("a", rungs[0], 0.0)
        assert rungs.index(curriculum.present("a")) == expected + 1
        curriculum.record("a", rungs[0], 0.0)
        assert rungs.index(curriculum.present("a")) == expected


# ---- fixed, saved, restored ----


@given(st.lists(rates, max_size=60))
def test_fixed_never_moves(found: list[float]) -> None:
    difficulty = Difficulty(2048, 3, 4, 2, True, 0.1)
    curriculum = Curriculum.fixed(difficulty, ["a", "b"])
    for seed, rate in enumerate(found):
        drawn = curriculum.draw("b", Random(seed))
        curriculum.record("b", drawn, rate)
        assert drawn == curriculum.present("a") == curriculum.present("b") == difficulty
    assert feed(curriculum, 1.0, 100) == feed(curriculum, 0.0, 100) == 0


def walk(curriculum: Curriculum, rng: Random, groups: int) -> list[Difficulty]:
    drawn = []
    for i in range(groups):
        task = "ab"[i % 2]
        drawn.append(curriculum.draw(task, rng))
        skill = 3 + i / 60 - 2 * (i % 300 > 250)  # rises, with relapses, so that there are falls to save
        p = 1 / (1 + math.exp(STAIRS.rungs.index(drawn[-1]) / 2 - skill))
        curriculum.record(task, drawn[-1], sum(rng.random() < p for _ in range(8)) / 8)
    return drawn


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 600), st.integers(0, 99))
def test_restored_through_json_it_draws_the_same(groups: int, seed: int) -> None:
    ladders, rng = {"a": STAIRS, "b": STAIRS}, Random(seed)
    first = Curriculum(ladders)
    walk(first, rng, groups)
    state = json.loads(json.dumps(first.state()))
    second = Curriculum.restore(state, ladders)
    assert second.state() == first.state() and second.metrics() == first.metrics() and second.notes == ()
    assert walk(first, Random(seed), 200) == walk(second, Random(seed), 200)
    assert second.state() == first.state()


def test_a_state_is_small() -> None:
    curriculum = Curriculum({"a": STAIRS, "b": STAIRS})
    walk(curriculum, Random(0), 4000)
    assert len(json.dumps(curriculum.state())) < 20_000


def test_a_changed_ladder_is_clamped_and_said() -> None:
    state = json.loads(json.dumps(at_rung(5).state()))
    was = ladder(KNOBS, SMALL).rungs[5]
    shorter = ladder(KNOBS, Limits(length=(1024,), hops=(2,), decoys=(0,), distractors=(0,)))
    longer = ladder(KNOBS, Limits(length=(512, 1024, 2048, 4096, 8192)))
    for changed in (shorter, longer):
        new = Curriculum.restore(state, {"a": changed, "new": changed})
        stands = changed.rungs.index(new.present("a"))
        assert all(getattr(new.present("a"), knob) <= getattr(was, knob) for knob in KNOBS)
        above = changed.rungs[stands + 1]  # would be harder than where it stood
        assert stands > 0 and any(getattr(above, knob) > getattr(was, knob) for knob in KNOBS)
        assert "a: the ladder has changed; from rung 5 to" in new.notes[0]
        assert new.notes[1] == "new: not in the saved curriculum; starts at the bottom"
        feed(new, 1.0, 500)
        assert new.level("a") == 1
    assert Curriculum.restore(state, {"b": shorter}).notes[1] == "a: saved, but no longer a task; dropped"


@pytest.mark.parametrize(
    "damage",
    [
        lambda s: s.clear(),
        lambda s: s.update(version=99),
        lambda s: s.update(tasks=[1]),
        lambda s: s["tasks"].update(a=None),
        lambda s: s["tasks"]["a"].pop("since"),
        lambda s: s["tasks"]["a"].update(rung=99),
        lambda s: s["tasks"]["a"].update(rung=True),
        lambda s: s["tasks"]["a"].update(since=-1),
        lambda s: s["tasks"]["a"].update(seen={"x": [0.5]}),
        lambda s: s["tasks"]["a"].update(seen={"0": [7]}),
        lambda s: s["tasks"]["a"].update(seen=[]),
        lambda s: s["tasks"]["a"].update(replayed=[math.nan]),
        lambda s: s["tasks"]["a"].update(falls={"1": 0.5}),
        lambda s: s["tasks"]["a"].update(ladder="other", difficulty={"length": 1}),
        lambda s: s["tasks"]["a"].update(ladder="other", difficulty=dict.fromkeys(KNOBS, "x")),
    ],
)
def test_a_damaged_state_is_refused_in_one_line(damage: Any) -> None:
    state = json.loads(json.dumps(at_rung(2).state()))
    damage(state)
    with pytest.raises(DataError, match="saved curriculum") as caught:
        Curriculum.restore(state, {"a": ladder(KNOBS, SMALL)})
    assert "\n" not in str(caught.value)
    for nothing in (None, [], "x"):
        with pytest.raises(DataError, match="saved curriculum"):
            Curriculum.restore(nothing, {"a": STAIRS})


def test_metrics_name_the_task_and_its_own_knobs() -> None:
    curriculum = Curriculum({"single": ladder(["length", "lexical_gap"], SMALL)})
    assert curriculum.metrics() == {
        "curriculum/single/level": 0.0,
        "curriculum/single/length": 1024.0,
        "curriculum/single/lexical_gap": 0.0,
    }
    feed(curriculum, 1.0, 8, "single")
    feed(curriculum, 0.5, 2, "single")
    curriculum.record("single", ladder(["length", "lexical_gap"], SMALL).rungs[0], 0.25)
    found = curriculum.metrics()
    assert found["curriculum/single/pass_rate"] == 0.5 and found["curriculum/single/replay_pass_rate"] == 0.25
    assert found["curriculum/single/level"] == pytest.approx(1 / 3)


# ---- learners ----


def runs(name: str, seeds: int = 3, **more: Any) -> list[Run]:
    make, rule = LEARNERS[name]
    return [simulate(make(), rule, seed, name=name, **more) for seed in range(seeds)]


def test_an_improving_learner_climbs_to_the_top_within_the_band() -> None:
    for run in runs("improving"):
        assert run.rung[-1] == TOP
        assert run.in_band(Rule()) > 0.9
        assert run.downs <= 1


def test_moving_only_at_the_edge_of_the_band_would_leave_it() -> None:
    """What `lead` is for; and that `in_band` can be low."""
    late = [simulate(Learner(), Rule(lead=0.0), seed, 2000) for seed in range(2)]
    assert mean(run.in_band(Rule()) for run in late) < 0.6


@pytest.mark.parametrize(("size", "late"), [(1, 0), (2, 0), (8, 8)])
def test_small_groups_and_late_results_do_not_make_it_oscillate(size: int, late: int) -> None:
    for run in runs("improving", 2, size=size, late=late):
        assert run.rung[-1] == TOP and run.downs <= 2


def test_a_plateau_is_settled_on() -> None:
    for run in runs("plateau"):
        settled = run.rung[1500:]
        assert max(settled) - min(settled) <= 2
        assert 0 < settled[-1] < TOP and run.downs <= 2
        assert run.in_band(Rule()) > 0.95


def test_a_wall_is_not_run_against_over_and_over() -> None:
    for run in runs("wall (4 logits at rung 12)"):
        assert 11 <= run.rung[-1] <= 12
        assert run.downs <= 12
    free = [simulate(LEARNERS["wall (4 logits at rung 12)"][0](), Rule(most_falls=0), s) for s in range(2)]
    assert min(run.downs for run in free) > 24  # so the doubling is what holds it


def test_a_relapse_is_followed_down_and_up_again() -> None:
    learner, rule = Learner(ceiling=8.0), Rule()
    first = simulate(learner, rule, 0, 2000)
    learner.skill = learner.ceiling = 4.0
    curriculum, rng, reached = first.curriculum, Random(1), []
    for _ in range(1500):
        drawn = curriculum.draw("", rng)
        curriculum.record("", drawn, learner.group(STAIRS.rungs.index(drawn), rng))
        reached.append(STAIRS.rungs.index(curriculum.present("")))
    assert reached[-1] < first.rung[-1] and max(reached[700:]) - min(reached[700:]) <= 2
    assert 0.2 <= learner.p(reached[-1]) <= 0.8


def test_replay_keeps_what_would_be_forgotten() -> None:
    with_replay, without = runs("forgetting, replay 15 %"), runs("forgetting, no replay")
    assert all(run.rung[-1] == TOP for run in with_replay)
    assert min(min(run.easy[600:]) for run in with_replay) > 0.9
    assert max(run.easy[-1] for run in without) < 0.2  # so the test can fail


def test_a_run_is_reproducible() -> None:
    one, two = (simulate(Learner(), Rule(), 5, 400) for _ in range(2))
    assert one.steps == two.steps


# ---- the picture ----


def test_the_curve_shows_each_task_with_its_band() -> None:
    steps = [Step("single", i / 99, 0.5, i % 5 == 0) for i in range(100)] + [Step("chain", 0.0, 1.0)]
    figure = curve(steps)
    assert [axes.get_title(loc="left") for axes in figure.axes[::2]] == ["single", "chain"]
    level, rate = figure.axes[:2]
    assert list(level.lines[0].get_ydata()) == [i / 99 for i in range(100)]
    assert [line.get_label() for line in rate.lines] == ["present rung", "replayed rungs"]
    assert len(rate.lines[1].get_xdata()) == 20
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["wanted", "present rung", "replayed rungs"]
