"""Perplexity by position and by sliding window: how well a model predicts text 0–2k, 2–4k, … tokens into its window.

    longthread longlora perplexity MODEL TEXT...   # --length 32768, --window 5120 --stride 1024, --json FILE, --figure FILE
    python -m trainer_configs.longlora.perplexity ...  # the same

MODEL is a model, or a training run's adapter, which is read together with its base model and its window. Each row of text is
read twice: whole, so that a token is given all before it, and by sliding windows, so that it is given the last tokens alone.
No token is scored twice. Text differs from stretch to stretch: compare models at one position, or take many rows before you
compare positions. A flat curve shows that positions are read, not that anything is found in them. What the long context adds
is the gain, and the key tokens, which it makes likely (LongPPL, arXiv 2410.23771); what is found, the needle grid shows.
"""

import gzip
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer
from rich.console import Console

from longthread.command_line import App
from longthread.counts import counted
from longthread.errors import ConfigError, DataError, RunError, exit_on_error, option
from longthread.files import write_json
from longthread.model_shape import window_of
from trainer_configs.longlora.adapter import attach, base_of, configs, copy_window, load_base, load_model
from trainer_configs.longlora.by_position import TokenNLL, compare
from trainer_configs.longlora.perplexity_report import FIGURES, as_json, draw, table
from trainer_configs.longlora.token_nll import nll_by_token, sliding_nll, windows

if TYPE_CHECKING:  # imported where they are used: `--help` needs none of them
    from torch import Tensor
    from transformers import PretrainedConfig

    from longthread.language_model import CausalLM

LENGTH = 32_768  # tokens of a row, where the model's window has as many
WINDOW, STRIDE = 5120, 1024  # LongPPL's: at least the last 4,096 tokens


class Lengths(NamedTuple):
    """Tokens of a row, of a sliding window, and by how many it slides."""

    length: int
    window: int
    stride: int


