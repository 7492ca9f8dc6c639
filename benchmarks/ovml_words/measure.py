"""Where words are not enough: what do soft attributes add to a language model's answer in words?

    OMP_NUM_THREADS=1 python -m benchmarks.ovml_words.measure [--model world] [--seeds 5] [--rows ROW ...]

In benchmarks/ovml_world "red star" says all that a noun means, so an answer in words is hard to beat. Here two
worlds of the same making, where it is not. Clips, label encoders and their training are those of that script.

either: 100 invented nouns of two looks each ("zumi" is a star, and red or blue); descriptions tell one of them at a
time. 60 base, 40 novel nouns; macro mAP in per cent; a clip shows two objects, and about 6 % of all labels hold.

    bare, next word, last hidden, next word, scrambled, no model      as in ovml_world
    true words, one        CLIP reads the first of the two meanings
    true words, both       the mean of CLIP's vectors of both; "higher": of both scores the higher
    answer                 the language model's likeliest answer, in words
    answers                the mean of CLIP's vectors of 8 answers drawn from it; "higher": the highest of 8 scores;
                           "trained": the mean, then a linear map trained on the clips of the base nouns

scales: labels of four kinds in one list: invented nouns of one look, looks by name ("red star"), single shapes and
colours ("star", "something red"), motions ("spinning"). Per cent over the labels that training never saw. The best
threshold that all labels share, against the best one for each kind: what lies between is the price of scales that
differ. Both thresholds are chosen on the test clips, so each F1 is an upper bound.

    clip                   CLIP reads every label, nouns too
    true words             nouns by what they mean
    answer                 labels with words that CLIP does not know by what the language model answers
    answer, shifted        every score less the threshold that is best for its kind, on training clips and base labels
    answer, trained        the texts of "answer" after vectors that all labels share, trained on the base labels
    soft attributes        2 of them, next word, trained on the base labels of all kinds; own words follow
    soft attributes, beside CLIP   the same added to CLIP's own vector of the label, with a learned share
    soft attributes, scrambled   control: the language model is asked about another label of the kind, own words stay

A scale and a bias for all scores, as a sigmoid needs, would change none of these numbers.

Settings are those of ovml_world but for two, chosen on seed 100 alone. Tried for "next word" of "either": 8 soft
attributes for 300, 600 and 900 steps (novel mAP 22.2, 23.4, 23.4), 2 for 300 and 900 (21.8, 22.7).
Tried for "soft attributes" of "scales", with 8 and with 2: 300 steps (mAP 17.7, 18.8), 900 steps (18.0, 18.3); with 8
and lr 3e-4: 17.2 and 18.6. Taking from each label's score its mean over the training clips, with or without dividing by
the spread there, made micro and macro F1 of "answer" at one threshold worse (32.8 to 24.0, 25.7 to 22.2).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.ovml_world.measure import SETTINGS, Experiment, Fillable, by_row, fill, spread, train
from lexivid.backbones.clip import ClipBackbone
from lexivid.labels.encoders.coop import LearnedContextEncoder
from lexivid.labels.encoders.language_model import FrozenLanguageModel
from lexivid.labels.encoders.soft_attributes import SoftAttributeConfig, SoftAttributeEncoder
from lexivid.metrics.multi_label import best_f1, f1, mean_average_precision
from lexivid.models.mov import similarity
from lexivid.synthetic.world.words import COLOURS, MOTIONS, SHAPES

WORDS_SETTINGS = SETTINGS | {
    "answers": 8, "answer_tokens": 6, "entities": [30, 20], "novel_shapes": 4, "novel_colours": 4, "novel_motions": 3,
    "either_steps": 600, "scales_attributes": 2,
}  # fmt: skip
EITHER = (
    "bare", "true words, one", "true words, both", "true words, both, higher", "answer", "answers", "answers, higher",
    "answers, trained", "next word", "last hidden", "next word, scrambled", "no model",
)  # fmt: skip
SCALES = (
    "clip", "true words", "answer", "answer, shifted", "answer, trained", "soft attributes",
    "soft attributes, beside CLIP", "soft attributes, scrambled",
)  # fmt: skip
ROWS = (*(f"either: {name}" for name in EITHER), *(f"scales: {name}" for name in SCALES))
KINDS = ("noun", "entity", "attribute", "motion")


@torch.no_grad()
def sample_answers(
    model: FrozenLanguageModel, names: Sequence[str], *, num: int, num_tokens: int, seed: int
) -> list[list[str]]:
    """What the language model may say after "NAME is a", `num` times each; names are of one length in tokens."""
    asked = [[*model.start(), *model.tokens(name), *model.continuation("is a")] for name in names]
    ids = torch.tensor(asked).repeat_interleave(num, dim=0)
    generator, end = torch.Generator().manual_seed(seed), model.tokenizer.eos_token_id
    for _ in range(num_tokens):
        chances = model.model(input_ids=ids, use_cache=False, logits_to_keep=1).logits[:, -1].softmax(dim=-1)
        ids = torch.cat([ids, torch.multinomial(chances, 1, generator=generator)], dim=1)
    texts = []
    for row in ids[:, len(asked[0]) :].tolist():
        texts.append(str(model.tokenizer.decode(row[: row.index(end)] if end in row else row)).strip())
    return [texts[i : i + num] for i in range(0, len(texts), num)]


class Mapped(nn.Module):
    """Fixed vectors (K, D) and a linear map that starts as the identity."""

    def __init__(self, vectors: Tensor) -> None:
        super().__init__()
        self.vectors = vectors
        self.map = nn.Parameter(torch.eye(vectors.shape[1]))

    def forward(self, num: int) -> Tensor:
        """The first `num`, mapped."""
        return F.normalize(self.vectors[:num] @ self.map, dim=-1)


class Either(Experiment):
    """Nouns of two looks."""

    kind = "either"
    steps = WORDS_SETTINGS["either_steps"]

    def scores(self, name: str) -> tuple[np.ndarray, dict[str, Any]]:
        """As of the parent, and rows with several texts a noun."""
        extra: dict[str, Any] = {}
        if name == "true words, one":
            several = self._read([[noun.meaning.name] for noun in self.nouns])
        elif name.startswith("true words, both"):
            several = self._read([[meaning.name for meaning in noun.meanings] for noun in self.nouns])
        elif name == "answer":
            texts = [[text] for text in self.model.answer(self.names, num_tokens=WORDS_SETTINGS["answer_tokens"])]
            several, extra = self._read(texts), self._said(texts)
        elif name.startswith("answers"):
            several, extra = self._read(self._answers), self._said(self._answers)
        else:
            return super().scores(name)
        clips = self.test_clips.features
        if name.endswith("higher"):
            each = similarity(clips, several.flatten(0, 1)).unflatten(1, several.shape[:2])
            return each.amax(dim=-1).numpy(), extra
        vectors = F.normalize(several.mean(dim=1), dim=-1)
        if name.endswith("trained"):
            mapped = Mapped(vectors)
            extra["loss"] = train(
                lambda: mapped(self.num_base), mapped, self.train_clips, seed=self.seed, steps=self.steps
            )
            with torch.no_grad():
                vectors = mapped(len(vectors))
        return similarity(clips, vectors).numpy(), extra

    @cached_property
    def _answers(self) -> list[list[str]]:
        s = WORDS_SETTINGS
        return sample_answers(self.model, self.names, num=s["answers"], num_tokens=s["answer_tokens"], seed=self.seed)

    def _read(self, texts: list[list[str]]) -> Tensor:
        """K times n texts -> (K, n, D), CLIP's vectors."""
        return self.text([text for own in texts for text in own]).unflatten(0, (len(texts), -1))

    def _said(self, texts: list[list[str]]) -> dict[str, float]:
        """Shares of nouns with an answer that names one meaning whole, and with answers that name both."""
        told = [
            [any(set(meaning.name.split()) <= set(text.split()) for text in own) for meaning in noun.meanings]
            for noun, own in zip(self.nouns, texts, strict=True)
        ]
        return {
            "nouns_with_one_meaning": float(np.mean([any(t) for t in told])),
            "nouns_with_both_meanings": float(np.mean([all(t) for t in told])),
        }


