"""The names of the files in an adapter's folder."""

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
SEGMENTS = "segments.json"  # the words of each segment, piece by piece
SOURCES = "sources.safetensors"  # where each slot of a compact memory stood in the text
SWITCH = "switch.json"  # when a compact memory has something to say
BASE = "base.json"  # the fingerprint of the base model that it was fitted to
FILES = (CONFIG, WEIGHTS, SEGMENTS, SOURCES, SWITCH, BASE)
