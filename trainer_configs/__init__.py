"""What makes trainers learn from longthread's rows: an Axolotl plugin and recipes of LongLoRA."""
