"""The command line, in this process: what is read, what is refused, what is printed, what is written."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web

from environments import cli
from environments.cli import join_values, read_command
from environments.needle_env import NeedleEnv
from longthread import secrets
from longthread.errors import ConfigError, RunError
from tests.environments.loopback import ChatServer, command, flags, rows_of, run_cli, tokenizer_folder

pytestmark = pytest.mark.usefixtures("clean")

KEY = "sk-do-not-show-me"


def prepared(*argv: str) -> cli.Command:
    return read_command(join_values(argv), NeedleEnv.config_init()[0])


def files_below(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): p.read_text(errors="replace") for p in folder.rglob("*") if p.is_file()}


# ---- reading ----


def test_values_negative_numbers_and_bare_booleans_are_joined() -> None:
    """Section 2.5: `--flag -1` reads as true there, and a bare `--flag` is refused."""
    args = ["process", "--env.max_num_workers", "-1", "--env.numbered", "--env.needle", "", "--env.depths", "-.5,1"]
    assert join_values(args) == [
        "process",
        "--env.max_num_workers=-1",
        "--env.numbered=true",
        "--env.needle=",
        "--env.depths=-.5,1",
    ]
    config = prepared(*args).config
    assert (config.max_num_workers, config.numbered, config.needle, config.depths) == (-1, True, "", "-.5,1")
    assert join_values(["evaluate", "--env.seed=3"]) == ["evaluate", "--env.seed=3"]
    assert prepared("evaluate", "--env.seed=3").config.seed == 3
    assert join_values(["serve", "--env.numbered", "--help"])[1:3] == ["--env.numbered=true", "--help"]


@pytest.mark.parametrize("name", ["process", "evaluate", "serve"])
def test_wandb_is_off_unless_asked_for(name: str, tmp_path: Path) -> None:
    """Fact 5: `process` and `evaluate` force it on."""
    assert prepared(name).config.use_wandb is False
    assert prepared(name, "--env.use_wandb", "true").config.use_wandb is True
    assert prepared(name, "--env.use_wandb").config.use_wandb is True
    for text, asked in (("env: {use_wandb: true}", True), ("env: {seed: 1}", False)):
        (tmp_path / "c.yaml").write_text(text)
        assert prepared(name, "--config", "c.yaml").config.use_wandb is asked


@pytest.mark.parametrize(
    ("flag", "near"),
    [("--env.length", "--env.lengths"), ("--env.total_step=5", "--env.total_steps"), ("--openai.url", "")],
)
def test_abbreviated_and_unknown_flags_are_refused(flag: str, near: str) -> None:
    """argparse takes an abbreviation, and atroposlib then uses the default without a word."""
    with pytest.raises(ConfigError, match=f"unknown flag {flag.partition('=')[0]}; .*{near}"):
        prepared("process", flag, "9")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read .No such file or directory.; give the path of a YAML file"),
        ("env: [", "is not YAML"),
        ("\x00", "is not YAML"),
        (b"\xff\xfe\xfa", "is not YAML"),
        ("", "must hold the sections env and openai, not NoneType"),
        ("- 1", "must hold the sections env and openai, not list"),
        ("env: {lenghts: '9', tasks: single, 3: 4}", "unknown keys env.3, env.lenghts$"),
        ("openai: {base_ulr: x}", "unknown keys openai.base_ulr"),
        ("openai: [{base_url: x}, {nope: 1}]", "unknown keys openai.nope"),
        ("environment: {}", "unknown keys environment"),
        ("env: text", "must hold names with values"),
        ("env: [1]", "must hold names with values"),
        ("openai: text", "must hold names with values"),
    ],
)
def test_a_yaml_file_that_cannot_be_used(tmp_path: Path, text: Any, message: str) -> None:
    """Section 2.5: unknown keys in YAML are ignored there."""
    path = tmp_path / "config.yaml"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError, match=message) as caught:
        prepared("process", f"--config={path}")
    assert "\n" not in str(caught.value)


def test_a_broken_yaml_file_does_not_show_its_key(tmp_path: Path) -> None:
    """Fact 15: a YAML error quotes the line it stumbles over."""
    (tmp_path / "c.yaml").write_text(f'openai:\n  api_key: "{KEY}\n')
    with pytest.raises(ConfigError) as caught:
        prepared("process", "--config", "c.yaml")
    assert KEY not in str(caught.value) and "line" in str(caught.value)


# ---- keys ----


@pytest.mark.parametrize("way", ["flag", "yaml", "variable"])
def test_a_key_reaches_the_server_and_nothing_else(
    way: str,
    server: ChatServer,
    tokenizer: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Fact 15: atroposlib prints keys, and `evaluate` writes them to evaluate_config.yaml."""
    caplog.set_level(logging.DEBUG)
    server.keys.clear()
    argv = command("evaluate", tokenizer, server.url, env_depths="0.5", env_repeats=1, env_data_dir_to_save_evals="out")
    if way == "flag":
        argv += flags(openai_api_key=KEY)
    elif way == "yaml":
        (tmp_path / "c.yaml").write_text(f"openai: {{api_key: {KEY}}}\n")
        argv += ["--config", "c.yaml"]
    else:
        monkeypatch.setenv("LONGTHREAD_API_KEY", KEY)
    assert run_cli(argv) == 0
    assert server.keys == {f"Bearer {KEY}"}
    written = files_below(tmp_path / "out")
    assert {"evaluate_config.yaml", "samples.jsonl", "metrics.json", "report.html"} <= set(written)
    assert not [name for name, text in written.items() if KEY in text]
    shown = capfd.readouterr()
    assert KEY not in shown.out + shown.err + caplog.text


