"""`lexivid evaluate` from a folder of files to a result file, with a tiny CLIP and with a trained model."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from media_files import make_video
from typer.testing import CliRunner

from lexivid.backbones import load_backbone
from lexivid.cli import app
from lexivid.data.cache import content_id
from lexivid.data.clip_sampling import ClipSampling
from lexivid.data.clips import Clip
from lexivid.data.run_clips import RunClips
from lexivid.data.splits import ClassSplit
from lexivid.errors import LexividError
from lexivid.evaluation import evaluate as runs
from lexivid.evaluation.leave_classes_out import pseudo_novel_clips
from lexivid.evaluation.summary import summary
from lexivid.inference.classifier import Classifier
from lexivid.media.views import Views
from lexivid.models.calibration import Calibration
from lexivid.models.mov import MOV
from lexivid.models.mov_config import MOVConfig
from lexivid.models.serialization import update_config
from lexivid.models.trained import TrainedModel
from lexivid.scoring.features import Collected, collect, opinion, score
from lexivid.training.recipe import Recipe, load_recipe
from lexivid.training.run import train

CLASSES = ("red ball", "running dog", "still lake")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    for number, name in enumerate(CLASSES):
        for clip in range(2):
            path = root / "test" / name.replace(" ", "_") / f"{clip}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            rate = str(10 + 5 * number + clip)
            make_video(path, "-c:v", "libx264", size="64x48", rate=rate, seconds=0.8)
    (root / "test" / "red_ball" / "broken.mp4").write_bytes(b"not a film")
    (root / "train" / "red_ball").mkdir(parents=True)
    make_video(root / "train" / "red_ball" / "seen.mp4", "-c:v", "libx264", size="64x48", seconds=0.5)
    return root


def test_zero_shot_equals_the_classifier(data, clip_folder, tmp_path):
    views = Views(num_frames=4)
    split = ClassSplit(CLASSES[:1], CLASSES[1:])
    result = runs.evaluate(clip_folder, data, out=tmp_path, views=views, split=split, num_workers=0, device="cpu")
    classifier = Classifier(load_backbone(str(clip_folder), device="cpu"))
    for side, names in (("base", CLASSES[:1]), ("novel", CLASSES[1:])):
        found = []
        for name in names:
            for path in sorted((data / "test" / name.replace(" ", "_")).glob("[01].mp4")):
                found.append(classifier.classify(path, list(names), views=views).labels[0].label == name)
        assert result["results"][side]["accuracy"]["value"] == pytest.approx(np.mean(found), abs=1e-6)
    assert result["clips_asked"] == 7  # the test part alone, the broken one among them
    assert result["clips_failed"] == 1
    assert "broken.mp4" in result["failures"][0][0]
    for key in ("protocol", "prompts", "frames", "views", "split", "decoder", "version"):
        assert result[key]
    assert json.loads((tmp_path / "base-novel.json").read_text())["results"] == result["results"]
    assert len(Collected.load(tmp_path / "base-novel-features.npz")) == 6


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory, clip_folder):
    backbone = load_backbone(str(clip_folder), device="cpu", dtype="float32")
    torch.manual_seed(0)
    config = MOVConfig.for_backbone(backbone, zero_init=False)
    sampling = ClipSampling(num_frames=2, stride=None, stride_rate="native", flow="tvl1-fast", flow_size=48)
    model = TrainedModel(
        backbone,
        MOV.from_backbone(backbone, config).eval(),
        CLASSES[:2],
        backbone.default_templates,
        ("video", "flow"),
        sampling=sampling,
    )
    folder = tmp_path_factory.mktemp("run")
    model.save_pretrained(folder)
    return folder


def test_a_trained_model_by_all_views(data, run_folder, tmp_path):
    views = Views(num_frames=2, num_clips=2, num_crops=3, stride=1)
    result = runs.evaluate(
        run_folder, data, protocol="generalized", out=tmp_path, views=views, num_workers=0, device="cpu"
    )
    assert result["split"]["base"] == CLASSES[:2]
    assert result["split"]["novel"] == CLASSES[2:]
    assert result["views"] == {"clips": 2, "crops": 3, "audio": 6}
    collected = Collected.load(tmp_path / "generalized-features.npz")
    assert collected.features["v_m"].shape[:2] == (6, 6)  # clips, views
    assert collected.features["flow"].shape == collected.features["v_m"].shape
    assert {"all-novel", "all-base", "uncalibrated"} <= set(result["results"])


@pytest.mark.parametrize("protocol", ["base-novel", "multi-label"])
@pytest.mark.parametrize(
    ("options", "sampled"),
    [
        ((), (2, 3, "native", 1, 1)),
        (("--views", "2x3"), (2, 3, "native", 2, 3)),
        (("--frames", "4"), (4, 3, "native", 1, 1)),
        (("--stride-rate", "5"), (2, 3, 5.0, 1, 1)),
        (("--views", "spread"), (2, None, "native", 1, 1)),
    ],
)
def test_views_that_are_not_named_stay_as_trained(data, run_folder, tmp_path, protocol, options, sampled):
    run = shutil.copytree(run_folder, tmp_path / "run")
    evidence = {head: Calibration(1.0, 0.0, "assumed").to_dict() for head in ("base", "novel")}
    sampling = {"num_frames": 2, "stride": 3, "stride_rate": "native", "flow": "tvl1-fast", "flow_size": 48}
    update_config(run, sampling=sampling, evidence=evidence)
    words = ["evaluate", run, "--data", data, "--workers", "0", "--device", "cpu", "--out", tmp_path / "out"]
    called = CliRunner().invoke(app, [str(word) for word in [*words, "--protocol", protocol, *options]])
    assert called.exit_code == 1, called.output  # one file is broken
    result = json.loads((tmp_path / "out" / f"{protocol}.json").read_text())
    views = result["views"]
    found = (result["frames"], result["stride"], result["stride_rate"], views["clips"], views["crops"])
    assert found == sampled


def test_the_command_prints_a_table_and_says_what_failed(data, clip_folder, tmp_path):
    called = CliRunner().invoke(
        app,
        ["evaluate", str(clip_folder), "--data", str(data), "--frames", "2", "--workers", "0", "--device", "cpu",
         "--out", str(tmp_path / "result")],
    )  # fmt: skip
    assert called.exit_code == 1  # one file is broken
    assert "base-novel" in called.stdout
    assert "broken.mp4" in called.stderr
    assert (tmp_path / "result" / "base-novel.json").is_file()


def test_what_is_wrong_is_said(data, clip_folder):
    with pytest.raises(LexividError, match="choose base-novel"):
        runs.evaluate(clip_folder, data, protocol="magic")
    with pytest.raises(LexividError, match="only a run"):
        runs.evaluate(clip_folder, data, protocol="calibrate")
    with pytest.raises(LexividError, match="check its names"):
        runs.evaluate(clip_folder, data, split=ClassSplit(("cat",), ("mouse",)), device="cpu")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, clip_folder):
    """Four classes of two clips each, three of them base, and a run of two steps on them."""
    root = tmp_path_factory.mktemp("training")
    for number, name in enumerate(("a", "b", "c", "d")):
        for clip in range(2):
            path = root / "data" / name / f"{clip}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            make_video(path, "-c:v", "libx264", size=f"{48 + 16 * number}x48", rate=str(10 + clip), seconds=0.5)
    ClassSplit(("a", "b", "c", "d"), ()).save(root / "split.json")
    recipe = Recipe.from_dict(
        {
            "model": {"backbone": str(clip_folder), "modalities": ["video", "flow"], "mlp_ratio": 1.0},
            "data": {
                "inputs": ["video"], "class_split": str(root / "split.json"), "num_frames": 2, "stride": None,
                "held_out": 0.5, "num_workers": 0, "cache_clips": False,
            },
            "training": {"epochs": 1, "batch_size": 4},
        }
    )  # fmt: skip
    train(recipe, root / "data", root / "run", device="cpu")
    return root


def test_calibrate_is_stored_with_the_run(trained):
    for twins in (0, 2):
        shown: list[tuple[int, int]] = []
        result = runs.evaluate(
            trained / "run", trained / "data", protocol="calibrate", num_workers=0, device="cpu",
            leave_classes_out=twins, on_progress=lambda *now, shown=shown: shown.append(now),
        )  # fmt: skip
        assert shown[-1][0] == shown[-1][1]
        lines = summary(result)
        assert lines[0][:2] == ("offset", f"{result['results']['offset']:.3f}")
        if twins:
            assert shown[-1] == (2, 2)  # a step each
            assert lines[2][3] == f"{100 * result['results']['harmonic_mean']:.1f}"
        stored = TrainedModel.from_pretrained(trained / "run", device="cpu").base_novel_offset
        assert stored == result["results"]
        assert stored["method"] == ("classes-out" if twins else "held-out")
    splits = [ClassSplit.load(twin / "split.json") for twin in (trained / "run" / "twins").iterdir()]
    assert sorted(splits[0].novel + splits[1].novel) == ["a", "b", "c", "d"]
    assert all(set(split.base) | set(split.novel) == {"a", "b", "c", "d"} for split in splits)


def test_twins_are_found_again_by_what_they_left_out(trained, tmp_path, monkeypatch):
    """Three twins after two leave out other classes, and so do those of a run that was trained anew."""
    run = shutil.copytree(trained / "run", tmp_path / "run")
    shutil.rmtree(run / "twins", ignore_errors=True)

    def twins(num):
        fitted = runs.evaluate(
            run, trained / "data", protocol="calibrate", num_workers=0, device="cpu", leave_classes_out=num
        )["results"]
        left_out = {}
        for twin in (run / "twins").iterdir():
            record = RunClips.load(twin)
            left_out[twin.name] = record.split.novel
            # every clip that it trains on is one that the run trained on, and of the classes that stay
            assert {c.labels[0] for c in record.train} <= set(record.split.base)
            assert {c.path for c in record.train} <= {c.path for c in RunClips.load(run).train}
        return fitted, left_out

    first, two = twins(2)
    assert sorted(sum(two.values(), ())) == ["a", "b", "c", "d"]
    with pytest.raises(LexividError, match="two must stay"):
        twins(5)
    _, five = twins(3)
    new = [left for name, left in five.items() if name not in two]
    assert sorted(map(len, new)) == [1, 1, 2]
    assert sorted(sum(new, ())) == ["a", "b", "c", "d"]
    trainings = []
    monkeypatch.setattr("lexivid.training.run.fit", lambda *a, **k: trainings.append(a))
    assert twins(2)[0] == first  # found, not trained
    assert trainings == []
    other = load_recipe(run / "recipe.yaml").with_settings({"training.seed": 7})
    (run / "recipe.yaml").write_text(other.to_yaml())
    with pytest.raises((AttributeError, LexividError)):  # they are trained, by what stands in the place of training
        twins(2)
    assert len(trainings) == 1


def _evaluate(*words):
    done = CliRunner().invoke(app, ["evaluate", *map(str, words), "--workers", "0", "--device", "cpu"])
    assert done.exit_code == 0, done.output
    return done.stderr


def test_who_measures_on_training_clips_is_told(trained, tmp_path, monkeypatch):
    run, data = trained / "run", trained / "data"
    assert "warning: 4 of the 8 clips were trained on" in _evaluate(run, "--data", data)
    monkeypatch.chdir(trained)  # by other names
    assert "warning: 4 of the 8 clips were trained on" in _evaluate("run", "--data", "data")
    monkeypatch.chdir(tmp_path)
    copy = shutil.copytree(data, tmp_path / "copy" / "test", copy_function=shutil.copy)  # with another time
    assert "warning: 4 of the 8 clips were trained on" in _evaluate(run, "--data", copy.parent)
    # a folder that has the same classes and files of the same names, of which none was trained on
    for path in data.rglob("*.mp4"):
        other = tmp_path / "others" / path.relative_to(data)
        other.parent.mkdir(parents=True, exist_ok=True)
        make_video(other, "-c:v", "libx264", size="64x64", rate="12", seconds=0.4)
    assert "trained on" not in _evaluate(run, "--data", tmp_path / "others")


def test_what_was_held_out_stays_held_out(trained, tmp_path, monkeypatch):
    """Calibration asks the run, whatever was added to the data, however they moved, wherever it is called."""
    record = RunClips.load(trained / "run")
    kept_back = {record.contents[clip.path] for clip in record.held_out}
    assert len(kept_back) == 4
    moved = shutil.copytree(trained / "data", tmp_path / "moved")
    for number, name in enumerate("abcd"):
        for clip in range(3):
            rate = str(20 + clip)
            make_video(moved / name / f"00{clip}.mp4", "-c:v", "libx264", size=f"{80 + 16 * number}x48", rate=rate,
                       seconds=0.5)  # fmt: skip
    (moved / "a" / "0.mp4").rename(moved / "a" / "renamed.mp4")
    (moved / "a" / "1.mp4").rename(moved / "a" / "0.mp4")  # its name now stands for another clip
    run = shutil.copytree(trained / "run", tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    result = runs.evaluate("run", "moved", protocol="calibrate", out=tmp_path / "out", num_workers=0, device="cpu")
    assert result["clips_asked"] == 4
    assert result["clips_trained_on"] == 0
    measured = Collected.load(tmp_path / "out" / "calibrate-features.npz").paths
    assert {content_id(path, with_time=False) for path in measured} == kept_back
    assert all("moved" in path for path in measured)
    # the data are gone, and so is what they lay in
    empty = tmp_path / "empty" / "a"
    empty.mkdir(parents=True)
    shutil.copy(moved / "a" / "000.mp4", empty)
    lines = (run / "clips.jsonl").read_text().splitlines()
    (run / "clips.jsonl").write_text("\n".join([json.dumps(json.loads(lines[0]) | {"data": "/gone"}), *lines[1:]]))
    with pytest.raises(LexividError, match=r"none of the 4 clips that this run kept back is in .*empty.* \(/gone\)"):
        runs.evaluate(run, empty.parent, protocol="calibrate", num_workers=0, device="cpu")


def test_a_run_that_does_not_say_what_it_was_trained_on(trained, tmp_path):
    run = shutil.copytree(trained / "run", tmp_path / "run")
    (run / "clips.jsonl").unlink()
    assert "warning: nothing says which clips this model was trained on" in _evaluate(run, "--data", trained / "data")
    with pytest.raises(LexividError, match="does not say which clips it kept back"):
        runs.evaluate(run, trained / "data", protocol="calibrate", num_workers=0, device="cpu")


@pytest.fixture(scope="module")
def listed(tmp_path_factory, clip_folder):
    """A run on UCF101's layout, whose recipe says which lists, where they are, and what classes are called."""
    root = tmp_path_factory.mktemp("listed")
    for number, name in enumerate(("PlayingViolin", "HorseRace")):
        for group in (1, 2, 3):
            path = root / "data" / name / f"v_{name}_g0{group}_c01.avi"
            path.parent.mkdir(parents=True, exist_ok=True)
            make_video(path, "-c:v", "mpeg4", size=f"{48 + 16 * number}x48", rate=str(10 + group), seconds=0.4)
    (root / "lists").mkdir()
    (root / "lists" / "classInd.txt").write_text("1 PlayingViolin\n2 HorseRace\n")
    for number, (test, rest) in {1: ((1,), (2, 3)), 2: ((1, 2), (3,))}.items():
        for part, groups in (("test", test), ("train", rest)):
            names = [f"{n}/v_{n}_g0{g}_c01.avi" for n in ("PlayingViolin", "HorseRace") for g in groups]
            (root / "lists" / f"{part}list0{number}.txt").write_text("\n".join(names))
    (root / "names.csv").write_text("PlayingViolin,a person with a violin\n")
    recipe = Recipe.from_dict(
        {
            "model": {"backbone": str(clip_folder), "modalities": ["video", "flow"], "mlp_ratio": 1.0},
            "data": {
                "kind": "ucf101", "list_number": 2, "lists": str(root / "lists"), "names": str(root / "names.csv"),
                "inputs": ["video"], "num_frames": 2, "stride": None, "held_out": 0, "num_workers": 0,
                "cache_clips": False,
            },
            "training": {"epochs": 0, "batch_size": 4},
        }
    )  # fmt: skip
    train(recipe, root / "data", root / "run", device="cpu")
    return root


