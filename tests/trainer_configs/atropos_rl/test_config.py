"""A config that cannot work is refused in one line before anything starts, and the shipped ones are whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import Result
from typer.testing import CliRunner

import trainer_configs
from longthread.errors import ConfigError
from trainer_configs.atropos_rl import command, parts
from trainer_configs.atropos_rl.config import RLConfig, read
from trainer_configs.atropos_rl.toy_model import write_toy_model

RECIPES = sorted(Path(trainer_configs.__file__).parent.glob("*-rl.yaml"))
GOOD: dict[str, Any] = {
    "model": "toy",
    "run": "out",
    "environments": [{"program": "needle", "env": {"lengths": [700], "max_new_tokens": 24}}],
    "batch": {"max_tokens": 1024},
}


def written(folder: Path, values: Any) -> Path:
    path = folder / "rl.yaml"
    path.write_text(yaml.safe_dump(values) if not isinstance(values, str) else values)
    return path


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_shipped_recipes_are_valid_and_say_their_command(path: Path) -> None:
    config = read(path)
    assert f"#   longthread rl trainer_configs/{path.name}\n" in path.read_text()
    assert any(environment.evaluation for environment in config.environments)


def test_there_is_one_for_a_cpu_and_one_for_a_gpu() -> None:
    assert {"toy-cpu-rl", "smollm2-135m-rl"} <= {path.stem for path in RECIPES}


NEEDLE = {"program": "needle"}
SHORT = {"lengths": [700]}
FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "unknown_key": ({"stepz": 3}, "stepz"),
    "unknown_setting": ({"environments": [{"program": "needle", "env": {"length": 3}}]}, "there is no setting length"),
    "unknown_program": ({"environments": [{"program": "sheep"}]}, "needle"),
    "no_environment": ({"environments": []}, "environments"),
    "group_of_one": ({"batch": {"group_size": 1}}, "batch.group_size"),
    "too_long": ({"batch": {"max_tokens": 724}}, "sequences reach 724 tokens, and the trainer takes fewer than 724; use 725"),
    "staleness": ({"publish_every": 4, "batch": {"max_staleness": 2, "max_tokens": 1024}}, "max_staleness 2 can never be"),
    "temperature": ({"environments": [NEEDLE | {"env": SHORT | {"temperature": 0.7}}]}, "temperature 0.7"),
    "top_p": ({"environments": [NEEDLE | {"env": SHORT | {"request": {"top_p": 0.9}}}]}, "top_p 0.9"),
    "ports": ({"api_port": 9001}, "both have port 9001"),
    "task": ({"environments": [NEEDLE | {"env": SHORT | {"tasks": "sheep"}}]}, "sheep"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_what_cannot_work_is_refused_in_one_line(fault: str, tmp_path: Path) -> None:
    changes, said = FAULTS[fault]
    with pytest.raises(ConfigError) as caught:
        read(written(tmp_path, GOOD | changes))
    assert said in caught.value.line() and "\n" not in caught.value.line()


@pytest.mark.parametrize(
    "text", ["[1, 2]", "a: [", "", "model: x\nrun: y\n"], ids=["list", "broken", "empty", "lacking"]
)
def test_a_file_that_is_no_config(text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read(written(tmp_path, text))
    assert "\n" not in caught.value.line() and "rl.yaml" in caught.value.line()


def test_a_staleness_that_can_just_be_met(tmp_path: Path) -> None:
    batch = {"max_staleness": 3, "max_tokens": 1024}
    assert read(written(tmp_path, GOOD | {"publish_every": 4, "batch": batch})).publish_every == 4


# ---- parts ----


def config_in(folder: Path, **changes: Any) -> RLConfig:
    model = write_toy_model(folder / "toy")
    return RLConfig.model_validate(GOOD | {"model": str(model), "run": folder / "run"} | changes)


def test_every_part_has_a_command_of_its_own(tmp_path: Path) -> None:
    config = config_in(
        tmp_path, environments=[{"program": "needle"}, {"program": "needle"}, {"program": "linked_needle"}]
    )
    names = parts.names(config)
    assert names == ["api", "server", "trainer", "needle", "needle-2", "linked_needle"]
    commands = [parts.command(config, tmp_path / "rl.yaml", name) for name in names]
    assert len({tuple(one) for one in commands}) == len(names)
    files = [Path(one[-1]) for one in commands[3:]]
    settings = [yaml.safe_load(file.read_text())["env"] for file in files]
    # Each draws samples of its own and keeps its own place.
    assert len({one["seed"] for one in settings}) == len({one["state_path"] for one in settings}) == 3
    with pytest.raises(ConfigError, match="there is no part 'cook'"):
        parts.command(config, tmp_path / "rl.yaml", "cook")


def test_a_context_extension_is_served_from_a_folder_of_its_own(tmp_path: Path) -> None:
    config = config_in(tmp_path, context_extension={"method": "yarn", "target_length": 16384})
    folder = Path(parts.command(config, tmp_path / "rl.yaml", "server")[3])
    stored = yaml.safe_load((folder / "config.json").read_text())
    assert folder == tmp_path / "run" / "model" and stored["max_position_embeddings"] == 16384
    assert stored["rope_parameters"]["rope_type"] == "yarn"
    assert (folder / "model.safetensors").resolve() == (tmp_path / "toy" / "model.safetensors").resolve()
    with pytest.raises(ConfigError, match="another context_extension"):
        other = config.model_copy(update={"context_extension": {"method": "ntk", "target_length": 8192}})
        parts.command(other, tmp_path / "rl.yaml", "server")
    with pytest.raises(ConfigError, match=r"context_extension.*method"):
        wrong = config.model_copy(update={"context_extension": {"method": "sheep", "target_length": 8192}})
        parts.command(wrong, tmp_path / "rl.yaml", "server")


# ---- the command ----


def called(*arguments: str) -> Result:
    return CliRunner().invoke(command.app, [*arguments])


def test_another_config_for_a_run_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, GOOD | {"run": str(tmp_path / "run"), "model": str(write_toy_model(tmp_path / "toy"))})
    first = read(path)
    command._check_same_run(first, path)
    command._check_same_run(first.model_copy(update={"steps": 999, "api_port": 1}), path)
    with pytest.raises(ConfigError, match="another config"):
        command._check_same_run(first.model_copy(update={"seed": 9}), path)


def test_a_missing_model_and_a_run_without_steps_end_in_one_line(tmp_path: Path) -> None:
    path = written(tmp_path, GOOD | {"run": str(tmp_path / "run"), "model": "nowhere"})
    for arguments in (["run", str(path), "--part", "server"], ["plot", str(tmp_path)]):
        result = called(*arguments)
        assert result.exit_code == 2 and result.output.startswith("error: ") and result.output.count("\n") == 1
