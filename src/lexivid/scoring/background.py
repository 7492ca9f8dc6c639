"""Background labels: 300 phrases that are scored beside the labels of a call.

A cosine of 0.2 means nothing by itself: cosines differ between models, between clips and with how much a clip shows. So
300 phrases for whatever a video may show are scored beside the labels. The *log odds* of a label compare its weight in
a softmax with theirs, at the model's temperature and on this clip:

    s_k = v . t_k / tau - log mean_j exp(v . b_j / tau)

They do not depend on which other labels are asked for. For a model trained by softmax over pairs in a batch, as CLIP,
the best such score is the log of p(clip, label) / (p(clip) p(label)) up to a constant (van den Oord et al., 2018), so a
value of 1 says "e times likelier than by chance". `lexivid.scoring.calibration` maps them to a probability.
`background_for` alone decides which phrases suit which model: everyday ones (`background/everyday.txt`), or for a
CLIP of the synthetic world, which knows no others, phrases in the world's words (`background/world.txt`).
In: clip features (N, D), label vectors (K, D). Out: log odds (N, K). Shapes: N clips or windows, J = 300 phrases.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache
from importlib.resources import as_file, files
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from lexivid.backbones import Backbone
from lexivid.labels.prompt_cache import PromptCache, embed_labels
from lexivid.labels.templates import TemplateSet

EVERYDAY, WORLD = "everyday", "world"


@cache
def background_phrases(name: str = EVERYDAY) -> tuple[str, ...]:
    """300 phrases, in the file's order: "everyday" ones, or those of the synthetic "world"."""
    text = (files("lexivid.scoring") / "background" / f"{name}.txt").read_text(encoding="utf-8")
    return tuple(line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#"))


def background_for(backbone: Backbone) -> tuple[str, ...] | None:
    """The phrases that stand for whatever a video may show to this model; None: its text encoder knows none of them."""
    phrases = background_phrases(WORLD if backbone.default_templates == WORLD else EVERYDAY)
    strange = sum(bool(backbone.unknown_words(phrase)) for phrase in phrases)
    return None if strange > len(phrases) / 2 else phrases


def background_vectors(
    backbone: Backbone,
    prompt_cache: PromptCache,
    templates: TemplateSet,
    *,
    on_progress: Callable[[int, int], None] | None = None,
) -> Tensor | None:
    """Vectors (J, D) of a model's background in these sentences (of `short_templates`); None where it has none."""
    shipped = _shipped(backbone, templates)
    if shipped is not None:
        return shipped
    phrases = background_for(backbone)
    return None if phrases is None else prompt_cache.embed(phrases, templates, on_progress=on_progress)


def write_background_vectors(backbone: Backbone, templates: TemplateSet, folder: Path) -> None:
    """Compute the vectors that travel with the package, as float16 with the key of what they are made of."""
    vectors = embed_labels(backbone, background_phrases(), templates)
    save_file({"background": vectors.half()}, folder / f"{backbone.name}.safetensors", metadata={
        "key": _key(backbone, templates)
    })  # fmt: skip


def _key(backbone: Backbone, templates: TemplateSet) -> str:
    text = "\x00".join((backbone.fingerprint, *templates.templates, *background_phrases()))
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _shipped(backbone: Backbone, templates: TemplateSet) -> Tensor | None:
    """(J, D) from the package; None for a model or sentences that it has no vectors of."""
    if backbone.name != "lite":
        return None
    with as_file(files("lexivid.scoring") / "background" / "lite.safetensors") as path:
        if not path.is_file():
            return None
        with safe_open(path, framework="pt") as stored:
            if (stored.metadata() or {}).get("key") != _key(backbone, templates):
                return None
            return F.normalize(stored.get_tensor("background").float(), dim=-1)