def test_data_are_read_as_the_recipe_of_the_run_says(listed, tmp_path):
    words = (listed / "run", "--data", listed / "data", "--out", tmp_path)

    def found(*more):
        warnings = _evaluate(*words, *more)
        result = json.loads((tmp_path / "base-novel.json").read_text())
        return result["clips_asked"], result["clips_trained_on"], result["split"]["base"], result["layout"], warnings

    classes = ["a person with a violin", "horse race"]
    layout = {"kind": "ucf101", "list_number": 2, "lists": str(listed / "lists"), "names": str(listed / "names.csv")}
    assert found()[:4] == (4, 0, classes, layout)
    # what is asked for counts more
    assert found("--list-number", "1")[:4] == (2, 0, classes, layout | {"list_number": 1})
    auto = {"kind": "folders", "list_number": None, "lists": None, "names": str(listed / "names.csv")}
    assert found("--kind", "folders")[:4] == (6, 2, classes, auto)


def test_a_recipe_that_does_not_fit_the_data_is_named(listed, tmp_path):
    run = shutil.copytree(listed / "run", tmp_path / "run")
    (tmp_path / "other").mkdir()
    with pytest.raises(LexividError, match=r"the run's recipe says kind 'ucf101', list_number '2', .*--kind auto"):
        runs.evaluate(run, tmp_path / "other", num_workers=0, device="cpu")
    recipe = load_recipe(run / "recipe.yaml")
    gone = replace(recipe, data=replace(recipe.data, names="/gone/names.csv"))
    (run / "recipe.yaml").write_text(gone.to_yaml())
    result = runs.evaluate(run, listed / "data", num_workers=0, device="cpu", split=ClassSplit(("horse race",), ()))
    assert result["clips_asked"] == 2
    assert result["warnings"][0] == (
        "'/gone/names.csv', data.names of the run's recipe, is not there: say where by --names"
    )
    (run / "recipe.yaml").write_text("data: {list_number: two}\n")
    result = runs.evaluate(run, listed / "data", num_workers=0, device="cpu", split=ClassSplit(("horse race",), ()))
    assert "it is not known how the run read its data" in result["warnings"][0]


