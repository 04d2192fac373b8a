"""Draw which tokens each half of the attention heads sees, of one document and of parallel documents."""

import torch

from trainer_configs.longlora.attention.parallel_documents import parallel_mask

GROUP = 8  # tokens
ONE = list(range(32))
PARALLEL = [
    *range(3, 12),
    *range(12),
    *range(7, 12),
    *range(13, 19),
]  # three documents that end at one position, a tail


def draw(path: str) -> None:
    """Write a picture of the attention patterns to `path`.

    It shows which token sees which, for 32 tokens and groups of 8: one document, then three that are read apart, with
    the tail that sees them all.
    """
    import matplotlib.pyplot as plt

    rows = (
        ("one document", ONE, GROUP),
        ("parallel documents", PARALLEL, GROUP),
        ("parallel documents", PARALLEL, None),
    )
    panels = [(row, half) for row in rows for half in (0, 1) if row[2] or not half]
    figure, axes = plt.subplots(1, len(panels), figsize=(4.2 * len(panels), 4.6), sharey=True)
    for axis, ((name, positions, group), half) in zip(axes, panels, strict=True):
        axis.imshow(parallel_mask(torch.tensor([positions]), 2, 2, group)[0, half], cmap="Blues", vmin=-0.2, vmax=1.2)
        heads = f"{'shifted' if half else 'straight'} half of the heads" if group else "full step: all heads"
        axis.set(title=f"{name},\n{heads}", xlabel="token that is seen")
    axes[0].set_ylabel("token that sees")
    figure.savefig(path, dpi=120, bbox_inches="tight")
    print(path)