def lengths(asked: tuple[int | None, int | None, int | None], native: int | None, whole: bool, beyond: bool) -> Lengths:
    """Return the asked length, window and stride, with defaults for those that are None. Raises `ConfigError`.

    `native`: the model's window, None where its config states none. `whole`: rows are read whole too, and may be longer than
    the model's window only where `beyond` is true.
    """
    length = asked[0] if asked[0] is not None else min(LENGTH, native or LENGTH)
    if whole and native and length > native and not beyond:
        fault = f"length {length} is more than the model's window ({native}): give at most that, --sliding-only, or "
        raise ConfigError(f"{fault}--beyond-window to measure there all the same", setting="length")
    window = asked[1] if asked[1] is not None else min(WINDOW, native or WINDOW, length // 2)
    stride = asked[2] if asked[2] is not None else max(1, window * STRIDE // WINDOW)
    if native and window > native:
        raise ConfigError(f"window {window} is more than the model's ({native}): give at most that", setting="window")
    if not 2 <= window < length:
        fault = f"window {window} must have from 2 to {length - 1} tokens, fewer than a row (length {length})"
        raise ConfigError(f"{fault}: give a smaller window or a greater length", setting=("window", "length"))
    if not 1 <= stride < window:
        fault = f"stride {stride} must be from 1 to {window - 1}, less than the window"
        raise ConfigError(f"{fault}: give a quarter of the window or less", setting="stride")
    return Lengths(length, window, stride)


def read_text(path: Path) -> str:
    """Read a UTF-8 text file, plain or gzipped. Raises `DataError`."""
    try:
        return gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text()
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise DataError(f"text {path} cannot be read ({error}): give a UTF-8 .txt or .txt.gz file") from None


class Source:
    """A model to be measured, by folder or name: its config is read at once, its weights by `load`.

    An adapter's config is its base model's with the window that it was trained for. Raises `ConfigError`.
    """

    def __init__(self, name: str):
        from transformers import AutoConfig

        self.name = self.base = name
        self.adapter = Path(name) if (Path(name) / "adapter_config.json").is_file() else None
        self._trained: PretrainedConfig | None = None
        if self.adapter:
            if not (base := base_of(self.adapter)):
                raise ConfigError(f"{name} does not name its base model: merge it, and give the merged model")
            self.base = base
            self.config, self._trained = configs(self.adapter, base)
            if self._trained is not None:
                copy_window(self._trained, self.config)
            return
        try:
            self.config = AutoConfig.from_pretrained(name, trust_remote_code=False)
        except (OSError, ValueError, KeyError) as error:
            raise ConfigError(f"model {name} cannot be read: {str(error).strip()[:200]}") from None

    @property
    def native(self) -> int | None:
        """Longest position that the model's config states, in tokens."""
        return window_of(self.config)

    @property
    def rotary(self) -> bool:
        """Whether positions are rotary, so that the model computes beyond its window too."""
        return bool(getattr(self.config.get_text_config(), "rope_parameters", None))

    def token_ids(self, texts: list[str]) -> list[list[int]]:
        """Return the token ids of each text by the adapter's tokenizer, or else by the model's, without special tokens."""
        from transformers import AutoTokenizer

        own = self.adapter is not None and any(self.adapter.glob("tokenizer*"))
        folder = str(self.adapter) if own else self.base
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder)
        except (OSError, ValueError) as error:
            raise ConfigError(f"model {folder} has no tokenizer that can be read: {str(error).strip()[:200]}") from None
        return [tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"] for text in texts]

    def load(self) -> "CausalLM":
        """Return the model, in bf16 on a GPU where there is one, else in fp32 on the CPU; an adapter is merged in fp32."""
        import torch

        device, dtype = ("cuda", "bfloat16") if torch.cuda.is_available() else ("cpu", "float32")
        if self.adapter is None:
            model: Any = load_model(self.base, dtype=dtype)
        else:
            adapted = attach(load_base(self.base, self.config, self._trained), self.adapter, self.base)
            model = adapted.merge_and_unload(safe_merge=True)
            for parameter in model.parameters():  # not the buffers: RoPE's frequencies are fp32 in any model
                parameter.data = parameter.data.to(getattr(torch, dtype))
        language_model: CausalLM = model.to(device).eval()
        return language_model


def measure(source: Source, rows_NL: "Tensor", sizes: Lengths, whole: bool) -> TokenNLL:
    """Return the NLL of the rows' tokens by sliding windows and, where `whole`, given all of the row before them.

    Raises `RunError` where memory is short, or an NLL is not finite.
    """
    import torch

    try:
        model = source.load()
        full = nll_by_token(model, rows_NL) if whole else None
        slid = sliding_nll(model, rows_NL, sizes.window, sizes.stride)
    except torch.OutOfMemoryError:
        raise RunError(f"{source.name}: the GPU's memory is short: give a smaller length", setting="length") from None
    for nll in (slid, full):
        if nll is not None and (broken := int((~nll.isfinite()).sum())):
            raise RunError(
                f"{source.name}: the NLL of {broken} of {nll.numel()} tokens is not finite: the model is broken"
            )
    return TokenNLL(full, slid)


app = App(no_args_is_help=True, help="LongLoRA: perplexity.")


@app.command()
def perplexity(
    model: Annotated[str, typer.Argument(help="Folder or name of the model, or folder of an adapter.")],
    texts: Annotated[list[Path], typer.Argument(help="Held-out .txt or .txt.gz files, each one document.")],
    length: Annotated[int | None, typer.Option(min=4, help="Tokens of a row; 32768 or the model's window.")] = None,
    rows: Annotated[int, typer.Option(min=1, help="Rows, at most.")] = 8,
    window: Annotated[int | None, typer.Option(help="Tokens of a sliding window; 5120 or half a row.")] = None,
    stride: Annotated[int | None, typer.Option(help="Tokens it slides by; 1024, or a fifth of it.")] = None,
    sliding_only: Annotated[
        bool, typer.Option(help="Rows are not read whole: longer than the model's window.")
    ] = False,
    beyond_window: Annotated[bool, typer.Option(help="Read rows whole beyond the model's window.")] = False,
    evaluator: Annotated[
        str | None, typer.Option(help="Model of the same tokenizer that tells the key tokens.")
    ] = None,
    json_out: Annotated[Path | None, typer.Option("--json", help="Write the figures here too.")] = None,
    figure: Annotated[Path | None, typer.Option(help="Draw the curves here: .png, .svg or .pdf.")] = None,
) -> None:
    """Print a model's perplexity by position, given the whole row and by sliding window, and what the long context adds."""
    with exit_on_error(option):
        if figure and figure.suffix not in FIGURES:
            raise ConfigError(f"figure must end in one of {', '.join(FIGURES)} (got {figure})", setting="figure")
        if evaluator and sliding_only:
            raise ConfigError("key tokens need rows that are read whole", setting=("evaluator", "sliding_only"))
        source, judge = Source(model), Source(evaluator) if evaluator else None
        sources = (source, judge) if judge else (source,)
        if beyond_window and (fixed := [each.name for each in sources if not each.rotary]):
            fault = f"{fixed[0]} has no rotary positions, and cannot read beyond its window: leave it out"
            raise ConfigError(fault, setting="beyond_window")
        native = min((each.native for each in sources if each.native), default=None)
        sizes = lengths((length, window, stride), native, not sliding_only, beyond_window)
        written = [read_text(path) for path in texts]
        documents = source.token_ids(written)
        if judge and judge.token_ids(written) != documents:
            raise ConfigError(f"{evaluator} cuts the text into other tokens than {model}", setting="evaluator")
        rows_NL = windows(documents, sizes.length, rows)
        judged = measure(judge, rows_NL, sizes, True) if judge else None
        result = compare(measure(source, rows_NL, sizes, not sliding_only), sizes.window, judged)
        size = f"{counted(len(rows_NL), 'row')} of {sizes.length:,}"
        title = f"{model}: {size}, window {sizes.window:,}, stride {sizes.stride:,}"
        Console().print(table(title, result))
        if json_out:
            write_json(
                json_out, as_json(result, model=model, evaluator=evaluator, rows=len(rows_NL), **sizes._asdict())
            )
        if figure:
            draw(title, result, figure)


@app.callback()
def main() -> None:
    """LongLoRA: perplexity."""


if __name__ == "__main__":
    typer.run(perplexity)
