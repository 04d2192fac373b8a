"""The gated memory as a PEFT method: `o_proj` takes each head's attention output, mixes the memory in, and projects.

    model = get_peft_model(model, GatedMemoryConfig(gate="lse"))        # importing this package registers it with PEFT

Works on any decoder with separate q_proj and o_proj: Llama, Qwen2, Qwen3, Gemma3, SmolLM3, Mistral, OLMo2. Several active
adapters are several documents at once (gate "lse"). Not for `nn.DataParallel`, whose replicas would share one probe.
"""

from peft.utils import register_peft_method

from lift.memory.tuner.attention import right_padded
from lift.memory.tuner.config import METHOD, GatedMemoryConfig
from lift.memory.tuner.layer import PREFIX, GatedMemoryLayer
from lift.memory.tuner.model import GatedMemoryModel, check, gate, layers, open_rows
from lift.memory.tuner.opened import OpenMemory

__all__ = [
    "METHOD", "GatedMemoryConfig", "GatedMemoryLayer", "GatedMemoryModel", "OpenMemory", "check", "gate", "layers",
    "open_rows", "right_padded",
]  # fmt: skip

register_peft_method(name=METHOD, config_cls=GatedMemoryConfig, model_cls=GatedMemoryModel, prefix=PREFIX)
