"""The model that is trained: LoRA, embeddings and norms, RoPE extended; and its weights as a server takes them."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from environments.inference.embedded.weights import base_digest
from longthread.errors import ConfigError
from longthread.files import replacing_folder
from longthread.language_model import AdaptedLM
from trainer_configs.atropos_rl.config import RLConfig
from trainer_configs.atropos_rl.model_folder import extended_config
from trainer_configs.atropos_rl.shared_prompt import ATTENTION
from trainer_configs.longlora import trainable
from trainer_configs.longlora.adapter import load_model
from trainer_configs.longlora.rope.extension import check as check_rope

if TYPE_CHECKING:  # PEFT is imported where it is used
    from peft import PeftModel


class Policy:
    """The trained model with its optimizer."""

    def __init__(self, config: RLConfig) -> None:
        """Load the base model and put the adapter on it. Raises `ConfigError`."""
        from peft import LoraConfig, get_peft_model

        torch.manual_seed(config.seed)  # of the adapter's first half
        cuda = torch.cuda.is_available()
        loaded = extended_config(config)
        base: Any = load_model(config.model, loaded)
        window = loaded.get_text_config().max_position_embeddings
        if config.batch.max_tokens - 1 > window:
            raise ConfigError(
                f"sequences of {config.batch.max_tokens - 1} tokens exceed the model's window of {window}: set "
                "context_extension, or fewer tokens",
                setting="batch.max_tokens",
            )
        if config.context_extension:
            check_rope(base, {"rope_parameters": loaded.get_text_config().rope_parameters})
        self.base, self.names = base_digest(base), [name for name, _ in base.named_parameters()]
        dtype = torch.bfloat16 if cuda else torch.float32
        base.to("cuda" if cuda else "cpu", dtype)
        base.set_attn_implementation(ATTENTION)
        lora, embeddings = config.lora, config.lora.train_embeddings
        saved = trainable.module_names(base, embeddings, lora.train_norms)
        tied = bool(base.config.get_text_config().tie_word_embeddings)
        adapter = LoraConfig(
            task_type="CAUSAL_LM",
            r=lora.r,
            lora_alpha=lora.alpha,
            target_modules=lora.target_modules,
            modules_to_save=saved or None,
            ensure_weight_tying=tied and embeddings,
        )
        try:
            self.model: Any = get_peft_model(base, adapter)
        except ValueError:
            name = type(base).__name__
            raise ConfigError(
                f"{name} has no modules {', '.join(lora.target_modules)}: name its linear layers",
                setting="lora.target_modules",
            ) from None
        trainable.prepare(cast("PeftModel", self.model), dtype)
        if config.gradient_checkpointing:
            self.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            self.model.enable_input_require_grads()
        self.model.train()  # there is no dropout; checkpointing asks for it
        rates = config.optimizer
        groups = trainable.parameter_groups(
            self.model, rates.learning_rate, rates.embedding_lr, rates.norm_lr, rates.weight_decay
        )
        self.optimizer = torch.optim.AdamW(groups)
        self.rates = [group["lr"] for group in groups]
        self.warmup, self.max_grad_norm = rates.warmup_steps, rates.max_grad_norm

    @property
    def adapted(self) -> AdaptedLM:
        """The model with its adapter."""
        model: AdaptedLM = self.model
        return model

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        device: torch.device = self.model.device
        return device

    def parameters(self) -> dict[str, nn.Parameter]:
        """Return what is trained, by name; what is shared stands there once."""
        return {name: parameter for name, parameter in self.model.named_parameters() if parameter.requires_grad}

    def step(self, number: int) -> float:
        """Change the weights by their gradients, as step `number` from 0, and clear these. Returns the gradients' norm."""
        share = min(1.0, (number + 1) / (self.warmup + 1))
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * share
        norm = nn.utils.clip_grad_norm_(list(self.parameters().values()), self.max_grad_norm)
        if norm.isfinite():
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return float(norm)

    @torch.no_grad()
    def weights(self) -> dict[str, Tensor]:
        """Return the parameters of the base model that training has changed, merged, by the base's names."""
        dtype = self.model.get_base_model().dtype
        merged = {name: weight.to(dtype) for name, weight in self._merged()}
        return {name: merged[name] for name in self.names if name in merged}  # a tied head stands there once

    def _merged(self) -> Iterator[tuple[str, Tensor]]:
        from peft.tuners.lora import LoraLayer
        from peft.utils import ModulesToSaveWrapper

        for name, module in self.model.get_base_model().named_modules():
            if isinstance(module, LoraLayer):
                layer: Any = module
                weight = layer.get_base_layer().weight
                yield f"{name}.weight", weight.float() + layer.get_delta_weight("default").float()
            elif isinstance(module, ModulesToSaveWrapper):
                for part, parameter in module.modules_to_save["default"].named_parameters():
                    yield f"{name}.{part}", parameter

    def save_adapter(self, folder: Path) -> None:
        """Write the adapter as `longthread longlora merge` reads it, with the config that holds its RoPE."""
        with replacing_folder(folder) as draft:
            self.model.save_pretrained(draft, save_embedding_layers=False)
            self.model.config.save_pretrained(draft)
