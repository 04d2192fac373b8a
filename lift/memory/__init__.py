"""The gated memory of a document, its PEFT adapter type, and its training by attention distillation."""
