"""The command: models and adapters, exact figures in its table and JSON, and errors in one line."""

import gzip
import json
import math
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, GPT2Config
from typer.testing import CliRunner

from longthread.errors import ConfigError, DataError
from tests.environments.tiny_model import save_tiny, tiny_model, tiny_tokenizer
from trainer_configs.longlora import perplexity
from trainer_configs.longlora.perplexity import Lengths, Source, lengths, read_text
from trainer_configs.longlora.token_nll import nll_by_token

TEXT = "".join(f"{i}, {i * i} and {i**3}; " for i in range(60))
YARN = {"rope_type": "yarn", "factor": 2.0, "rope_theta": 10000.0, "original_max_position_embeddings": 512}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, an adapter of it trained for twice its window, and a text."""
    folder = tmp_path_factory.mktemp("perplexity")
    base = save_tiny(folder / "base")
    model = AutoModelForCausalLM.from_pretrained(base)
    torch.manual_seed(0)
    lora = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    get_peft_model(model, lora).save_pretrained(folder / "adapter")
    config = AutoConfig.from_pretrained(base)
    config.max_position_embeddings, config.rope_parameters = 1024, YARN
    config.save_pretrained(folder / "adapter")
    (folder / "text.txt").write_text(TEXT)
    return folder


def run(folder: Path, *more: object, model: str | Path = "base", text: str | Path = "text.txt") -> tuple[int, str, str]:
    """Exit code, stdout and stderr of the command."""
    argv = ["perplexity", str(folder / model), str(folder / text), *map(str, more)]
    done = CliRunner().invoke(perplexity.app, argv, env={"COLUMNS": "160"})
    return done.exit_code, done.stdout, done.stderr


def one_line(said: str) -> bool:
    return said.startswith("error: ") and len(said.splitlines()) == 1


def test_table_json_and_picture(folder: Path, tmp_path: Path) -> None:
    out, figure = tmp_path / "new" / "ppl.json", tmp_path / "ppl.png"
    sizes = ("--length", 64, "--rows", 3, "--window", 16, "--stride", 4)
    code, said, _ = run(folder, *sizes, "--json", out, "--figure", figure)
    assert code == 0 and said.count("positions") == 1 and "0–8" in said and "56–64" in said
    result = json.loads(out.read_text())
    ids = torch.tensor(tiny_tokenizer()(TEXT)["input_ids"])[: 3 * 64].view(3, 64)
    wanted = nll_by_token(tiny_model(), ids)
    assert result["all"]["tokens"] == wanted.numel() == 189 and result["all"]["compared"] == 3 * 48
    assert result["all"]["nll"] == pytest.approx(wanted.mean().item(), abs=1e-5)
    assert f"{math.exp(result['all']['nll']):,.2f}" in said
    assert {result[name] for name in ("length", "window", "stride", "rows")} == {64, 16, 4, 3}
    assert figure.read_bytes().startswith(b"\x89PNG")


def test_only_sliding_windows_read_texts_beyond_the_models_window(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "ppl.json"
    sizes = ("--length", 600, "--rows", 1, "--window", 500, "--stride", 250)
    code, said, _ = run(folder, *sizes, "--sliding-only", "--json", out)
    assert code == 0 and "600" in said
    whole = json.loads(out.read_text())["all"]
    assert (whole["nll"], whole["gain"], whole["compared"]) == (None, None, 0) and whole["sliding_nll"] > 0


def test_beyond_the_window_rotary_positions_alone_are_read(folder: Path, tmp_path: Path) -> None:
    sizes = ("--length", 600, "--rows", 1, "--beyond-window")
    code, out, _ = run(folder, *sizes)
    assert code == 0 and "525–600" in out
    GPT2Config(n_embd=32, n_layer=1, n_head=2, n_positions=512, vocab_size=260).save_pretrained(tmp_path / "learned")
    code, _, fault = run(folder, *sizes, model=tmp_path / "learned")
    assert code == 2 and "has no rotary positions" in fault and one_line(fault)


def test_a_model_whose_figures_are_no_numbers_ends_in_one_line(folder: Path, tmp_path: Path) -> None:
    broken = save_tiny(tmp_path / "broken")
    model = AutoModelForCausalLM.from_pretrained(broken)
    torch.nn.init.constant_(model.lm_head.weight, math.inf)
    model.save_pretrained(broken)
    code, out, fault = run(folder, "--length", 64, model=broken)
    assert (code, out) == (1, "") and "is not finite" in fault and "error: " in fault


def test_an_adapter_is_read_with_its_base_and_the_window_it_was_trained_for(folder: Path) -> None:
    source = Source(str(folder / "adapter"))
    assert source.native == 1024 and source.base == str(folder / "base") and source.rotary
    model = source.load()
    assert model.config.rope_parameters["factor"] == 2.0
    rows_NL = torch.randint(256, (2, 40))
    config = AutoConfig.from_pretrained(folder / "adapter")
    from peft import PeftModel

    by_peft = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(folder / "base", config=config), folder / "adapter"
    ).eval()
    with torch.no_grad():
        logits = by_peft(input_ids=rows_NL).logits[:, :-1].log_softmax(-1)
    wanted = -logits.gather(-1, rows_NL[:, 1:, None])[..., 0]
    assert torch.allclose(nll_by_token(model, rows_NL), wanted, atol=1e-3)
    assert not torch.allclose(nll_by_token(tiny_model(), rows_NL), wanted, atol=1e-1)


def test_the_evaluator_tells_the_key_tokens(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer_configs.longlora.by_position.KEY_NLL", 100.0)  # random weights predict nothing well
    monkeypatch.setattr("trainer_configs.longlora.by_position.KEY_GAIN", 0.5)
    keys = {}
    for model, evaluator in (("base", ""), ("adapter", ""), ("base", "adapter")):
        out = tmp_path / "ppl.json"
        more = ("--evaluator", folder / evaluator) if evaluator else ()
        sizes = ("--length", 64, "--rows", 2, "--window", 8, "--stride", 4, "--json", out)
        code, _, fault = run(folder, *sizes, *more, model=model)
        assert code == 0, fault
        keys[model, evaluator] = json.loads(out.read_text())["all"]
    judged, own, evaluators = keys["base", "adapter"], keys["base", ""], keys["adapter", ""]
    assert judged["key_tokens"] == evaluators["key_tokens"] != own["key_tokens"]
    assert judged["nll"] == own["nll"] and judged["key_nll"] not in (own["key_nll"], evaluators["key_nll"])


@pytest.mark.parametrize(
    ("more", "word"),
    [
        (("--length", 64, "--window", 16, "--stride", 0), "stride 0 must be from 1 to 15"),
        (("--length", 64, "--window", 16, "--stride", 16), "stride 16 must be from 1 to 15"),
        (("--length", 64, "--window", 64), "window 64 must have from 2 to 63 tokens"),
        (("--length", 4096), "length 4096 is more than the model's window (512)"),
        (("--length", 700, "--window", 600, "--sliding-only"), "window 600 is more than the model's (512)"),
        (("--figure", "curve.txt"), "figure must end in one of .png"),
        (("--evaluator", "x", "--sliding-only"), "key tokens need rows that are read whole"),
        (("--evaluator", "/no/model", "--length", 64), "model /no/model cannot be read"),
        (("--length", 9000, "--sliding-only"), "length 9000 is more than the longest text has"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_mistakes_end_in_one_line(folder: Path, more: tuple[object, ...], word: str) -> None:
    code, out, fault = run(folder, *more)
    assert (code, out) == (2, "") and word in fault and one_line(fault)


def test_files_that_cannot_be_read_end_in_one_line(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.txt.gz").write_bytes(gzip.compress(TEXT.encode())[:-20])
    for done in (run(folder, text="none.txt"), run(folder, text=tmp_path / "cut.txt.gz"), run(folder, model="none")):
        code, _, fault = done
        assert code == 2 and "cannot be read" in fault and one_line(fault)


def test_defaults_follow_the_models_window() -> None:
    assert lengths((None, None, None), 131_072, True, False) == Lengths(32_768, 5120, 1024)
    assert lengths((None, None, None), None, True, False) == Lengths(32_768, 5120, 1024)
    assert lengths((None, None, None), 512, True, False) == Lengths(512, 256, 51)
    assert lengths((65_536, None, None), 8192, True, True) == Lengths(65_536, 5120, 1024)
    for length in range(4, 40):  # no length whose own defaults are refused
        sizes = lengths((length, None, None), None, True, False)
        assert 1 <= sizes.stride < sizes.window < length
    with pytest.raises(ConfigError, match="--beyond-window"):
        lengths((65_536, None, None), 8192, True, False)


def test_texts_plain_and_compressed(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("é")
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress("é".encode()))
    assert read_text(tmp_path / "a.txt") == read_text(tmp_path / "a.txt.gz") == "é"
    with pytest.raises(DataError, match="b.txt cannot be read"):
        read_text(tmp_path / "b.txt")
