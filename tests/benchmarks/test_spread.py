"""Jobs over several devices: each done once, on a device of its own, and none lost for another's failure."""

import os

import pytest

from benchmarks.spread import spread


def worked(number: int) -> tuple[int, int, str | None]:
    if number == 3:
        raise ValueError("three")
    return number, os.getpid(), os.environ.get("CUDA_VISIBLE_DEVICES")


@pytest.mark.parametrize(("devices", "each", "visible"), [(0, 3, ""), (2, 1, ""), (2, 1, "5,GPU-7"), (1, 2, "")])
def test_every_job_once_and_a_failure_is_its_own(
    devices: int, each: int, visible: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    found = dict(spread(worked, {f"job {i}": (i,) for i in range(6)}, devices, each=each))
    assert sorted(found) == [f"job {i}" for i in range(6)]
    assert isinstance(failed := found.pop("job 3"), ValueError) and str(failed) == "three"
    assert all(value[0] == int(key.removeprefix("job ")) for key, value in found.items())
    if devices:
        by_process = {process: device for _, process, device in found.values()}
        assert os.getpid() not in by_process and set(by_process.values()) <= set(
            (visible or "0,1").split(",")[:devices]
        )
        assert all(list(by_process.values()).count(device) <= each for device in by_process.values())
        assert os.environ.get("CUDA_VISIBLE_DEVICES", "") == visible


@pytest.mark.parametrize("devices", [1, 2])
def test_nothing_is_begun_when_time_is_up(devices: int) -> None:
    assert not list(spread(worked, {"a": (1,), "b": (2,)}, devices, seconds=-1))