def test_a_twin_is_tested_on_no_clip_that_it_was_trained_on():
    clips = [Clip(f"{name}{i}", (name,)) for name in "abcd" for i in range(4)]
    kept, held_out = [c for c in clips if c.path[1] in "012"], [c for c in clips if c.path[1] == "3"]
    chosen = [c.path for c in pseudo_novel_clips(kept, held_out, ("a", "b"))]
    assert sorted(chosen) == ["a0", "a1", "a2", "a3", "b0", "b1", "b2", "b3", "c3", "d3"]
    # Of a recording that shows a class left out and another, the twin trained on the other.
    kept[0], kept[6] = replace(kept[0], group="g"), replace(kept[6], group="g")
    assert [kept[i].path for i in (0, 6)] == ["a0", "c0"]
    chosen = [c.path for c in pseudo_novel_clips(kept, held_out, ("a", "b"))]
    assert sorted(chosen) == ["a1", "a2", "a3", "b0", "b1", "b2", "b3", "c3", "d3"]


class Listed:
    """Samples from memory."""

    def __init__(self, samples):
        self.samples = samples

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        return {"index": index, **self.samples[index]}

    def set_epoch(self, epoch):
        pass


def test_streams_that_a_clip_lacks_are_masked(clip_folder):
    """Three clips of video and sound, of video alone, of sound alone; 2 views of pictures, 4 of sound."""
    backbone = load_backbone(str(clip_folder), device="cpu", dtype="float32")
    torch.manual_seed(0)
    config = MOVConfig.for_backbone(backbone, modalities=("video", "audio"), zero_init=False)
    mov = MOV.from_backbone(backbone, config).eval()
    model = TrainedModel(backbone, mov, CLASSES[:2], backbone.default_templates, ("video", "audio"))
    size = backbone.images.crop_size
    video = torch.randint(256, (3, 2, 2, 3, size, size), dtype=torch.uint8)  # clips, views, frames
    audio = torch.randn(3, 4, 3, 128, 64)
    has = torch.tensor([[True, True], [True, False], [False, True]])
    samples = [
        {
            "video": video[i] if has[i, 0] else None,
            "audio": audio[i] if has[i, 1] else None,
            "mask": has[i],
            "target": i,
        }
        for i in range(3)
    ]
    found = collect(model, Listed(samples), classes=CLASSES, num_clips=2, num_workers=0, batch_size=3)
    assert found.mask.tolist() == has.tolist()
    for view in range(4):  # two sounds beside each view of pictures
        alone = model.features(video=video[:, view // 2], audio=audio[:, view], mask=has)
        for name, x in {"v": alone.v, "v_m": alone.v_m, "audio": alone.x_m["audio"]}.items():
            np.testing.assert_allclose(found.features[name][:, view], x, atol=1e-5)
    texts = torch.nn.functional.normalize(torch.randn(3, backbone.embedding_dim), dim=-1)
    p = score(found, texts, head="novel")
    sound_alone = opinion(found.select(np.array([2])), texts, name="audio", tau=config.tau_a)
    np.testing.assert_allclose(p[2], sound_alone[0], atol=1e-6)  # weights are renormalised over what is there
    pictures_alone = opinion(found.select(np.array([1])), texts, name="v", tau=config.tau_v)
    np.testing.assert_allclose(p[1], pictures_alone[0], atol=1e-6)
    model.inputs = ("video",)  # as if trained without sound
    masked = collect(model, Listed(samples[:2]), classes=CLASSES, num_clips=2, num_workers=0)
    assert not masked.mask[:, 1].any()
