"""Settings: each one that cannot work is one line, before any work starts."""

from typing import Any

import pytest
from atroposlib.envs.base import APIServerConfig

from environments.config import check, check_batch, parse_lengths
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
    assert isinstance(servers, list) and len(servers) == 1 and isinstance(servers[0], APIServerConfig)
    assert config.wandb_name == "needle" and config.use_wandb is False
    assert servers[0].health_check is False and servers[0].api_key
    assert config.worker_timeout > servers[0].timeout  # else a slow request is given up by its worker first
    assert check(config.model_copy(update={"tokenizer_name": "t"}), servers)[1] == [1024, 2048, 4096]


def test_lengths() -> None:
    assert parse_lengths(" 2048,1024 ,2048,") == [1024, 2048]
    for text in ("", ",", "many", "1024,x", "0", "-5", "1.5"):
        with pytest.raises(ConfigError, match="lengths .* must be token counts separated by commas"):
            parse_lengths(text)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tasks": "single,dual"}, "unknown task 'dual'; --env.tasks takes single, "),
        ({"tasks": " , "}, "--env.tasks is empty"),
        ({"tokenizer_name": ""}, "no tokenizer: give --env.tokenizer_name"),
        ({"depths": "1.5"}, "depths '1.5' must be numbers from 0 to 1"),
        ({"depths": "-0.1,1"}, "from 0 to 1"),
        ({"depths": "deep"}, "from 0 to 1"),
        ({"store": "some"}, "--env.store 'some' is neither compact nor full"),
        ({"server_type": "trl"}, "--openai.server_type 'trl' is none of openai, vllm, sglang"),
        ({"absent_share": 0.95}, "--env.absent_share 0.95 is outside 0 to 0.9"),
        ({"absent_share": float("nan")}, "absent_share nan"),
        ({"repeats": 0}, "--env.repeats 0"),
        ({"group_size": 0}, "--env.group_size 0"),
        ({"total_steps": 0}, "--env.total_steps 0 is outside 1 to"),
        ({"total_steps": -1}, "--env.total_steps -1"),
        ({"max_new_tokens": 0}, "--env.max_new_tokens 0"),
        ({"max_failures": -1}, "--env.max_failures -1"),
        ({"max_num_workers": 0}, "--env.max_num_workers 0 is neither -1"),
        ({"max_eval_workers": 0}, "--env.max_eval_workers 0"),
        ({"temperature": -1.0}, "--env.temperature -1.0"),
        ({"seed": -1}, "--env.seed -1"),
        ({"batch_size": 12, "group_size": 8}, "batch_size 12 is no multiple of group_size 8"),
    ],
)
def test_what_cannot_work_is_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        checked(**settings)
    assert "\n" not in str(caught.value) and type(caught.value).__module__.startswith(("environments.", "longthread."))


@pytest.mark.parametrize("depths", ["11", "0.5", "0", "1", "0,0.5,1"])
@pytest.mark.parametrize("server_type", ["openai", "vllm", "sglang"])
def test_what_can_work(depths: str, server_type: str) -> None:
    assert len(checked(server_type, depths=depths, batch_size=16, group_size=8)[2]) == {"11": 11, "0,0.5,1": 3}.get(
        depths, 1
    )


def test_a_batch_that_no_number_of_groups_fills() -> None:
    """Fact 11: the API then never gives a batch. The message holds a size that works."""
    with pytest.raises(ConfigError, match="--env.batch_size 16"):
        check_batch(12, 8)
    check_batch(16, 8)
    check_batch(-1, 8)


def test_every_setting_of_the_command_line_is_a_plain_value() -> None:
    """Section 2.5: atroposlib's command line cannot set lists or dicts."""
    own = set(NeedleEnv.env_config_cls.model_fields) - set(NeedleEnv.env_config_cls.__mro__[1].model_fields)
    assert {NeedleEnv.env_config_cls.model_fields[name].annotation for name in own} <= {str, int, float, bool}
