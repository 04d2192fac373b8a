"""Store memories on disk, and attach them to a base model."""
