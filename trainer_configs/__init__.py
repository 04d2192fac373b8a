"""Train models on longthread's rows: an Axolotl plugin for LongLoRA, and training configs that use it."""
