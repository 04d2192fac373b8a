"""What a step of a short row takes with checkpointing, with selective checkpointing, and with the activations kept.

    python -m benchmarks.longlora_short_rows [--model MODEL --tokens 8192]

A pass forward and back through a model of random weights with LoRA of all matrices. Without MODEL, a folder with a config, it
has 30 narrow layers, on which even a CPU does little but call kernels, as a GPU does on a small model's short rows. The ways
take turns; their medians are compared with that without checkpointing.
"""

import statistics
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig

from benchmarks.gpu_timing import seconds
from benchmarks.longlora_model import checkpointing
from longthread.command_line import App
from trainer_configs.longlora.kept_activations import KeptActivations

PLAIN, LAYERS, SELECTIVE, KEPT = (
    "no checkpointing",
    "checkpointing",
    "selective checkpointing",
    "the same, short rows kept",
)
NARROW = LlamaConfig(
    hidden_size=64, intermediate_size=128, num_hidden_layers=30, num_attention_heads=4, num_key_value_heads=2,
    vocab_size=260, max_position_embeddings=32_768,
)  # fmt: skip


def build(config: Any, way: str, tokens: int, device: str) -> Any:
    """Return a model that is trained that way, on rows of so many tokens."""
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    base = AutoModelForCausalLM.from_config(config, dtype=dtype).to(device)
    model: Any = get_peft_model(base, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")).train()
    if way != PLAIN:
        model.enable_input_require_grads()
        checkpointing(model, attention=way != LAYERS)
    if way == KEPT:
        KeptActivations(model, tokens)
    return model


def step(model: Any, ids: Tensor) -> None:
    """Compute the gradients of a row."""
    model(input_ids=ids, labels=ids).loss.backward()


app = App()


@app.command()
def run(
    model: Annotated[Path | None, typer.Option(exists=True, help="Folder with the config of a model.")] = None,
    tokens: Annotated[int, typer.Option(min=2, help="Of the row.")] = 32,
    steps: Annotated[int, typer.Option(min=1, help="Timed of each way, after two.")] = 10,
) -> None:
    """Measure; print milliseconds a step, and how many times as long as without checkpointing that is."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    config = AutoConfig.from_pretrained(model) if model else NARROW
    built = {way: build(config, way, tokens, device) for way in (PLAIN, LAYERS, SELECTIVE, KEPT)}
    ids = torch.arange(tokens, device=device)[None] % config.vocab_size
    taken: dict[str, list[float]] = {way: [] for way in built}
    for _ in range(steps + 2):
        for way, each in built.items():
            taken[way].append(seconds(device, partial(step, each, ids)))
            each.zero_grad()
    medians = {way: statistics.median(times[2:]) for way, times in taken.items()}
    for way, median in medians.items():
        print(f"{way:28}{1000 * median:8.0f} ms{median / medians[PLAIN]:8.1f} times")


if __name__ == "__main__":
    app()
