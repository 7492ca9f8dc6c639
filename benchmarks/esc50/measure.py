"""Real sound: does training on base classes help sounds of classes never trained on? ESC-50, 25 base, 25 novel.

    python -m benchmarks.esc50.measure --data DIR [--seeds 5] [--stop-after SECONDS] [--report]

`lite`; every number is a share of clips. Base: recordings 24 to 31 of the 25 base classes (n = 200), trained on 00 to
23. Novel: all 32 recordings of 25 classes that are never trained on (n = 800). Rows:

    untrained   lite's picture network on spectrograms, as it is
    frozen      the same network, never trained; a linear head into text space (ridge, closed form)
    trained     the same network, trained with `lexivid.training` (as MOV with sound alone, its MLPs included)
    permuted    controls: the label texts are permuted over all 50 classes, so words mean nothing; for both of these

Generalised, all 50 names at once: by the novel path for all labels, by the base path for all (for a model of sound
alone the two are one), and calibrated: the offset comes from twins trained without half of the base classes, on
recordings 00 to 19; 20 to 23 of their own classes and 00 to 23 of those left out are what they are tested on. Novel
classes choose nothing: the ridge weight is chosen on recordings 20 to 23 of base classes.

Weights trained on ESC-50 (CC BY-NC) stay in the cache folder. Rows are kept there too; started again, the
script goes on.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.tools import real_media as media
from lexivid.data.augment import spec_augment
from lexivid.data.clip_sampling import ClipSampling
from lexivid.data.splits import split_classes
from lexivid.metrics import single_label
from lexivid.scoring import base_novel_offset

NAMES = {
    "Airplane": "an airplane flying", "Breathing": "a person breathing", "Brushingteeth": "brushing teeth",
    "Canopening": "opening a can", "Carhorn": "a car horn honking", "Cat": "a cat meowing", "Chainsaw": "a chainsaw",
    "Chirpingbirds": "birds chirping", "Churchbells": "church bells ringing", "Clapping": "people clapping",
    "Clockalarm": "an alarm clock ringing", "Clocktick": "a clock ticking", "Coughing": "a person coughing",
    "Cow": "a cow mooing", "Cracklingfire": "a crackling fire", "Crickets": "crickets chirping",
    "Crow": "a crow cawing", "Cryingbaby": "a baby crying", "Dog": "a dog barking",
    "Door-woodcreaks": "a wooden door creaking", "Doorknock": "knocking on a door",
    "Drinking-sipping": "a person drinking", "Engine": "an engine running", "Fireworks": "fireworks exploding",
    "Footsteps": "footsteps", "Frog": "a frog croaking", "Glassbreaking": "glass breaking",
    "Handsaw": "sawing with a hand saw", "Helicopter": "a helicopter flying", "Hen": "a hen clucking",
    "Insects": "insects buzzing", "Keyboardtyping": "typing on a keyboard", "Laughing": "a person laughing",
    "Mouseclick": "clicking a computer mouse", "Pig": "a pig grunting", "Pouringwater": "pouring water",
    "Rain": "rain falling", "Rooster": "a rooster crowing", "Seawaves": "sea waves", "Sheep": "a sheep bleating",
    "Siren": "a siren wailing", "Sneezing": "a person sneezing", "Snoring": "a person snoring",
    "Thunderstorm": "a thunderstorm", "Toiletflush": "flushing a toilet", "Train": "a train passing",
    "Vacuumcleaner": "a vacuum cleaner", "Washingmachine": "a washing machine running",
    "Waterdrops": "water dripping", "Wind": "wind blowing",
}  # fmt: skip
TRAIN, HELD_OUT, TEST, FULL = range(20), range(20, 24), range(24, 32), range(24)
POOL = 1  # steps of a spectrogram averaged before the tower, which averages 4: 125 columns of 40 ms
TAU = 0.1
LAMBDAS = (0.1, 0.3, 1.0, 3.0, 10.0)
ROWS = media.CACHE / "esc50-rows"


class Sounds:
    """Training samples: a spectrogram shifted around in time, with SpecAugment's masks, from (seed, epoch, clip)."""

    def __init__(
        self, spectrograms: np.ndarray, clips: list[int], targets: list[int], *, seed: int, train: bool
    ) -> None:
        self.spectrograms, self.clips, self.targets, self.seed, self.train = spectrograms, clips, targets, seed, train
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.clips)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __getitem__(self, index: int) -> dict[str, Any]:
        x = pooled(self.spectrograms[self.clips[index]])
        if self.train:
            draw = torch.Generator().manual_seed((self.seed * 100_003 + self.epoch) * 10_007 + index)
            x = x.roll(int(torch.randint(x.shape[-1], (), generator=draw)), dims=-1)
            x = spec_augment(x, generator=draw, max_time_steps=48 // POOL, max_mel_bins=16, num_masks=2)
        mask = torch.tensor([False, True])
        return {
            "video": None, "flow": None, "audio": x, "mask": mask, "target": self.targets[index], "index": index,
            "path": str(self.clips[index]),
        }  # fmt: skip


def pooled(spectrogram: np.ndarray) -> Tensor:
    """(128, S) -> (3, 128, S / POOL) float32."""
    x = torch.from_numpy(np.asarray(spectrogram, dtype=np.float32))
    return F.avg_pool1d(x, POOL).expand(3, -1, -1)


class Experiment:
    """The data of one seed."""

    def __init__(self, data: Path, seed: int) -> None:
        from lexivid.backbones.lite import LiteBackbone

        self.seed = seed
        self.folders = sorted(path.name for path in data.iterdir() if path.is_dir())
        files = [path for name in self.folders for path in sorted((data / name).glob("*.opus"))]
        self.spectrograms = media.spectrograms(files, "esc50")
        self.class_of = np.array([self.folders.index(path.parent.name) for path in files])
        self.number = np.array([int(path.stem) for path in files])
        self.backbone = LiteBackbone.load()
        self.texts = media.label_vectors(self.backbone, [NAMES[name] for name in self.folders])  # (50, D)
        split = split_classes(self.folders, num_base=25, seed=seed, source="ESC-50")
        self.base = np.array([self.folders.index(name) for name in split.base])
        self.novel = np.array([self.folders.index(name) for name in split.novel])

    def clips(self, classes: np.ndarray, numbers: range) -> np.ndarray:
        return np.flatnonzero(np.isin(self.class_of, classes) & np.isin(self.number, numbers))

    def permuted(self) -> Tensor:
        """Texts over all 50 classes, none in its place."""
        rng = np.random.default_rng(1000 + self.seed)
        while True:
            order = rng.permutation(50)
            if not (order == np.arange(50)).any():
                return self.texts[torch.from_numpy(order)]

    def trunk_features(self) -> np.ndarray:
        """(1600, 1280) of the untrained picture network on spectrograms."""
        path = media.CACHE / f"esc50-trunk-{POOL}.npy"
        if not path.exists():
            from lexivid.models.towers import make_tower

            tower = make_tower(self.backbone, modality="audio")
            rows = []
            with torch.no_grad():
                for start in range(0, len(self.spectrograms), 32):
                    x = torch.stack([pooled(s) for s in self.spectrograms[start : start + 32]])
                    x = F.avg_pool2d(x, tower.pooling, ceil_mode=True) * tower.input_scale
                    rows.append(tower.trunk.features(x.contiguous(memory_format=torch.channels_last)))
            np.save(path, torch.cat(rows).numpy())
        return np.load(path)

    # ---- measures ----

    def evaluate(self, features: np.ndarray, texts: Tensor) -> dict[str, Any]:
        """features (1600, D) -> first and in five, base and novel, with each clip's hit for the intervals."""
        result: dict[str, Any] = {}
        for side, classes, numbers in (("base", self.base, TEST), ("novel", self.novel, range(32))):
            chosen = self.clips(classes, numbers)
            p = probabilities(features[chosen], texts[torch.from_numpy(classes)])
            targets = np.searchsorted(classes, self.class_of[chosen])
            hits = single_label.hits(p, targets)
            result[side] = {
                "top1": float(hits.mean()), "top5": single_label.top_k_accuracy(p, targets, k=5), "hits": hits.tolist(),
                "top5_hits": single_label.hits(p, targets, k=5).tolist(), "clips": chosen.tolist(),
                "recall": single_label.per_class_accuracy(targets, hits, num_classes=25).tolist(),
            }  # fmt: skip
        return result

    def generalized(self, features: np.ndarray, texts: Tensor, offset: float) -> dict[str, Any]:
        """All 50 names: base and novel accuracy of both rules."""
        clips = np.concatenate([self.clips(self.base, TEST), self.clips(self.novel, range(32))])
        p = np.log(probabilities(features[clips], texts))
        is_base = np.isin(np.arange(50), self.base)
        fold = base_novel_offset.Fold(p, p, self.class_of[clips], is_base)
        result = {}
        for rule, shift in (("all-novel", 0.0), ("all-base", 0.0), ("calibrated", offset)):
            scores = base_novel_offset.combine(p, p, is_base, offset=shift)
            base, novel = base_novel_offset.accuracies(fold, offset=shift)
            result[rule] = {
                "base": base, "novel": novel, "harmonic_mean": single_label.harmonic_mean(base, novel),
                "hits": single_label.hits(scores, self.class_of[clips]).tolist(), "clips": clips.tolist(),
            }  # fmt: skip
        # for the plot, and never to choose: what every offset would have given
        result["curve"] = [[o, *base_novel_offset.accuracies(fold, offset=o)] for o in np.linspace(-1, 12, 53).tolist()]
        return result

    def fold(self, features: np.ndarray, texts: Tensor, left_out: np.ndarray) -> base_novel_offset.Fold:
        """A twin that was trained without `left_out`: held-out clips of what it knows, all training-part ones of the
        rest, over the names of the 25 base classes."""
        kept = np.setdiff1d(self.base, left_out)
        clips = np.concatenate([self.clips(kept, HELD_OUT), self.clips(left_out, range(24))])
        p = np.log(probabilities(features[clips], texts[torch.from_numpy(self.base)]))
        targets = np.searchsorted(self.base, self.class_of[clips])
        return base_novel_offset.Fold(p, p, targets, np.isin(self.base, kept))

    def left_out(self) -> list[np.ndarray]:
        names = [self.folders[i] for i in self.base]
        folds = base_novel_offset.class_folds(names, num_folds=2, seed=self.seed)
        return [np.array(sorted(self.folders.index(name) for name in fold)) for fold in folds]

    # ---- rows ----

    def untrained(self) -> dict[str, Any]:
        from lexivid.models.towers import make_frozen_tower

        path = media.CACHE / f"esc50-untrained-{POOL}.npy"
        if not path.exists():
            tower = make_frozen_tower(self.backbone)
            rows = []
            for start in range(0, len(self.spectrograms), 32):
                x = torch.stack([pooled(s) for s in self.spectrograms[start : start + 32]])
                rows.append(tower(F.avg_pool2d(x, (1, 4), ceil_mode=True) * 0.5))
            np.save(path, torch.cat(rows).numpy())
        return self.evaluate(np.load(path), self.texts)

    def frozen(self, texts: Tensor, *, calibrated: bool) -> dict[str, Any]:
        trunk = self.trunk_features()
        weight = max(LAMBDAS, key=lambda w: self._held_out_accuracy(self._ridge(trunk, texts, self.base, w), texts))
        features = self._ridge(trunk, texts, self.base, weight, FULL)
        result = self.evaluate(features, texts) | {"ridge": weight}
        if calibrated:
            folds = [
                self.fold(self._ridge(trunk, texts, np.setdiff1d(self.base, out), weight), texts, out)
                for out in self.left_out()
            ]
            result |= self._calibrated(features, texts, folds, self._ridge(trunk, texts, self.base, weight))
        return result

    def trained(self, texts: Tensor, name: str, *, epochs: int, calibrated: bool) -> dict[str, Any]:
        result: dict[str, Any] = {"epochs": epochs}
        features = self._train(texts, self.base, name, epochs, FULL)
        result |= self.evaluate(features, texts)
        if calibrated:
            folds = []
            for place, out in enumerate(self.left_out()):
                twin = self._train(texts, np.setdiff1d(self.base, out), f"{name}-twin{place}", epochs)
                folds.append(self.fold(twin, texts, out))
            result |= self._calibrated(features, texts, folds)
        return result

    def _calibrated(
        self,
        features: np.ndarray,
        texts: Tensor,
        folds: list[base_novel_offset.Fold],
        without_held_out: np.ndarray | None = None,
    ) -> dict[str, Any]:
        """By twins, and, given features of a model that has not seen recordings 20 to 23, also without twins."""
        fitted = base_novel_offset.fit_classes_out(folds)
        result = {
            "calibration": fitted.to_dict(),
            "generalized": self.generalized(features, texts, fitted.offset),
            "twins": [
                dict(zip(("base", "novel"), base_novel_offset.accuracies(fold, offset=fitted.offset), strict=True))
                for fold in folds
            ],
        }
        if without_held_out is not None:
            clips = self.clips(self.base, HELD_OUT)
            targets, quick_folds = np.searchsorted(self.base, self.class_of[clips]), []
            for draw in range(10):
                nothing = base_novel_offset.distractor_labels(
                    25, seed=draw, exclude=[NAMES[self.folders[i]] for i in self.base]
                )
                names = [texts[torch.from_numpy(self.base)], media.label_vectors(self.backbone, nothing)]
                p = np.log(probabilities(without_held_out[clips], torch.cat(names)))
                quick_folds.append(base_novel_offset.Fold(p, p, targets, np.arange(50) < 25))
            quick = base_novel_offset.fit_held_out({25: quick_folds})
            result["quick"] = quick.to_dict()
            result["generalized"]["held-out"] = self.generalized(features, texts, quick.offset)["calibrated"]
        return result

    def _held_out_accuracy(self, features: np.ndarray, texts: Tensor) -> float:
        clips = self.clips(self.base, HELD_OUT)
        p = probabilities(features[clips], texts[torch.from_numpy(self.base)])
        return single_label.top_k_accuracy(p, np.searchsorted(self.base, self.class_of[clips]))

    def _ridge(
        self, trunk: np.ndarray, texts: Tensor, classes: np.ndarray, weight: float, numbers: range = TRAIN
    ) -> np.ndarray:
        """Features standardised on the training clips -> text space, least squares with a penalty: (1600, D)."""
        clips = self.clips(classes, numbers)
        mean, std = trunk[clips].mean(axis=0), trunk[clips].std(axis=0) + 1e-6
        x = (trunk - mean) / std
        y = texts.numpy()[self.class_of[clips]]
        gram = x[clips] @ x[clips].T + weight * trunk.shape[1] * np.eye(len(clips))
        return (x @ x[clips].T) @ np.linalg.solve(gram, y)

    def _train(self, texts: Tensor, classes: np.ndarray, name: str, epochs: int, numbers: range = TRAIN) -> np.ndarray:
        """`lexivid.training.train` on the training part of some classes -> a_m of all clips (1600, D), kept on disk."""
        path = ROWS / f"features-{name}-{self.seed}.npy"
        if path.exists():
            return np.load(path)
        started = time.monotonic()
        clips = self.clips(classes, numbers)
        model = train_tower(self, texts, classes, clips, ROWS / "runs" / f"{name}-{self.seed}", epochs)
        rows = []
        for start in range(0, len(self.spectrograms), 32):
            x = torch.stack([pooled(s) for s in self.spectrograms[start : start + 32]])
            rows.append(model.features(audio=x, mask=torch.tensor([[False, True]]).expand(len(x), 2)).x_m["audio"])
        features = torch.cat(rows).numpy()
        if name == "trained":  # for clips_sound
            model.save_pretrained(ROWS / "models" / str(self.seed))
        ROWS.mkdir(parents=True, exist_ok=True)
        np.save(path, features)
        print(f"  {name}, seed {self.seed}: {time.monotonic() - started:.0f} s", flush=True)
        return features


def train_tower(
    experiment: Experiment, texts: Tensor, classes: np.ndarray, clips: np.ndarray, out: Path, epochs: int
) -> Any:
    """-> `TrainedModel`, by `lexivid.training.loop.fit`, which `lexivid train` also calls.

    (`train` embeds names by itself, and the control needs texts of its own.)
    """
    from lexivid.models.mov import MOV
    from lexivid.models.mov_config import MOVConfig
    from lexivid.models.system import System
    from lexivid.models.trained import TrainedModel
    from lexivid.training.loop import fit
    from lexivid.training.recipe import Recipe

    targets = np.searchsorted(classes, experiment.class_of[clips]).tolist()
    sounds = Sounds(experiment.spectrograms, clips.tolist(), targets, seed=experiment.seed, train=True)
    backbone = experiment.backbone
    recipe = Recipe.from_dict(
        {
            "name": "esc50",
            "model": {
                "backbone": "lite", "modalities": ["video", "audio"], "mlp_ratio": 1.0, "tau": TAU, "tau_a": TAU,
            },
            "data": {"inputs": ["audio"], "num_workers": 0, "held_out": 0.0},
            "training": {
                "epochs": epochs, "batch_size": 32, "lr": 1e-4, "tower_lr": 3e-3, "weight_decay": 0.02,
                "warmup_steps": 20, "mixup": 0.3, "seed": experiment.seed, "checkpoint_every": 100_000,
                "keep_checkpoints": 1,
            },
        }
    )  # fmt: skip
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    torch.manual_seed(experiment.seed)
    mov = MOV.from_backbone(backbone, MOVConfig.for_backbone(backbone, **recipe.model.mov_settings()))
    fit(System(mov, texts[torch.from_numpy(classes)]), sounds, recipe, out, images=backbone.images, device="cpu")
    shutil.rmtree(out)  # checkpoints and log
    names = tuple(NAMES[experiment.folders[i]] for i in classes)
    return TrainedModel(
        backbone, mov, names, backbone.default_templates, ("audio",), sampling=ClipSampling(stride=None, audio_s=5.0)
    )


def probabilities(features: np.ndarray, texts: Tensor) -> np.ndarray:
    """(n, D), (K, D) -> (n, K), softmax(cosine / tau)."""
    x = F.normalize(torch.from_numpy(np.asarray(features, dtype=np.float32)), dim=-1)
    return (x @ texts.T / TAU).double().softmax(dim=-1).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--control-seeds", type=int, default=2, help="seeds of the trained, permuted control")
    parser.add_argument("--stop-after", type=float, default=float("inf"), help="start no row after so many seconds")
    parser.add_argument("--report", action="store_true", help="write JSON and SVG from the rows that are there")
    args = parser.parse_args()
    started = time.monotonic()
    plan = [(method, seed) for method in ("untrained", "frozen", "frozen-permuted") for seed in range(args.seeds)]
    plan += [("trained", seed) for seed in range(args.seeds)]
    plan += [("trained-permuted", seed) for seed in range(args.control_seeds)]
    if not args.report:
        for method, seed in plan:
            if (ROWS / f"{method}-{seed}.json").exists():
                continue
            if time.monotonic() - started > args.stop_after:
                print("stopped: start again to go on")
                return
            e = Experiment(args.data, seed)
            work = {
                "untrained": e.untrained,
                "frozen": lambda e=e: e.frozen(e.texts, calibrated=True),
                "frozen-permuted": lambda e=e: e.frozen(e.permuted(), calibrated=False),
                "trained": lambda e=e: e.trained(e.texts, "trained", epochs=args.epochs, calibrated=True),
                "trained-permuted": lambda e=e: e.trained(
                    e.permuted(), "permuted", epochs=args.epochs, calibrated=False
                ),
            }[method]
            media.row(ROWS, f"{method}-{seed}", work)
    from benchmarks.esc50.report import report  # plots need matplotlib; rows do not

    rows = {
        (m, s): json.loads((ROWS / f"{m}-{s}.json").read_text()) for m, s in plan if (ROWS / f"{m}-{s}.json").exists()
    }
    report(rows, about(args))


def about(args: argparse.Namespace) -> dict[str, Any]:
    """How the result was made."""
    return {
        "benchmark": "ESC-50, 25 base and 25 novel classes, lite, sound alone",
        "protocol": "base-novel (recordings 24 to 31 of base classes, all of novel ones) and generalized (50 names)",
        "prompts": {"templates": "lite", "names": NAMES},
        "frames": None,
        "views": "one: the whole 5 s",
        "split": "split_classes(50 folders, num_base=25, seed=seed)",
        "training": f"recordings 00 to 23, {args.epochs} epochs; twins: 00 to 19",
        "decoder": "lexivid.media.audio",
        "clips_asked": 1600,
        "clips_failed": 0,  # `media.spectrograms` stops at a clip that cannot be read
        "command": "python -m benchmarks.esc50.measure --data esc50",
        "notes": [
            f"The trained tower with permuted texts has {args.control_seeds} seeds: CPU time.",
            "A first setting (7 epochs, 20 recordings a class, learning rate 1e-3 for the fusion blocks too) gave base "
            "68 / 95 and novel 7 / 28 on seed 0, and its twin 11 % on classes left out, below the frozen tower's 14 %. "
            "It was replaced by the paper's learning rate, 24 recordings and 8 epochs before any other seed was run.",
            "held-out: the offset costs 5 % of held-out base clips among 25 names of nothing; this share was set after "
            "seed 0, split 2 of ucf6, where 10 % cost more than it gave. calibrated: twins, nothing set.",
            "Spectrograms are normalised one by one (paper); the prototype kept loudness, which base classes need.",
            "harmonic_mean: of base and novel accuracy over all clips of all seeds (lexivid.metrics.single_label), as "
            "everywhere but in the report of the synthetic world.",
        ],
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
