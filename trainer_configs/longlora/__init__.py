"""LongLoRA: an Axolotl plugin (`plugins: [trainer_configs.longlora.LongLoRAPlugin]`), and the data that it trains on.

Axolotl is imported when the plugin is asked for, so `longlora data` and the other commands run without it.
"""

from typing import Any


def __getattr__(name: str) -> Any:
    if name != "LongLoRAPlugin":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from trainer_configs.longlora.plugin import LongLoRAPlugin
    except ImportError as error:
        # Up to 0.20 Axolotl logs a plugin's ImportError and trains without it.
        raise RuntimeError(f"the LongLoRA plugin cannot be loaded: {error}") from error
    return LongLoRAPlugin
