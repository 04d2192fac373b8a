"""What DPO of long pairs, packed rows and parallel documents take on a GPU: peak memory and seconds of a step.

    python -m benchmarks.longlora_pairs MODEL [--lengths 8192,32768] [--documents 8] [--json out.json]

MODEL is a folder with a config and a tokenizer; its weights are drawn at random, in bf16, with LoRA on attention. Pairs:
TRL's own DPO loss, with the logits of every token and with those of completions alone (`longlora.pair_logits`). Packed
rows: one forward and backward pass of full attention over a row of several documents, by the model itself, which computes
all pairs of tokens and lets documents see each other, and with the documents apart (`longlora.attention.documents`).
Parallel documents: such a pass over documents with a tail that sees them all, in a sparse and in a full step.
"""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
import typer
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, set_seed
from trl import DPOConfig, DPOTrainer

from benchmarks.gpu_timing import Row, clear, guarded, peak, seconds
from longthread.files import write_json
from trainer_configs.longlora.attention.documents import DocumentAttention
from trainer_configs.longlora.attention.transformers_hook import install
from trainer_configs.longlora.pair_logits import completions_alone
from trainer_configs.longlora.section import default_group_size

DTYPES = {"cuda": torch.bfloat16, "cpu": torch.float32}
TIMED = 3  # steps, after a first one


def build(model: Path, device: str) -> Any:
    """Return the model of that config with random weights, and LoRA on the queries, keys, values and outputs."""
    set_seed(0)
    base = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model), dtype=DTYPES[device]).to(device)
    base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    base.enable_input_require_grads()
    return get_peft_model(base, LoraConfig(r=8, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"])).train()


def dpo_step(model: Path, device: str, length: int, alone: bool) -> Callable[[], Tensor]:
    """Return a step of TRL's DPO: the loss of one pair whose prompt has about `length` tokens, and its gradients."""
    pairs = Dataset.from_list([{"prompt": "the " * length, "chosen": " reed-broom", "rejected": " lake-bison"}])
    with tempfile.TemporaryDirectory() as folder:
        args = DPOConfig(
            output_dir=folder,
            report_to=[],
            max_length=None,
            per_device_train_batch_size=1,
            bf16=device != "cpu",
            use_cpu=device == "cpu",
        )
        tokenizer = AutoTokenizer.from_pretrained(model)
        trainer = DPOTrainer(model=build(model, device), args=args, train_dataset=pairs, processing_class=tokenizer)
        batch = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    compute = completions_alone(trainer) if alone else trainer._compute_loss

    def step() -> Tensor:
        loss = compute(trainer.model, batch, False)
        loss.backward()
        return loss.detach()

    return step


def packed_step(model: Path, device: str, length: int, documents: int, apart: bool) -> Callable[[], Tensor]:
    """Return a pass forward and back over one row of `documents` equal documents of `length` tokens together."""
    built = build(model, device)
    apart_attention = DocumentAttention(built.get_base_model()) if apart else None
    ids = torch.randint(0, 256, (1, length), device=device)
    # Without positions the row is one document to the model.
    positions = torch.arange(length // documents, device=device).repeat(documents)[None] if apart else None

    def step() -> Tensor:
        assert apart_attention is None or apart_attention.name  # the model holds its attention weakly
        loss = built(input_ids=ids, position_ids=positions, logits_to_keep=256).logits.float().pow(2).mean()
        loss.backward()
        return loss.detach()

    return step


def parallel_step(model: Path, device: str, length: int, documents: int, sparse: bool) -> Callable[[], Tensor]:
    """Return a pass forward and back over one row of equal documents and a tail of a sixteenth of its tokens."""
    built = build(model, device)
    attention = install(built.get_base_model(), default_group_size(length), parallel=True)
    tail = length // 16
    each = (length - tail) // documents
    positions = torch.cat([torch.arange(each).repeat(documents), each + 1 + torch.arange(tail)])[None].to(device)
    ids = torch.randint(0, 256, positions.shape, device=device)

    def step() -> Tensor:
        attention.sparse = sparse
        loss = built(input_ids=ids, position_ids=positions, logits_to_keep=256).logits.float().pow(2).mean()
        loss.backward()
        return loss.detach()

    return step


def measure(device: str, work: Callable[[], Callable[[], Tensor]]) -> Row:
    """Return the median seconds of a step, its peak in GiB and its loss."""
    step = work()
    loss = float(step())
    clear(device)
    timed = median(seconds(device, step) for _ in range(TIMED))
    return {"seconds": timed, "peak": peak(device), "loss": loss}


def main(
    model: Annotated[Path, typer.Argument(help="Folder with config.json and a tokenizer.")],
    lengths: Annotated[str, typer.Option(help="Tokens of a row, separated by commas.")] = "8192,32768",
    documents: Annotated[int, typer.Option(min=2, help="Documents of a packed row.")] = 8,
    json_out: Annotated[Path | None, typer.Option("--json", help="Write the figures here too.")] = None,
) -> None:
    """Print seconds and peak memory of DPO steps and packed full steps, by length."""
    device, rows = "cuda" if torch.cuda.is_available() else "cpu", []
    for length in map(int, lengths.split(",")):
        works = {
            "DPO, logits of every token": partial(dpo_step, model, device, length, False),
            "DPO, logits of completions": partial(dpo_step, model, device, length, True),
            "full step, one document": partial(packed_step, model, device, length, 1, False),
            f"full step, {documents} documents apart": partial(packed_step, model, device, length, documents, True),
            f"full step, {documents} parallel documents": partial(
                parallel_step, model, device, length, documents, False
            ),
            f"sparse step, {documents} parallel documents": partial(
                parallel_step, model, device, length, documents, True
            ),
        }
        for case, work in works.items():
            rows.append(guarded({"case": case, "length": length}, device, measure, device, work))
            if json_out:
                write_json(json_out, rows)
    table = Table(title="LoRA on attention, bf16, one row, gradient checkpointing")
    for column in ("case", "length", "seconds", "GiB", "loss"):
        table.add_column(column, justify="right" if column != "case" else "left")
    for row in rows:
        figures = [f"{row[name]:.3f}" if name in row else row.get("error", "-") for name in ("seconds", "peak", "loss")]
        table.add_row(row["case"], f"{row['length']:,}", *figures)
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