def test_evaluate_config_can_be_used_again(
    server: ChatServer, tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LONGTHREAD_API_KEY", KEY)
    argv = command("evaluate", tokenizer, server.url, env_depths="0.5", env_repeats=1, env_data_dir_to_save_evals="out")
    assert run_cli(argv + flags(openai_api_key="sk-other")) == 0
    server.keys.clear()
    secrets._keys.clear()  # as in another process
    assert run_cli(["evaluate", "--config", "out/evaluate_config.yaml"]) == 0
    assert server.keys == {f"Bearer {KEY}"}
    assert (tmp_path / "out" / "samples_1.jsonl").exists()


# ---- from end to end ----


def test_the_url_of_the_command_line_is_honoured(server: ChatServer, tokenizer: Path, tmp_path: Path) -> None:
    """Fact 3: with a server config that is no list, --openai.base_url is ignored."""
    server.requests.clear()
    assert run_cli(command("process", tokenizer, server.url)) == 0
    assert len(server.requests) == 3 and {request["n"] for request in server.requests} == {2}
    assert len(rows_of(tmp_path / "data" / "needle.jsonl")) == 3


def test_the_command_line_wins_over_yaml_over_defaults(server: ChatServer, tokenizer: Path, tmp_path: Path) -> None:
    settings = {
        "tokenizer_name": str(tokenizer),
        "tasks": "multi_key",
        "lengths": "1300",
        "group_size": 2,
        "total_steps": 9,
    }
    config = {
        "env": settings | {"absent_share": 0, "store": "full"},
        "openai": [{"base_url": server.url, "model_name": "m"}],
    }
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
    assert (
        run_cli(["process", "--config=c.yaml", *flags(env_total_steps=2, env_data_path_to_save_groups="o.jsonl")]) == 0
    )
    rows = rows_of(tmp_path / "o.jsonl")
    assert [(row["recipe"]["task"], row["store"], len(row["scores"])) for row in rows] == [("multi_key", "full", 2)] * 2


@pytest.mark.parametrize("name", ["process", "evaluate"])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"env_lengths": "many"}, "lengths must be .*got 'many'. .--env.lengths.$"),
        ({"env_lengths": "40"}, "length 40 is too short"),
        ({"env_depths": "-0.5,1"}, "depths '-0.5,1'"),
        ({"env_tasks": "dual"}, "tasks must be one of .*got 'dual'. .--env.tasks.$"),
        ({"env_tokenizer_name": None}, "no tokenizer"),
        ({"env_tokenizer_name": "/nowhere/at/all"}, "tokenizer name '/nowhere/at/all' cannot be loaded"),
        ({"env_tokenizer_name": "plain"}, "has no chat template"),
        ({"env_filler": "folder", "env_filler_path": "empty"}, "empty"),
        (
            {"env_filler": "folder"},
            r"filler folder needs the folder, or the name of the dataset \(--env.filler_path\)$",
        ),
        (
            {"env_tasks": "custom", "env_needle": "The.", "env_question": "Which?", "env_expected": "The"},
            "'The' stands in the filler",
        ),
        ({"env_batch_size": 3}, "batch_size must be a multiple of group_size 2 .got 3.*.--env.batch_size.$"),
        ({"env_store": "some"}, "store must be one of .*got 'some'. .--env.store.$"),
        ({"env_total_steps": 0}, "total_steps must be .*got 0. .--env.total_steps.$"),
        ({"env_total_steps": "few"}, "few"),
        ({"openai_server_type": "trl"}, "server_type must be one of .*got 'trl'. .--openai.server_type.$"),
        ({"openai_server_type": "tgi"}, "tgi"),
        ({"openai_base_url": "http://127.0.0.1:9/v1"}, "cannot reach a server at http://127.0.0.1:9/v1"),
        (
            {"openai_model_name": "other"},
            "does not serve the model 'other': it must be one of m .--openai.model_name.$",
        ),
        (
            {"env_data_path_to_save_groups": "empty", "env_data_dir_to_save_evals": "plain/vocab"},
            "cannot write|Not a dir|exists",
        ),
        ({"config": "nowhere.yaml"}, "--config nowhere.yaml cannot be read"),
        ({"env_lenghts": "9"}, "unknown flag --env.lenghts; did you mean --env.lengths?"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_code_2(
    name: str,
    settings: dict[str, Any],
    message: str,
    server: ChatServer,
    tokenizer: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "empty").mkdir()
    plain = tokenizer_folder(tmp_path / "plain")
    (plain / "chat_template.jinja").unlink(missing_ok=True)
    (plain / "vocab").touch()
    server.requests.clear()
    argv = (
        [name, *flags(config=settings["config"])]
        if "config" in settings
        else command(name, tokenizer, server.url, **settings)
    )
    argv = [arg.replace("--config.", "--config") for arg in argv]
    if name == "evaluate" and settings.get("env_total_steps") == "few":
        argv = command("process", tokenizer, server.url, **settings)
    assert run_cli(argv) == 2
    shown = capfd.readouterr().err
    assert "Traceback" not in shown and not server.requests
    lines = [line for line in shown.splitlines() if line.startswith("error: ") or "error:" in line]
    assert len(lines) == 1 and re.search(message, lines[0]), shown


@pytest.mark.parametrize(("status", "message"), [(401, "refused the API key"), (503, "answered HTTP 503")])
def test_a_server_that_refuses_is_one_line(
    status: int, message: str, tokenizer: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Fact 6: atroposlib hangs without a word."""
    with ChatServer(models=lambda _: web.Response(status=status)).running() as refusing:
        assert run_cli(command("process", tokenizer, refusing.url)) == 2
        assert not refusing.requests
    shown = capfd.readouterr().err
    assert message in shown and "Traceback" not in shown


@pytest.mark.parametrize("argv", [["process", "--help"], ["--help"]])
def test_help(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli(argv) == 0
    assert "process" in capsys.readouterr().out


@pytest.mark.parametrize("argv", [["fly"], ["process", "stray"]])
def test_unknown_commands_end_with_2(argv: list[str]) -> None:
    assert run_cli(argv) == 2


@pytest.mark.parametrize(
    ("raised", "code", "line"),
    [
        (KeyboardInterrupt(), 130, "error: interrupted"),
        (ConfigError("a\nb"), 2, "error: a b"),
        (RunError("stopped"), 1, "error: stopped"),
        (OSError(28, "No space left on device", "out.html"), 1, "No space left on device"),
        (PermissionError(13, "Permission denied", "out"), 2, "Permission denied"),
    ],
)
def test_how_a_run_may_end(
    raised: BaseException, code: int, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(cls: Any, command: cli.Command) -> None:
        raise raised

    monkeypatch.setattr(NeedleEnv, "run", classmethod(fail))
    assert run_cli(["process"]) == code
    shown = capsys.readouterr().err
    assert line in shown and len(shown.splitlines()) == 1


def test_a_defect_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(cls: Any, command: cli.Command) -> None:
        raise ValueError("a bug of ours")

    monkeypatch.setattr(NeedleEnv, "run", classmethod(fail))
    with pytest.raises(ValueError, match="a bug of ours"):
        run_cli(["process"])


def test_lists_and_numbers_in_yaml(server: ChatServer, tokenizer: Path, tmp_path: Path) -> None:
    """The command line takes comma strings alone; YAML has words for them."""
    file = tmp_path / "c.yaml"
    config = {"env": {"lengths": [1300, 1400], "hops": 3, "depths": 3}, "openai": {"base_url": server.url}}
    file.write_text(yaml.safe_dump(config))
    read = prepared("process", "--config", str(file)).config
    assert (read.lengths, read.hops, read.depths) == ("1300,1400", "3", "3")
    file.write_text(yaml.safe_dump({"openai": {"base_url": 5}}))
    with pytest.raises(ConfigError, match="openai.base_url: input should be a valid string"):
        prepared("process", "--config", str(file))


@pytest.mark.parametrize(
    ("flag", "value", "least"),
    [("num_max_requests_at_once", 0, 1), ("num_requests_for_eval", 0, 1), ("timeout", -1, 0)],
)
def test_a_server_that_could_never_be_asked(
    flag: str, value: int, least: int, server: ChatServer, tokenizer: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With no slots a run stood at 0 of 100 for ever."""
    assert run_cli(command("process", tokenizer, server.url, **{f"openai_{flag}": value})) == 2
    assert f"{flag} must be at least {least} (got {value})" in capsys.readouterr().err


def test_no_arguments_are_a_question_for_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli([]) == 0 and "serve" in capsys.readouterr().out
