"""`python -m trainer_configs.longlora.data`."""

import typer

from trainer_configs.longlora.data.build import data

typer.run(data)
