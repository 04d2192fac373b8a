"""Draw which tokens each half of the attention heads sees."""

import torch

from trainer_configs.longlora.attention.segments import segment_starts


def draw(path: str) -> None:
    """Write a picture of the two attention patterns to `path`.

    It shows which token sees which, for 32 tokens and groups of 8.
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 4.6), sharey=True)
    positions_BL = torch.arange(32)[None]
    for axis, shifted in zip(axes, (False, True), strict=True):
        segment_L = segment_starts(positions_BL, 8, shifted).cumsum(1)[0]
        axis.imshow((segment_L[:, None] == segment_L[None]).tril(), cmap="Blues", vmin=-0.2, vmax=1.2)
        axis.set(title=f"{'shifted' if shifted else 'straight'} half of the heads", xlabel="token that is seen")
    axes[0].set_ylabel("token that sees")
    figure.savefig(path, dpi=120, bbox_inches="tight")
    print(path)