class AskedOtherwise(nn.Module):
    """Soft attributes of what the language model says of other labels; the labels' own words stay."""

    def __init__(self, encoder: SoftAttributeEncoder, other: Mapping[str, str]) -> None:
        super().__init__()
        self.encoder, ask = encoder, encoder.language_model.tokens
        with torch.no_grad():
            self.said = {label: encoder.read(torch.tensor([ask(asked)]))[0] for label, asked in other.items()}

    def forward(self, labels: Sequence[str]) -> Tensor:
        """(K, D)."""
        said = torch.stack([self.said[label] for label in labels])
        return self.encoder.text_encoder(labels, self.encoder.prompting(said))


class Scales(Experiment):
    """Labels of four kinds: those of the parent's nouns, and plain words that hold in its clips."""

    def __init__(self, backbone: ClipBackbone, seed: int) -> None:
        super().__init__(backbone, seed)
        self.unknown = backbone.unknown_words
        s, rng = WORDS_SETTINGS, np.random.default_rng([seed, 1])
        labels: list[tuple[str, str, bool]] = []  # text, kind, whether training sees it
        holds: list[Callable[[Tensor], Tensor]] = []  # (n, objects, 5) -> (n, objects) bool

        def add(text: str, kind: str, base: bool, *wanted: tuple[int, int]) -> None:
            labels.append((text, kind, base))
            holds.append(lambda words: torch.stack([words[..., at] == value for at, value in wanted]).all(dim=0))

        for i, noun in enumerate(self.nouns):
            add(noun.name, "noun", i < self.num_base, (0, noun.meaning.shape), (1, noun.meaning.colour))
        for first, num, base in ((0, s["entities"][0], True), (self.num_base, s["entities"][1], False)):
            for noun in self.nouns[first : first + num]:  # a look whose noun is novel is novel by its name too
                add(noun.words, "entity", base, (0, noun.meaning.shape), (1, noun.meaning.colour))
        for kind, at, form, values, num in (
            ("attribute", 0, "{}", SHAPES, s["novel_shapes"]),
            ("attribute", 1, "something {}", COLOURS, s["novel_colours"]),
            ("motion", 3, "{}", MOTIONS, s["novel_motions"]),
        ):
            novel = set(rng.permutation(len(values))[:num].tolist())
            for value, word in enumerate(values):
                add(form.format(word), kind, value not in novel, (at, value))
        self.labels, self.kinds, bases = (list(column) for column in zip(*labels, strict=True))
        self.base = np.array(bases)
        self.truths = [
            torch.stack([hold(clips.words).any(dim=1) for hold in holds], dim=1)
            for clips in (self.train_clips, self.test_clips)
        ]
        self.meant = {noun.name: noun.words for noun in self.nouns}

    def row(self, name: str) -> dict[str, Any]:
        """All numbers of one way to make label vectors, in per cent, over unseen labels."""
        started = time.monotonic()
        vectors, extra = self._vectors(name)
        scores = similarity(self.test_clips.features, vectors).numpy()
        kinds, truth, novel = np.array(self.kinds), self.truths[1].numpy(), ~self.base
        if name == "answer, shifted":
            known = similarity(self.train_clips.features, vectors).numpy()
            for kind in KINDS:
                at = self.base & (kinds == kind)
                best = best_f1(known[:, at], self.truths[0].numpy()[:, at], average="macro")
                scores[:, kinds == kind] -= best.threshold
        found = {
            "base map": mean_average_precision(scores[:, self.base], truth[:, self.base]),
            "map": mean_average_precision(scores[:, novel], truth[:, novel]),
        }
        for kind in KINDS:
            at = novel & (kinds == kind)
            found[f"map {kind}"] = mean_average_precision(scores[:, at], truth[:, at])
        found |= f1_numbers(scores[:, novel], truth[:, novel], kinds[novel])
        seconds = {"seconds": round(time.monotonic() - started, 1)}
        return {k: round(100 * v, 2) for k, v in found.items()} | seconds | extra | {"language_model": self.known}

    def _vectors(self, name: str) -> tuple[Tensor, dict[str, Any]]:
        torch.manual_seed(self.seed)
        texts, extra = list(self.labels), {}
        if name == "true words":
            texts = [self.meant.get(text, text) for text in texts]
        elif name.startswith("answer"):
            unknown = [text for text in texts if self.unknown(text)]
            extra["asked"] = len(unknown)
            said = dict(
                zip(unknown, self.model.answer(unknown, num_tokens=WORDS_SETTINGS["answer_tokens"]), strict=True)
            )
            texts = [said.get(text, text) for text in texts]
        if name in ("clip", "true words", "answer", "answer, shifted"):
            return self.text(texts), extra
        beside = name.endswith("beside CLIP")
        config = SoftAttributeConfig(num_attributes=WORDS_SETTINGS["scales_attributes"], clip_residual=beside)
        encoder: nn.Module
        if name == "answer, trained":
            encoder = LearnedContextEncoder(self.text, num_context=config.num_attributes)
        else:
            encoder = SoftAttributeEncoder(self.model, self.text, config)
            if name.endswith("scrambled"):
                encoder = AskedOtherwise(encoder, dict(zip(self.labels, self._scrambled(), strict=True)))
        base = [text for text, seen in zip(texts, self.base, strict=True) if seen]
        clips = self.train_clips._replace(truth=self.truths[0][:, torch.from_numpy(self.base)])
        extra["loss"] = train(lambda: encoder(base), encoder, clips, seed=self.seed, steps=self.steps)
        with torch.no_grad():
            return encoder(texts), extra

    def _scrambled(self) -> list[str]:
        """Every label another one of its kind, always the same."""
        rng, texts = np.random.default_rng(self.seed), np.array(self.labels, dtype=object)
        for kind in KINDS:
            at = np.flatnonzero(np.array(self.kinds) == kind)
            texts[at] = texts[rng.permutation(at)]
        return list(texts)


