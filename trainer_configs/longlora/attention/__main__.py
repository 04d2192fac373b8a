"""`python -m trainer_configs.longlora.attention [PICTURE.png]`: draws which tokens each half of the heads sees."""

import sys

from trainer_configs.longlora.attention.figure import draw

draw(sys.argv[1] if len(sys.argv) > 1 else "shifted-sparse-attention.png")
