from __future__ import annotations

import json
import pickle
import subprocess
import sys
from typing import Any

import pytest

from idtool.curate.registry import STEPS
from idtool.engine.step import Binding, Env, RowStep, Settings, Step
from idtool.errors import UsageError
from idtool.evaluate.measures import MEASURES
from idtool.evaluate.measures.base import Measure


@pytest.mark.parametrize("name", list(STEPS))
def test_steps_are_what_their_name_says(name: str) -> None:
    step = STEPS.get(name)
    assert issubclass(step, Step) and step.kind == name and step.summary
    assert issubclass(step.Settings, Settings) and step.Settings.model_json_schema()


def test_measures_document_every_column_and_write_none_twice() -> None:
    written: list[str] = []
    for name, measure in MEASURES.items():
        assert issubclass(measure, Measure) and measure.name == name and measure.summary
        assert all(field.metadata[b"doc"] for field in measure.writes)
        written += measure.writes.names
    assert len(written) == len(set(written))


def test_an_unknown_step_is_answered_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"Unknown step 'mesure'.*Did you mean 'measure'"):
        STEPS.get("mesure")


def test_steps_and_measures_import_without_models_or_decoders() -> None:
    """Listing and planning must not wait for libraries that only workers need."""
    code = """
import sys
from typing import Any
from idtool.evaluate.measures import MEASURES
from idtool.curate.registry import STEPS
for name in STEPS:
    STEPS.get(name)
dict(MEASURES.items())
heavy = {"cv2", "onnxruntime", "av", "PIL", "ray", "pandas", "scipy", "openvino", "ai_edge_litert", "torch"}
sys.exit(", ".join(sorted(heavy & set(sys.modules))) or 0)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")


RECIPE: dict[str, dict[str, Any]] = {
    "ingest": {"copy": "auto"},
    "animate": {},
    "inpaint": {},
    "frames": {"fps": 20, "shot_threshold": 0.35, "quality": 95},
    "gate": {"resolution": {"short_side": {"min": 768}}, "nsfw": {"nsfw": {"max": 0.5}}},
    "dedup": {"exact": True, "perceptual": {"max_distance": 3, "origins": ["photo"]}},
    "measure": {"measures": ["faces", "identity", "landmarks", "expression", "quality", "nsfw", "aesthetic"]},
    "repair": {"floor": 0.4},
    "crop": {},
    "perturb": {},
    "balance": {"quotas": [{"columns": ["expression"], "target": "uniform"}]},
    "regions": {"frame": "face", "crop": "bbox", "pairs": "first"},
    "describe": {"prompts": {"caption": "Say what you see."}},
    "records": {"splits": {"train": 1.0}, "files": True},
    "caption": {"by": "captioner"},
}


@pytest.mark.parametrize("name", list(RECIPE))
def test_steps_take_the_recipe_and_travel_to_workers(name: str) -> None:
    roles = {
        "faces": "scrfd-500m",
        "identity": "arcface-mbf",
        "parser": "bisenet-celebamask",
        "captioner": "api:some-model",
    }
    env = Env("offline", {role: (Binding(role, model),) for role, model in roles.items()})
    cls = STEPS.get(name)
    step = cls(cls.Settings.model_validate(RECIPE[name]), env)
    json.dumps(step.config())
    if isinstance(step, RowStep) and not step.skip_reason():
        operators = step.operators()
        # An operator may hand the next one a column that the table does not keep.
        assert set(step.writes({}).names) <= {name for operator in operators for name in operator.writes.names}
        for operator in operators:
            again = pickle.loads(pickle.dumps(operator))  # noqa: S301 - our own bytes
            assert again.config() == operator.config()
            json.dumps(operator.config())