def f1_numbers(scores: np.ndarray, truth: np.ndarray, kinds: np.ndarray) -> dict[str, float]:
    """Micro and macro F1 at one threshold for all labels and at one for each kind; macro F1 of each kind at both."""
    micro, macro = (best_f1(scores, truth, average=average) for average in ("micro", "macro"))
    own = {k: best_f1(scores[:, kinds == k], truth[:, kinds == k], average="macro").macro for k in KINDS}
    shared = {k: f1(scores[:, kinds == k], truth[:, kinds == k], threshold=macro.threshold).macro for k in KINDS}
    return {
        "micro": micro.micro,
        "micro, by kind": micro_by_kind(scores, truth, kinds),
        "macro": macro.macro,
        "macro, by kind": float(np.mean([own[k] for k in kinds])),
    } | {f"macro {k}": v for k, v in shared.items()} | {f"macro {k}, own": v for k, v in own.items()}  # fmt: skip


def micro_by_kind(scores: np.ndarray, truth: np.ndarray, kinds: np.ndarray) -> float:
    """Micro F1 at the thresholds, one a kind, that are best for it together; exact.

    F1 is a ratio of sums, 2 right / (shown + true). A ratio f can be had when some choice makes 2 right - f shown reach
    f true, and that sum is largest when each kind's part is: so f rises until it no longer can (Dinkelbach 1967).
    """
    curves, true = [], int(truth.sum())
    for kind in KINDS:
        flat, holds = scores[:, kinds == kind].ravel(), truth[:, kinds == kind].ravel()
        order = np.argsort(-flat, kind="stable")
        ends = np.append(np.flatnonzero(np.diff(flat[order])), len(flat) - 1)
        curves.append((np.append(0, np.cumsum(holds[order])[ends]), np.append(0, ends + 1)))
    found = 0.0
    while True:
        chosen = [(right[i], shown[i]) for right, shown in curves for i in [np.argmax(2 * right - found * shown)]]
        right, shown = (sum(int(pair[i]) for pair in chosen) for i in (0, 1))
        better = 2 * right / (shown + true)
        if better <= found + 1e-12:
            return found
        found = better


