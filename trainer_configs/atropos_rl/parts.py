"""The processes of a run and the command of each: run-api, the inference server, the environments, the trainer."""

import sys
from pathlib import Path

import yaml

from longthread.errors import ConfigError
from longthread.files import JsonObject, write_text
from trainer_configs.atropos_rl.config import MODEL_NAME, PROGRAMS, RLConfig
from trainer_configs.atropos_rl.model_folder import served_folder

API, SERVER, TRAINER = "api", "server", "trainer"
FOR_EVER = 10**8  # steps of an environment: the trainer decides when the run ends


def names(config: RLConfig) -> list[str]:
    """Return the names of all parts, in the order in which they are started."""
    return [API, SERVER, TRAINER, *config.names]


def command(config: RLConfig, path: Path, name: str) -> list[str]:
    """Return the command of a part. `path`: of the config. Writes the settings of an environment into the run's folder."""
    python = [sys.executable, "-m"]
    if name == API:
        return [*python, "atroposlib.cli.run_api", "--host", "127.0.0.1", "--port", str(config.api_port)]
    if name == SERVER:
        options: JsonObject = {"port": config.server.port, "max-batch": config.server.max_batch}
        options |= {"dtype": config.server.dtype, "model-name": MODEL_NAME, "threads": config.server.threads}
        given = [f"--{option}={value}" for option, value in options.items() if value is not None]
        return [*python, "environments.embedded_server", str(served_folder(config)), *given]
    if name == TRAINER:
        several = ["torch.distributed.run", "--standalone", f"--nproc-per-node={config.processes}",
                   f"--max-restarts={config.restarts}", "-m"] if config.processes > 1 else []  # fmt: skip
        return [*python, *several, "trainer_configs.atropos_rl", "train", str(path)]
    if name in config.names:
        return [*python, PROGRAMS[config.names[name].program], "serve", "--config", str(_serve_settings(config, name))]
    raise ConfigError(f"there is no part {name!r}: {', '.join(names(config))}", setting="part")


def evaluation_command(config: RLConfig, name: str, out: Path) -> list[str]:
    """Return the command that evaluates an environment's tasks on the held-out split, into the folder `out`."""
    environment = config.names[name]
    settings = config.settings(environment) | (environment.evaluation or {}) | {"data_dir_to_save_evals": str(out)}
    settings["curriculum"] = False
    path = _write(config, f"{name}-{out.parent.name}.yaml", settings)
    program = PROGRAMS[environment.program]
    return [sys.executable, "-m", program, "evaluate", "--config", str(path)]


def _serve_settings(config: RLConfig, name: str) -> Path:
    own: JsonObject = {
        "rollout_server_url": config.api_url,
        "total_steps": FOR_EVER,
        "wandb_name": name,
        "state_path": str(config.run / "environments" / f"{name}-state.json"),
        # Each environment draws samples of its own, also where two have the same tasks.
        "seed": config.seed * 1000 + list(config.names).index(name),
        "max_batches_offpolicy": max(1, config.batch.max_staleness),  # more would be too old when their turn comes
    }
    return _write(config, f"{name}.yaml", own | config.settings(config.names[name]))


def _write(config: RLConfig, name: str, settings: JsonObject) -> Path:
    server = {"base_url": f"{config.server_url}/v1", "model_name": MODEL_NAME, "server_type": "vllm"}
    path = config.run / "environments" / name
    write_text(path, yaml.safe_dump({"env": {"tokenizer_name": config.model, **settings}, "openai": server}))
    return path
