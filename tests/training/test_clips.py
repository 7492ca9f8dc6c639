"""Which clips a run trains on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lexivid.data.run_clips import RunClips
from lexivid.errors import LexividError
from lexivid.training.clips import draw_clips
from lexivid.training.recipe import load_recipe


def test_a_split_that_does_not_fit_the_data_names_the_nearest_class(tmp_path: Path) -> None:
    for name in ("Playing_Guitar", "Surfing", "Golf"):
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "a.mp4").write_bytes(b"\0\0\0\x18ftypmp42")
    path = tmp_path / "split.json"

    def draw(base: list[str]) -> RunClips:
        path.write_text(json.dumps({"base": base, "novel": []}))
        return draw_clips(load_recipe("lite-mov", {"data.class_split": str(path)}), tmp_path / "data")

    with pytest.raises(
        LexividError, match=r"has no class 'Playing_Gitar': did you mean 'Playing_Guitar'\? It has Golf"
    ):
        draw(["Playing_Gitar"])
    with pytest.raises(LexividError, match=r"has no class 'xyz': it has Golf, Playing_Guitar, Surfing"):
        draw(["xyz"])
    (warning,) = draw(["Playing_Guitar", "surfing"]).warnings
    assert "names 1 of the classes neither base nor novel, and their clips are left out: 'golf'" in warning
