"""Run the command: `python -m trainer_configs.atropos_rl CONFIG`."""

import sys

from trainer_configs.atropos_rl.command import main

main(sys.argv[1:])
