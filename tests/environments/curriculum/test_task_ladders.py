"""The curriculum at work in an environment: what it draws is built, what comes back moves it, and it survives a restart."""

from dataclasses import asdict
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from environments.curriculum import task_ladders
from environments.curriculum.policy import Curriculum
from environments.haystack.sample import Options
from environments.haystack.tasks import TASKS
from environments.rollouts.rollout import RolloutRequest
from tests.environments.loopback import make_env, said


class Settings:
    def __init__(self, **settings: Any):
        defaults: dict[str, Any] = {"decoys": 8, "distractors": 5, "lexical_gap": True, "absent_share": 0.5}
        self.__dict__ |= defaults | settings


ASKED = ["single", "multi_key", "chain", "find_all", "absent"]


@given(st.integers(-1, 512), st.integers(0, 256), st.booleans(), st.sampled_from([[1024], [512, 2048], [4096, 131072]]))
def test_ladders_end_at_the_settings_and_always_fit(decoys, distractors, gap, lengths):
    config = Settings(decoys=decoys, distractors=distractors, lexical_gap=gap)
    made = task_ladders.ladders(config, ASKED, lengths, (2, 3, 4))
    assert set(made) == {"single", "multi_key", "chain", "find_all"}
    for task, ladder in made.items():
        assert all(task_ladders.fits(rung) for rung in ladder.rungs)
        first, last = ladder.rungs[0], ladder.rungs[-1]
        assert (first.length, first.hops, first.decoys, first.distractors) == (lengths[0], 2, 0, 0)
        assert last.length == lengths[-1] and last.lexical_gap == gap
        assert last.hops == (4 if task == "chain" else 2)
        assert last.distractors == (0 if task == "single" else distractors)
        assert last.decoys <= (0 if not TASKS[task].linked else max(decoys, 4 * lengths[-1] // 1024))


def test_items_take_tasks_in_turn_and_their_share_of_absent_ones():
    curriculum = Curriculum(task_ladders.ladders(Settings(), ASKED, [512, 1024], (2, 3)))
    drawn = [task_ladders.draw(curriculum, ASKED, i, Random(i)) for i in range(400)]
    assert [lesson for _, lesson, _ in drawn[:8]] == ["single", "multi_key", "chain", "find_all"] * 2
    assert {task for task, _, _ in drawn} == {
        "single", "multi_key", "chain", "find_all", "absent", "absent_chain", "absent_find_all",
    }  # fmt: skip
    assert 150 < sum(task.startswith("absent") for task, _, _ in drawn) < 250
    assert set(ASKED) <= set(TASKS)


def test_a_difficulty_becomes_a_sample(gpt2):
    from environments.haystack.sample import Haystacks

    base = Haystacks(gpt2, Options())
    curriculum = Curriculum(task_ladders.ladders(Settings(), ["chain"], [1024, 2048], (2, 3)))
    for rung in curriculum._tracks["chain"].ladder.rungs:
        options = task_ladders.options(base.options, rung)
        sample = base.variant(options).sample(0, "train", "chain", rung.length)
        assert sample.length == rung.length and sample.profile["hops"] == rung.hops
        assert asdict(options)["lexical_gap"] == rung.lexical_gap
        assert base.variant(options).pool("train", 0) is base.pool("train", 0)  # counted once


@pytest.mark.parametrize("reply, up", [("right", True), ("wrong", False)])
async def test_the_environment_climbs_on_right_answers_and_remembers(server, tokenizer, reply, up):
    env = make_env(
        tokenizer, server.url, tasks="absent,single", curriculum=True, lexical_gap=True, absent_share=0.9, group_size=2
    )
    server.reply = said("<answer>none</answer>" if reply == "right" else "<answer>wrong</answer>")
    for _ in range(40):
        item = await env.get_next_item()
        assert isinstance(item, RolloutRequest) and item.difficulty is not None and item.counted_task == "single"
        await env.collect_trajectories(item)
    assert (env.curriculum.level("single") > 0) == up
    env.checkpoint_dir, env.curr_step = str(tokenizer.parent / f"checkpoints-{reply}"), 5
    env.wandb_prepend = "needle_0"
    env.save_checkpoint(5)
    again = make_env(
        tokenizer, server.url, tasks="absent,single", curriculum=True, lexical_gap=True, absent_share=0.9, group_size=2
    )
    again.checkpoint_dir, again.curr_step = env.checkpoint_dir, 5
    again.wandb_prepend = "needle_0"
    again.load_checkpoint()
    assert again.next_index == 40 and again.curriculum.state() == env.curriculum.state()
