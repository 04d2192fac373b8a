"""The folder that is served: the model's own, or one with its RoPE extended. torch is imported for the latter alone."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from longthread.errors import ConfigError
from longthread.files import replacing_folder
from trainer_configs.atropos_rl.config import RLConfig

if TYPE_CHECKING:
    from transformers import PretrainedConfig


def served_folder(config: RLConfig) -> Path:
    """Return the folder that the server loads: the model's own, or one in the run with its RoPE extended.

    Raises `ConfigError` for a model that is not a folder, and for an extension that the model cannot have.
    """
    model = Path(config.model)
    if not (model / "config.json").is_file():
        raise ConfigError(
            f"model {config.model} is not a folder with config.json: give a downloaded model", setting="model"
        )
    if config.context_extension is None:
        return model
    folder, extended = config.run / "model", extended_config(config)
    if not folder.exists():
        with replacing_folder(folder) as draft:
            for path in model.resolve().iterdir():
                if path.is_file() and path.name != "config.json":
                    (draft / path.name).symlink_to(path.resolve())
            extended.save_pretrained(draft)
    elif json.loads((folder / "config.json").read_text()).get("rope_parameters") != extended.rope_parameters:
        raise ConfigError(
            f"{folder} has another context_extension: give another run", setting=("run", "context_extension")
        )
    return folder


def extended_config(config: RLConfig) -> "PretrainedConfig":
    """Return the model's config, with its RoPE extended where the run asks for it. Raises `ConfigError`."""
    from transformers import AutoConfig

    loaded: PretrainedConfig = AutoConfig.from_pretrained(config.model, trust_remote_code=False)
    if config.context_extension is not None:
        from trainer_configs.longlora.config import one_line, section

        with one_line("context_extension: "):
            extension = section({"longlora": {"context_extension": config.context_extension}}).extension(loaded)
        for name, value in (extension.changes if extension else {}).items():
            setattr(loaded.get_text_config(), name, value)
    return loaded
