"""`python -m trainer_configs.longlora.data`: the same as `longthread longlora data`."""

import typer

from trainer_configs.longlora.data.command import data

typer.run(data)
