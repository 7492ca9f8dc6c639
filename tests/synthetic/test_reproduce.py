"""reproduce/: a tiny reproduction from nothing to its report, what resuming makes again, and tables worked by hand."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import make_clip
from typer.testing import CliRunner

from lexivid.cli import app
from lexivid.data.splits import ClassSplit
from lexivid.errors import LexividError
from lexivid.models.mov import predict_novel, probabilities
from lexivid.scoring.features import Collected
from lexivid.synthetic.reproduce import NAMES, Scale, reproduce
from lexivid.synthetic.reproduce.figures import BETAS, beta_and_temperature
from lexivid.synthetic.reproduce.packed_clips import PackedClips, WorldSize
from lexivid.synthetic.reproduce.parts import RATIOS, expect_sign
from lexivid.synthetic.reproduce.plan import TableRow, kinds_of, parse_names, rows_of
from lexivid.synthetic.reproduce.reproduction import Reproduction
from lexivid.synthetic.reproduce.rows import Workplace
from lexivid.synthetic.reproduce.run import RunProgress
from lexivid.synthetic.reproduce.scores import Outcome, Scores, base, estimate, harmonic, minus, novel
from lexivid.synthetic.reproduce.world_samples import WorldFeatures, WorldSamples, world_distractor_labels
from lexivid.synthetic.world.files import make_world
from lexivid.training.recipe import load_recipe

pytest.importorskip("accelerate")

SIZE = WorldSize(num_base=4, num_novel=4, train_clips=3, held_out_clips=1, test_clips=2)
SCALE = Scale(SIZE, epochs=0.15, curve_every=1)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def made(clip: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], list[RunProgress]]:
    """Everything, with a random backbone: (folder, results, progress). The folder is named as people do: relatively."""
    out, seen = Path(os.path.relpath(tmp_path_factory.mktemp("made") / "out")), list[RunProgress]()
    results = reproduce(
        ["all"], out, clips=[str(clip)], scale=SCALE, num_workers=1, on_progress=seen.append, command="lexivid ..."
    )
    return out, results, seen


def test_everything_is_there(made: tuple[Path, dict[str, Any], list[RunProgress]], clip: Path) -> None:
    out, results, seen = made
    parts = {part["id"]: part for part in (*results["tables"], *results["figures"])}
    assert set(parts) == {*NAMES, "table9-sound", "table8-absolute", "table8-grid"}
    for name in ("report.html", "report.md"):
        assert "Table 1" in (out / name).read_text(encoding="utf-8")
    stored = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert stored["command"] == "lexivid ..."
    assert stored["failures"] == []
    assert all(panel["series"][0]["x"] == [0, 1, 2] for panel in parts["figure1"]["panels"][:2])  # 15 % of 12 epochs
    for table in results["tables"]:
        assert sum(row["best"] for row in table["rows"]) == 1
        assert table["expectations"]
        for expectation in table["expectations"]:
            assert expectation["holds"] in (True, False)
            assert bool(expectation["reason"]) is not expectation["holds"]
    assert seen[-1].share == pytest.approx(1)
    assert [now.share for now in seen] == sorted(now.share for now in seen)
    # the numbers are those of the rows: MOV's base accuracy anew from the stored features
    features = WorldFeatures.load(out / "tensors" / "motion-0-features.safetensors")
    row = Collected.load(out / "rows" / "motion-0" / "mov.npz")
    chosen = (np.array(row.groups) == "test") & (row.targets < SIZE.num_base)
    v_m = torch.from_numpy(row.features["v_m"][chosen, 0])
    said = probabilities(v_m, features.labels[: SIZE.num_base], tau=features.temperature).argmax(-1).numpy()
    mov = next(r for r in parts["table1"]["rows"] if r["system"] == "MOV")
    assert mov["values"]["base"]["value"] == pytest.approx(100 * (said == row.targets[chosen]).mean())
    assert row.facts["recipe"]["model"]["backbone"] == str(clip)
    assert row.settings["tau_v"] == pytest.approx(features.temperature)
    tuned = Collected.load(out / "rows" / "motion-0" / "video-tower.npz")
    zero_shot = Collected.load(out / "rows" / "motion-0" / "clip.npz")
    assert not np.allclose(tuned.features["v"], row.features["v"])  # its tower has moved
    assert _cosine(row.features["v"], zero_shot.features["v"]).min() > 0.999  # MOV's has not
    assert "flow" in row.features
    assert "flow" not in tuned.features


def _cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)


def test_a_second_call_makes_only_what_is_missing(
    made: tuple[Path, dict[str, Any], list[RunProgress]], clip: Path
) -> None:
    out, _, _ = made
    rows = sorted((out / "rows").rglob("*.npz"))
    before = {path: path.stat().st_mtime_ns for path in rows}
    gone = out / "rows" / "motion-0" / "mov.npz"
    old = Collected.load(gone)
    gone.unlink()
    reproduce(["table1"], out, clips=[str(clip)], scale=SCALE, num_workers=1)
    changed = {path.name for path in rows if path.stat().st_mtime_ns != before[path]}
    assert changed == {"mov.npz", "mov-control.npz"}
    again = Collected.load(gone)
    for name, features in old.features.items():  # to rounding: a CPU's sums depend on where tensors lie in memory
        np.testing.assert_allclose(again.features[name], features, atol=1e-3)
    before = {path: path.stat().st_mtime_ns for path in rows}
    reproduce(["all"], out, clips=[str(clip)], scale=SCALE, num_workers=1)
    assert all(path.stat().st_mtime_ns == before[path] for path in rows)
    assert not list(out.glob(".training-*"))
    assert len(json.loads((out / "calls.json").read_text())) == 2  # the third made nothing


def test_wrong_calls(made: tuple[Path, dict[str, Any], list[RunProgress]], clip: Path, tmp_path: Path) -> None:
    out, _, _ = made
    with pytest.raises(LexividError, match="unknown table or figure 'table7': choose table1"):
        reproduce(["table1", "table7"], tmp_path / "x")
    with pytest.raises(LexividError, match="other classes, clips or epochs"):
        reproduce(["table1"], out, clips=[str(clip)], quick=True)
    with pytest.raises(LexividError, match="seeds: 0"):
        reproduce(["table1"], tmp_path / "x", seeds=0)
    same_name = shutil.copytree(out, tmp_path / "copy", ignore=shutil.ignore_patterns("clips", "tensors", "rows"))
    settings = json.loads((same_name / "settings.json").read_text())
    settings["backbones"][str(clip)] = "0" * 16  # it was another one then
    (same_name / "settings.json").write_text(json.dumps(settings))
    with pytest.raises(LexividError, match="other backbones"):
        reproduce(["table1"], same_name, clips=[str(clip)], scale=SCALE)
    found = CliRunner().invoke(app, ["reproduce", "table1", "--out", str(tmp_path / "y")])
    assert isinstance(found.exception, LexividError)
    assert "--world" in str(found.exception)
    assert not (tmp_path / "y").exists()


def test_plan() -> None:
    assert parse_names(["figure1, table2", "table2"]) == ("table2", "figure1")
    assert parse_names(["all"]) == NAMES
    assert kinds_of(("table1",)) == ("motion",)
    assert [str(row) for row in rows_of(("table1",), seeds=[3], num_layers=3)] == [
        "motion 3 clip", "motion 3 video-tower", "motion 3 video-tower-gentle",
        "motion 3 score-fusion", "motion 3 mov",
    ]  # fmt: skip
    rows = rows_of(("table6", "figure1"), seeds=range(2), num_layers=3)
    # seeds, worlds; the tower with 1, 2 and all layers, the video tower at two rates
    assert len(rows) == len(set(rows)) == 2 * 2 * 5
    for name in ("world-mov", "world-score-fusion"):  # rows of one table differ in what the table is about alone
        flow, sound = load_recipe(name), load_recipe(f"{name}-audio")
        assert flow.model.tau_v_ratio == sound.model.tau_v_ratio == 1
        assert not flow.data.mirror


def _packed(num: int = 6, moments: int = 8) -> PackedClips:
    video = torch.arange(num * moments, dtype=torch.uint8).view(num, moments, 1, 1, 1).expand(-1, -1, 3, 4, 4).clone()
    flow = 100 + video[:, :, :2]
    parts = ("train",) * 4 + ("test",) * (num - 4)
    return PackedClips(
        video, flow, torch.arange(num).view(num, 1, 1).expand(-1, 4, 10).half(), torch.arange(num) % 2, parts,
        tuple(f"train/a/{i:03d}.mp4" for i in range(num)), ClassSplit(("a",), ("b",)), (("x", "y"),), {"making": 1.0},
    )  # fmt: skip


def test_packed_clips_come_back(tmp_path: Path) -> None:
    packed = _packed()
    packed.save(tmp_path / "p.safetensors")
    again = PackedClips.load(tmp_path / "p.safetensors")
    assert torch.equal(again.video, packed.video)
    assert again.flow is not None
    assert (again.parts, again.split, again.failures, again.seconds) == (
        packed.parts, packed.split, packed.failures, packed.seconds,
    )  # fmt: skip
    assert again.indices("train") == [0, 1, 2, 3]


def test_samples_show_the_same_moments_in_every_stream() -> None:
    packed = _packed()
    frozen = packed.video[..., 0, 0, 0].float()[..., None]  # (n, T, 1): the number of the moment
    everything = ("video", "flow", "audio")
    samples = WorldSamples(
        packed, range(4), modalities=everything, inputs=everything, frozen=frozen, num_frames=4, seed=5
    )
    looks = []
    for epoch in range(6):
        samples.set_epoch(epoch)
        one, again = samples[2], samples[2]
        assert torch.equal(one["video"], again["video"])
        assert torch.equal(one["flow"][:, 0, 0, 0], 100 + one["video"][:, 0].to(torch.uint8))
        assert bool((one["flow"][:, 2] == 128).all())
        assert one["video"][:, 0].tolist() == sorted(set(one["video"][:, 0].tolist()))
        assert one["audio"].shape == (3, 4, 10)
        looks.append(one["video"][:, 0].tolist())
    assert len({tuple(look) for look in looks}) > 1
    whole = WorldSamples(packed, [5], modalities=("video",), inputs=("video",))[0]
    assert whole["video"].shape == (8, 3, 4, 4)
    assert (whole["target"], whole["path"]) == (1, "train/a/005.mp4")


def test_shuffled_streams_are_all_of_other_clips() -> None:
    packed = _packed(40)
    samples = WorldSamples(
        packed, range(40), modalities=("video", "flow"), inputs=("video", "flow"), shuffled="flow", seed=3
    )
    video = [int(samples[i]["video"][0, 0, 0, 0]) for i in range(40)]
    flow = [(int(samples[i]["flow"][0, 0, 0, 0]) - 100) % 256 for i in range(40)]
    assert video == [(8 * i) % 256 for i in range(40)]
    assert sorted(flow) == sorted(video)
    assert all(a != b for a, b in zip(video[:32], flow[:32], strict=True))  # below 256 the numbers are distinct


def test_names_of_nothing_are_nobodys() -> None:
    split = ClassSplit(("red circle spinning",), ("red star growing",))
    for kind in ("motion", "sound", "both"):
        names = world_distractor_labels(split, kind, seed=0, pool="report", num=50)  # type: ignore[arg-type]
        assert len(set(names)) == 50
        assert not set(names) & set(split.classes)
        assert names == world_distractor_labels(split, kind, seed=0, pool="report", num=50)  # type: ignore[arg-type]
    pools = [
        set(world_distractor_labels(split, "motion", seed=0, pool=pool, num=200)) for pool in ("report", "validation")
    ]
    assert not pools[0] & pools[1]


def _outcome(hits: list[int], num_base: int) -> Outcome:
    return Outcome(np.array(hits, dtype=float), np.arange(len(hits)) < num_base)


def test_estimates_by_hand() -> None:
    first = [_outcome([1, 1, 0, 0, 1, 0], 4), _outcome([1, 1, 1, 0, 1, 1], 4)]
    second = [_outcome([1, 0, 0, 0, 0, 0], 4), _outcome([1, 1, 0, 0, 1, 0], 4)]
    found = estimate(minus(base), first, second)
    assert found.per_seed == (25.0, 25.0)
    assert (found.value, found.low, found.high) == (25.0, 25.0, 25.0)  # paired: the seeds agree
    assert estimate(novel, first).value == 75.0
    assert estimate(novel, first).low == pytest.approx(75 - 12.706 * 25, rel=1e-3)  # Student, one degree of freedom
    assert estimate(harmonic, first[:1]).value == pytest.approx(50.0)
    one = estimate(minus(base), first[:1], second[:1])  # one seed: over its clips
    assert one.value == 25.0
    assert 0 <= one.low < 25 < one.high <= 100
    assert expect_sign("", found)["holds"]
    assert not expect_sign("", found, sign=-1)["holds"]
    assert "smaller than 30 points" in expect_sign("", found, least=30)["reason"]
    assert "includes 0" in expect_sign("", replace(found, low=-1.0))["reason"]


def test_grid_equals_scoring_by_hand(tmp_path: Path) -> None:
    """Hand-made features of two worlds: every cell of beta and tau_v against eq. 11 and 12."""
    generator = torch.Generator().manual_seed(0)
    size = WorldSize(num_base=3, num_novel=4, train_clips=1, held_out_clips=0, test_clips=5)
    place, tau, num = Workplace(tmp_path), 0.2, 35
    labels = torch.randn(7, 6, generator=generator)
    targets = torch.arange(7).repeat_interleave(5)
    for kind, other in (("motion", "flow"), ("sound", "audio")):
        WorldFeatures(torch.zeros(num, 1, 6), labels, (), torch.zeros(0, 6), tau, 3).save(place.features(kind, 0))  # type: ignore[arg-type]
        for system, modalities in (("clip", ("video",)), ("mov", ("video", other))):
            features = {
                name: (labels[targets] + 2 * torch.randn(num, 6, generator=generator))[:, None].numpy()
                for name in ("v", "v_m", *modalities[1:])
            }
            settings = {"tau": tau, "tau_v": tau, "tau_x": {other: tau}, "beta": 0.25, "base_score": "v_m"}
            Collected(
                features, np.ones((num, len(modalities)), dtype=bool), modalities, targets.numpy(),
                tuple(map(str, range(num))), ("test",) * num, tuple("abcdefg"), (), settings,
            ).save(place.row(TableRow(kind, 0, system)))  # type: ignore[arg-type]  # fmt: skip
    scores = Scores(Reproduction(("table8",), (0,), ("x",), Scale(size), place, 3))
    found = beta_and_temperature(scores)["panels"][0]["values"]
    mov, clip = (Collected.load(place.row(TableRow("motion", 0, system))).select(targets.numpy() >= 3) for system in ("mov", "clip"))  # fmt: skip  # noqa: E501
    v, f = (torch.from_numpy(mov.features[name][:, 0]) for name in ("v", "flow"))
    zero_shot = probabilities(torch.from_numpy(clip.features["v"][:, 0]), labels[3:], tau=tau).argmax(-1)
    for row, beta in enumerate(BETAS):
        for column, ratio in enumerate(RATIOS):
            p = predict_novel(v, {"flow": f}, labels[3:], beta=beta, tau_v=ratio * tau, tau_x=tau).argmax(-1)
            truth = targets[targets >= 3] - 3
            gain = 100 * float((p == truth).float().mean() - (zero_shot == truth).float().mean())
            assert found[row][column] == pytest.approx(gain, abs=0.01)


def test_a_world_that_is_whole_is_not_drawn_again(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"kind": "motion", "clips_per_class": 1, "num_base": 2, "num_novel": 2}
    first = make_world(tmp_path / "w", **settings, num_workers=0)
    again = make_world(tmp_path / "w", **settings, num_workers=4)
    assert (first.num_kept, again.num_kept) == (0, len(first.clips))
