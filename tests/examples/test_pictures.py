"""The pictures of the docs are what their scripts draw, and their scripts draw what gc_core computes."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import gc_core

FOLDER = Path(__file__).parents[2] / "docs/pictures"


@pytest.fixture
def script():
    spec = importlib.util.spec_from_file_location("docs_pictures_gc", FOLDER / "gc.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB"), float) / 255


def apart(one, other):
    """The share of pixels that differ by more than antialiasing does from one version of a font renderer to another."""
    if one.shape != other.shape:
        return 1.0
    return (abs(one - other).max(2) > 0.5).mean()


def test_the_picture_is_up_to_date(script, tmp_path):
    kept = json.loads(Image.open(FOLDER / "gc.png").text["Description"])
    assert kept == script.numbers()
    script.main(tmp_path / "again.png")
    assert apart(pixels(FOLDER / "gc.png"), pixels(tmp_path / "again.png")) < 0.002


def test_the_picture_shows_centralized_rows_and_a_projection(script):
    drawn = {name: np.array(values) for name, values in script.numbers().items()}
    assert drawn["means"].tolist() == [sum(row) / len(row) for row in drawn["grad"].tolist()]
    assert not drawn["centralized"].sum(1).any()
    assert np.array_equal(drawn["grad"], drawn["centralized"] + drawn["means"][:, None])
    # Rounding of numbers below 3.
    assert np.max(abs(drawn["projected"].sum(1))) < 1e-15
    moved = drawn["points"] - drawn["projected"]
    assert np.max(abs(moved[:, 0] - moved[:, 1])) < 1e-15


@pytest.mark.parametrize("name", ["centralize", "fan_in_axes", "projection_matrix"])
def test_the_picture_changes_if_gc_core_is_broken(script, name, monkeypatch, tmp_path):
    broken = {
        "centralize": lambda grad, axis: grad - grad.mean(),
        "fan_in_axes": lambda shape, layout: (0,),
        "projection_matrix": lambda n: np.eye(n) - 0.4,
    }[name]
    monkeypatch.setattr(gc_core, name, broken)
    assert script.numbers() != json.loads(Image.open(FOLDER / "gc.png").text["Description"])
    script.main(tmp_path / "broken.png")
    assert apart(pixels(FOLDER / "gc.png"), pixels(tmp_path / "broken.png")) > 0.002
