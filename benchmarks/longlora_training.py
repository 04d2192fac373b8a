"""The methods that the LongLoRA benchmarks compare, and the recipe with one method's attention."""

from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RECIPE = ROOT / "trainer_configs" / "smollm2-135m-32k.yaml"
METHODS: dict[str, dict[str, Any]] = {  # of the recipe's `longlora` section; the one most is expected of comes first
    "full": {"attention": "full", "full_attention_steps": 1.0},
    "quarter": {"attention": "shifted", "full_attention_steps": 0.25},
    "tail_global": {"attention": "tail_global", "full_attention_steps": 0.0, "group_size": 4096},
    "shifted": {"attention": "shifted", "full_attention_steps": 0.0},
}


def write_config(method: str, out: Path, model: Path, rows: Path, changes: dict[str, Any]) -> Path:
    """The recipe with this method's attention, below `out`."""
    import yaml

    recipe = yaml.safe_load(RECIPE.read_text())
    recipe["longlora"] |= METHODS[method] | changes.pop("longlora", {})
    recipe["datasets"][0]["path"] = str(rows.resolve())
    recipe |= {"base_model": str(model.resolve()), "output_dir": str((out / method).resolve())}
    recipe |= {"dataset_prepared_path": str((out / "prepared").resolve()), **changes}
    path = out / f"{method}.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return path
