"""Models of ALiBi (Bloom, MPT): read, trained in full attention and merged rightly, all else refused in one line."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, BloomConfig, MptConfig

from environments.inference.embedded.engine import load
from longthread.errors import ConfigError
from longthread.model_shape import window_of
from tests.environments.tiny_model import tiny_tokenizer
from trainer_configs.longlora.attention.documents import takes_positions
from trainer_configs.longlora.attention.transformers_hook import install
from trainer_configs.longlora.config import LongLoRAError, configure
from trainer_configs.longlora.extend.plan import ExtendSettings, make_plan
from trainer_configs.longlora.merge import lines, merge
from trainer_configs.longlora.perplexity import Source, lengths
from trainer_configs.longlora.plugin import LongLoRAPlugin, _check_rows
from trainer_configs.longlora.token_nll import nll_by_token, sliding_nll
from trainer_configs.longlora.trainable import module_names, prepare

WINDOW = 64  # of the MPT; Bloom's config states none
CONFIGS: dict[str, Any] = {
    "bloom": lambda: BloomConfig(
        vocab_size=260, hidden_size=32, n_layer=2, n_head=4, bos_token_id=256, eos_token_id=257, pad_token_id=257
    ),
    "mpt": lambda: MptConfig(vocab_size=260, d_model=32, n_layers=2, n_heads=4, max_seq_len=WINDOW, eos_token_id=257),
}
LORA = {"bloom": ["query_key_value"], "mpt": ["Wqkv"]}


@pytest.fixture(params=CONFIGS)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def folder(family: str, tmp_path: Path) -> Path:
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(CONFIGS[family]())
    for name, parameter in model.named_parameters():
        if "norm" not in name:
            torch.nn.init.normal_(parameter, std=0.2)  # far from even, so that what a token sees shows
    model.save_pretrained(tmp_path / family)
    tiny_tokenizer().save_pretrained(tmp_path / family)
    return tmp_path / family


def built(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.mark.parametrize("pattern", ["shifted", "tail_global"])
def test_sparse_attention_is_refused(folder: Path, pattern: str) -> None:
    with pytest.raises(ConfigError, match="does not take attention from transformers' interface: set .*attention full"):
        install(built(folder), 16, pattern=pattern)


def test_perplexity_is_that_of_one_token_asked_at_a_time(folder: Path) -> None:
    source, rows = Source(str(folder)), torch.randint(0, 256, (2, 40), generator=torch.Generator().manual_seed(1))
    model, window = source.load(), 12
    whole, slid = nll_by_token(model, rows), sliding_nll(model, rows, window, 4)
    reference = built(folder)
    for row in range(2):
        for at in range(1, 40):
            with torch.no_grad():
                given = reference(input_ids=rows[row : row + 1, :at]).logits[0, -1].log_softmax(-1)
            assert whole[row, at - 1].item() == pytest.approx(-given[rows[row, at]].item(), abs=1e-4)
    assert torch.allclose(slid[:, : window - 1], whole[:, : window - 1], atol=1e-4)
    assert not torch.allclose(slid[:, window:], whole[:, window:], atol=1e-2)


def test_a_window_that_the_config_states_is_kept_to(folder: Path, family: str) -> None:
    source = Source(str(folder))
    assert source.native == window_of(source.config) == (WINDOW if family == "mpt" else None)
    if family == "mpt":
        with pytest.raises(ConfigError, match="length 128 is more than the model's window"):
            lengths((128, None, None), source.native, True, False)
    else:
        assert lengths((128, 64, 16), source.native, True, False).length == 128
    with pytest.raises(ConfigError, match="states no window .*nothing to extend"):
        make_plan(ExtendSettings(str(folder), 4096))
    with pytest.raises(ConfigError, match="serve it with vLLM"):
        load(folder)


def test_a_longer_row_of_mpt_needs_the_window_alone(folder: Path, family: str) -> None:
    cfg = {"base_model": str(folder), "adapter": "lora", "sequence_len": 128, "longlora": {"attention": "full"}}
    if family == "bloom":
        configure(cfg)
        return
    with pytest.raises(LongLoRAError, match="overrides_of_model_config: {max_seq_len: 128}, which ALiBi needs alone"):
        configure(dict(cfg))
    configure(cfg | {"overrides_of_model_config": {"max_seq_len": 128}})


def test_rows_of_several_documents_are_refused(folder: Path) -> None:
    model = built(folder)
    assert not takes_positions(model)
    plugin, settings = LongLoRAPlugin(), {"attention": "full"}
    cfg: Any = _Config(base_model=str(folder), sequence_len=8, longlora=settings, sample_packing=True)
    with pytest.raises(LongLoRAError, match="takes no positions, which sample_packing works by: leave it out"):
        plugin.post_model_build(cfg, model)
    cfg["sample_packing"] = False
    rows = Dataset.from_dict({"input_ids": [[1, 2, 3, 4]], "position_ids": [[0, 1, 0, 1]]})
    trainer: Any = SimpleNamespace(model=model, train_dataset=rows)
    with pytest.raises(
        LongLoRAError, match="takes no positions, by which documents of a row are known: make rows of one"
    ):
        _check_rows(cfg, trainer)
    trainer.train_dataset = Dataset.from_dict({"input_ids": [[1, 2, 3]], "position_ids": [[0, 1, 2]]})
    _check_rows(cfg, trainer)


def test_a_training_merges_to_the_same_model_with_its_window(folder: Path, family: str, tmp_path: Path) -> None:
    base = built(folder)
    if family == "mpt":
        base.config.max_seq_len = 2 * WINDOW
    names = module_names(base, embeddings=False)  # both are tied by names that PEFT does not tie, which is refused
    model: Any = get_peft_model(base, LoraConfig(target_modules=LORA[family], modules_to_save=names))
    prepare(model)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    ids = torch.randint(0, 256, (1, 2 * WINDOW), generator=torch.Generator().manual_seed(2))
    for _ in range(3):
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(tmp_path / "adapter")
    base.config.save_pretrained(tmp_path / "adapter")
    merged = merge(tmp_path / "adapter", tmp_path / "merged", base=str(folder))
    with torch.no_grad():
        assert torch.allclose(built(tmp_path / "merged")(ids).logits, model.eval()(ids).logits, atol=1e-4)
    assert merged.max_position_embeddings == (2 * WINDOW if family == "mpt" else None)
    assert merged.serve.endswith(f"--max-model-len {2 * WINDOW}" if family == "mpt" else "merged")
    assert any("RoPE none" in line for line in lines(merged))


class _Config(dict[str, Any]):
    """Axolotl's config: keys that are not set read as None."""

    def __getattr__(self, name: str) -> Any:
        return self.get(name)
