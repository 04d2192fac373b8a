"""The longer commands of `lift`, a file each."""
