"""`python -m trainer_configs.longlora.data`."""

import typer

from trainer_configs.longlora.data.command import data

typer.run(data)