class Both:
    """The two worlds of one seed, each built when first asked for."""

    def __init__(self, backbone: ClipBackbone, seed: int) -> None:
        self.make: dict[str, Callable[[], Fillable]] = {
            "either": lambda: Either(backbone, seed),
            "scales": lambda: Scales(backbone, seed),
        }
        self.made: dict[str, Fillable] = {}

    def row(self, name: str) -> dict[str, Any]:
        """A row by "world: row"."""
        world, _, row = name.partition(": ")
        if world not in self.made:
            self.made[world] = self.make[world]()
        return self.made[world].row(row)


def summary(rows: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Row -> number -> mean over seeds with its interval; and soft attributes less each other row, seed by seed."""
    found, table = by_row(rows, ROWS), {}
    f1s = ["micro", "macro"]
    for name, seeds in found.items():
        every = seeds.values()
        left_out = ("loss", "seconds", "language_model", "asked")
        table[name] = {"seeds": str(len(seeds))}
        table[name] |= {k: spread([row[k] for row in every]) for k in next(iter(every)) if k not in left_out}
        if name.startswith("scales"):
            table[name] |= {f"{k}, price": spread([row[f"{k}, by kind"] - row[k] for row in every]) for k in f1s}
    for first, numbers in (("either: next word", ["base", "novel"]), ("scales: soft attributes", ["map", *f1s])):
        world = first.partition(": ")[0]
        for second in (name for name in found if name.startswith(world) and name != first and first in found):
            pairs = [(found[first][seed], found[second][seed]) for seed in found[first] if seed in found[second]]
            if pairs:
                less = {k: spread([a[k] - b[k] for a, b in pairs]) for k in numbers}
                table[f"{first} - {second.partition(': ')[2]}"] = less
    return table


if __name__ == "__main__":
    results = Path(__file__).with_name("result.json")
    fill(Both, ROWS, summary, about=__doc__, settings=WORDS_SETTINGS, results=results)
