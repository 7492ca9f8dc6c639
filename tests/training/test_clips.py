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


def test_more_held_out_clips_than_were_asked_for_are_told_of(tmp_path: Path) -> None:
    """UCF101's groups are recordings: of three, one is held out whole."""
    for group in (1, 2, 3):
        for clip in range(3):
            for name in ("Surfing", "Golf"):
                path = tmp_path / "data" / name / f"v_{name}_g0{group}_c0{clip}.mp4"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(b"\0\0\0\x18ftypmp42")
    drawn = draw_clips(load_recipe("lite-mov", {"data.kind": "folders"}), tmp_path / "data")
    assert (len(drawn.train), len(drawn.held_out)) == (12, 6)
    (warning,) = drawn.warnings
    assert warning.startswith(
        "6 of the 18 clips are held out, where data.held_out is 0.1: each class gives one recording"
    )
    assert draw_clips(load_recipe("lite-mov", {"data.held_out": 0.4}), tmp_path / "data").warnings == ()
    assert draw_clips(load_recipe("lite-mov", {"data.held_out": 0}), tmp_path / "data").warnings == ()
