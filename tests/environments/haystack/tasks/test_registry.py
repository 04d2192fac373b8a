"""The registry of tasks: names, twins, and what the rest of the package asks of them."""

from environments.haystack.tasks import TASKS, absent_twin


def test_every_task_has_an_absent_twin() -> None:
    assert [absent_twin(name) for name in ("single", "multi_key", "multi_value", "custom", "absent")] == ["absent"] * 5
    for name, task in TASKS.items():
        twin = TASKS[absent_twin(name)]
        assert task.name == name and twin.absent and twin.linked == task.linked and TASKS[task.question].absent is False
        if task.linked:
            assert twin.name == f"absent_{task.question}" and absent_twin(twin.name) == twin.name
        assert task.absent == name.startswith("absent")
