"""Settings: each one that cannot work is one line, before any work starts; those of Atropos are the ones that it has."""

from typing import Any

import pytest
from atroposlib.envs.base import BaseEnvConfig, EvalHandlingEnum
from atroposlib.envs.server_handling.server_baseline import APIServerConfig
from pydantic import BaseModel

from environments.config import AtroposSettings, EvalHandling, ServerSettings
from environments.config_checks import check, check_batch, parse_lengths
from environments.needle_env import NeedleEnv
from longthread.errors import ConfigError


def checked(server_type: str = "openai", **settings: Any) -> Any:
    config, servers = NeedleEnv.config_init()
    config = config.model_copy(update={"tokenizer_name": "t"} | settings)
    return check(config, [servers[0].model_copy(update={"server_type": server_type})])


def test_what_config_init_gives_can_be_used() -> None:
    """Facts 3 and 4: a list of servers, else the URL is ignored; a wandb_name, else registration fails. Fact 6: no
    health check. Fact 7: an API key, else the openai client refuses to be made."""
    config, servers = NeedleEnv.config_init()
    assert isinstance(servers, list) and len(servers) == 1 and isinstance(servers[0], ServerSettings)
    assert config.wandb_name == "needle" and config.use_wandb is False
    assert servers[0].health_check is False and servers[0].api_key
    assert config.worker_timeout > servers[0].timeout  # else a slow request is given up by its worker first
    assert check(config.model_copy(update={"tokenizer_name": "t"}), servers).lengths == [1024, 2048, 4096]


def test_lengths() -> None:
    assert parse_lengths(" 2048,1024 ,2048,") == [1024, 2048]
    for text in ("", ",", "many", "1024,x", "0", "-5", "1.5"):
        with pytest.raises(ConfigError, match="lengths must be token counts separated by commas, .*got"):
            parse_lengths(text)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tasks": "single,dual"}, "tasks must be one of single, .*got 'dual'.* .tasks.$"),
        ({"tasks": " , "}, "tasks is empty; it takes single, .*.tasks.$"),
        ({"tokenizer_name": ""}, "no tokenizer: give the model's own .*.tokenizer_name.$"),
        ({"depths": "1.5"}, "depths '1.5' must be numbers from 0 to 1"),
        ({"depths": "-0.1,1"}, "from 0 to 1"),
        ({"depths": "deep"}, "from 0 to 1"),
        ({"store": "some"}, "store must be one of compact, full .got 'some'. .store.$"),
        ({"server_type": "trl"}, "server_type must be one of openai, vllm, sglang .got 'trl'. .openai.server_type.$"),
        ({"absent_share": 0.95}, "absent_share must be from 0 to 0.9 .got 0.95. .absent_share.$"),
        ({"absent_share": float("nan")}, "absent_share must be .*got nan"),
        ({"repeats": 0}, "repeats must be .*got 0. .repeats.$"),
        ({"group_size": 0}, "group_size must be .*got 0. .group_size.$"),
        ({"total_steps": 0}, "total_steps must be from 1 to .*got 0. .total_steps.$"),
        ({"total_steps": -1}, "total_steps must be .*got -1"),
        ({"max_new_tokens": 0}, "max_new_tokens must be .*got 0"),
        ({"max_failures": -1}, "max_failures must be .*got -1"),
        ({"max_num_workers": 0}, "max_num_workers must be 1 or more, or -1 .*got 0. .max_num_workers.$"),
        ({"max_eval_workers": 0}, "max_eval_workers must be .*got 0"),
        ({"temperature": -1.0}, "temperature must be .*got -1.0"),
        ({"reasoning_effort": "huge"}, "reasoning_effort must be one of None, none, .*got 'huge'. .reasoning_effort.$"),
        ({"seed": -1}, "seed must be .*got -1"),
        (
            {"batch_size": 12, "group_size": 8},
            "batch_size must be a multiple of group_size 8 .got 12.*use 16 .batch_size.$",
        ),
    ],
)
def test_what_cannot_work_is_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        checked(**settings)
    assert "\n" not in str(caught.value) and type(caught.value).__module__.startswith(("environments.", "longthread."))


@pytest.mark.parametrize("depths", ["11", "0.5", "0", "1", "0,0.5,1"])
@pytest.mark.parametrize("server_type", ["openai", "vllm", "sglang"])
def test_what_can_work(depths: str, server_type: str) -> None:
    assert len(checked(server_type, depths=depths, batch_size=16, group_size=8).depths) == {"11": 11, "0,0.5,1": 3}.get(
        depths, 1
    )


def test_a_batch_that_no_number_of_groups_fills() -> None:
    """Fact 11: the API then never gives a batch. The message holds a size that works."""
    with pytest.raises(ConfigError, match="use 16 .batch_size"):
        check_batch(12, 8)
    check_batch(16, 8)
    check_batch(-1, 8)


def test_every_setting_of_the_command_line_is_a_plain_value() -> None:
    """Section 2.5: atroposlib's command line cannot set lists or dicts."""
    own = set(NeedleEnv.env_config_cls.model_fields) - set(AtroposSettings.model_fields)
    assert {NeedleEnv.env_config_cls.model_fields[name].annotation for name in own} <= {str, int, float, bool}


# ---- Atropos' own settings ----

OTHER_DEFAULTS = {
    AtroposSettings: {
        "group_size",
        "max_num_workers",
        "max_eval_workers",
        "steps_per_eval",
        "max_token_length",
        "eval_handling",
        "tokenizer_name",
        "use_wandb",
        "total_steps",
        "include_messages",
        "worker_timeout",
    },
    ServerSettings: {"timeout", "api_key", "base_url", "health_check"},
}


@pytest.mark.parametrize(("ours", "theirs"), [(AtroposSettings, BaseEnvConfig), (ServerSettings, APIServerConfig)])
def test_settings_are_those_of_atroposlib(ours: type[BaseModel], theirs: type[BaseModel]) -> None:
    def shape(model: type[BaseModel]) -> dict[str, Any]:
        return {
            name: (EvalHandling if field.annotation is EvalHandlingEnum else field.annotation, field.metadata)
            for name, field in model.model_fields.items()
        }

    assert shape(ours) == shape(theirs)
    differing = {
        name for name, field in ours.model_fields.items() if field.default != theirs.model_fields[name].default
    }
    assert differing == OTHER_DEFAULTS[ours]
    assert all(field.description for field in ours.model_fields.values())


def test_ways_to_handle_an_evaluation_are_those_of_atroposlib() -> None:
    assert {way.name: way.value for way in EvalHandling} == {way.name: way.value for way in EvalHandlingEnum}
