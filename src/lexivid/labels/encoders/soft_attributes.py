"""Soft attributes: what a frozen language model knows of a label, handed to CLIP's text encoder as vectors (OVML).

    label -> [P learned vectors] label's tokens [suffix] -> frozen language model -> vectors (K, S, W_lm)
          -> prompting transformer: A learned queries attend to them -> soft attributes (K, A, W)
          -> [start] soft attributes, label's tokens [end] -> frozen CLIP text encoder -> (K, D)

Trained: the learned vectors and the prompting transformer; gradients reach them through both frozen models. What comes
out depends on no video, so it is computed once a label and kept (`lexivid.labels.database`).

Where the paper is silent, docs/ovml.md lists what we chose. The most important: a causal model says what it knows of a
label *after* it, so it is asked ("LABEL is a"), and its expected next word is read. `SoftAttributeConfig.paper()` is
the method as the paper describes it.

Shapes: K labels, P prefixes, L tokens, S places that are read, A soft attributes a label, W the text encoder's width,
D embedding width.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from lexivid.errors import ModelError
from lexivid.labels.encoders.base import TrainedLabelEncoder
from lexivid.labels.encoders.language_model import FrozenLanguageModel, Readout
from lexivid.labels.encoders.text_encoder import FrozenTextEncoder


@dataclass(frozen=True)
class SoftAttributeConfig:
    """Everything but weights.

    Args:
        num_prefixes: P, learned vectors before the label. Without any learned vectors around it, what the language
            model says of a label never changes, and is asked for once in a training.
        suffix: words after the label.
        num_suffix_vectors: learned vectors after the suffix.
        readout: what is taken from the language model, see `FrozenLanguageModel.read`.
        layer: of the language model, where `readout` is "hidden".
        top_k: of the words, where `readout` is "next_word"; None: all words.
        attend: the places that are read: all of the "suffix", its "last" one, or "all" after the start token.
        num_attributes: A, soft attributes of a label.
        num_layers: of the prompting transformer.
        num_heads: of the prompting transformer; None: heads are 64 wide.
        mlp_ratio: of the prompting transformer: hidden width of each MLP, in its width.
        dropout: of the prompting transformer.
        include_label_tokens: whether the label's own words follow the soft attributes into CLIP.
        clip_residual: what comes out is CLIP's own vector of the label plus a learned share of that of the soft
            attributes, from none on: untrained, labels are CLIP's, and words that it knows stay known.
        labels_at_once: labels that go through both models together.
        save_memory: compute each such group a second time when its gradient is due, and keep nothing of it until then.
    """

    num_prefixes: int = 0
    suffix: str = "is a"
    num_suffix_vectors: int = 0
    readout: Readout = "next_word"
    layer: int = -1
    top_k: int | None = None
    attend: Literal["suffix", "last", "all"] = "suffix"
    num_attributes: int = 8
    num_layers: int = 2
    num_heads: int | None = None
    mlp_ratio: float = 4.0
    dropout: float = 0.0
    include_label_tokens: bool = True
    clip_residual: bool = False
    labels_at_once: int = 128
    save_memory: bool = False

    # Names that recipes used before, and that label_encoder.json keeps: the fingerprint is made from them.
    renamed: ClassVar[Mapping[str, str]] = {
        "reading": "readout", "own_words": "include_label_tokens", "beside_clip": "clip_residual",
    }  # fmt: skip

    def __post_init__(self) -> None:
        for name in ("num_attributes", "num_layers", "labels_at_once"):
            if getattr(self, name) < 1:
                raise ModelError(f"{name} must be at least 1; got {getattr(self, name)}")
        if self.num_prefixes < 0 or self.num_suffix_vectors < 0:
            raise ModelError("num_prefixes and num_suffix_vectors cannot be below 0")
        for name, known in (("readout", ("hidden", "next_word")), ("attend", ("suffix", "last", "all"))):
            if getattr(self, name) not in known:
                raise ModelError(f"{name} {getattr(self, name)!r}: choose {', '.join(known)}")
        if self.attend == "suffix" and not self.suffix and not self.num_suffix_vectors:
            raise ModelError(
                "attend='suffix' reads what stands after the label: give a suffix, num_suffix_vectors or both"
            )

    @classmethod
    def paper(cls, **overrides: Any) -> SoftAttributeConfig:
        """Learned prefixes before the label, nothing after it, all output vectors of the language model."""
        as_described: dict[str, Any] = {"num_prefixes": 8, "suffix": "", "readout": "hidden", "attend": "all"}
        return cls(**(as_described | overrides))

    def to_stored(self) -> dict[str, Any]:
        """What decides vectors, as label_encoder.json holds it: under the names of its first version."""
        stored_names = {new: old for old, new in self.renamed.items()}
        decisive = {k: v for k, v in asdict(self).items() if k not in ("labels_at_once", "save_memory")}
        return {stored_names.get(name, name): value for name, value in decisive.items()}

    @classmethod
    def from_stored(cls, values: Mapping[str, Any]) -> SoftAttributeConfig:
        """The reverse of `to_stored`. Raises TypeError for an unknown name."""
        return cls(**{cls.renamed.get(name, name): value for name, value in values.items()})


class PromptingTransformer(nn.Module):
    """A learned queries that attend to a language model's vectors: (K, S, W_lm) -> (K, A, W).

    What comes out starts with the spread of CLIP's word vectors (`word_std`), the scale that its text encoder expects.
    """

    def __init__(self, config: SoftAttributeConfig, *, input_width: int, width: int, word_std: float) -> None:
        super().__init__()
        heads = config.num_heads or max(1, width // 64)
        if width % heads:
            raise ModelError(f"num_heads {heads} does not divide the text encoder's width {width}")
        self.queries = nn.Parameter(torch.randn(config.num_attributes, width))
        self.norm_in = nn.LayerNorm(input_width)
        self.project = nn.Linear(input_width, width)
        self.layers = nn.ModuleList(
            nn.TransformerDecoderLayer(
                width, heads, round(width * config.mlp_ratio), config.dropout, "gelu", batch_first=True, norm_first=True
            )
            for _ in range(config.num_layers)
        )
        self.norm_out = nn.LayerNorm(width)
        self.out = nn.Linear(width, width)
        nn.init.normal_(self.out.weight, std=word_std * width**-0.5)
        nn.init.zeros_(self.out.bias)

    def forward(self, vectors: Tensor) -> Tensor:
        memory = self.project(self.norm_in(vectors))
        x = self.queries.expand(len(vectors), -1, -1)
        for layer in self.layers:
            x = layer(x, memory)
        return self.out(self.norm_out(x))


class SoftAttributeEncoder(TrainedLabelEncoder):
    """A label encoder: labels -> (K, D), unit length, with gradients to its own weights alone.

    Args:
        language_model, text_encoder: both frozen.
    """

    kind = "soft_attributes"

    def __init__(
        self, language_model: FrozenLanguageModel, text_encoder: FrozenTextEncoder, config: SoftAttributeConfig
    ) -> None:
        super().__init__()
        self.config, self.language_model, self.text_encoder = config, language_model, text_encoder
        self.language_model_fingerprint = language_model.fingerprint
        self._memory: dict[str, Tensor] = {}  # what the language model said, while training
        words, tokenizer = language_model.word_vectors.detach().float(), language_model.tokenizer
        std = words.std()
        # Before the label: near the token that begins a text, which disturbs the model less than random vectors do
        # (docs/ovml.md). After it: anywhere among the model's words.
        begins = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
        first = words.mean(dim=0) if begins is None else words[begins]
        near = 0.1 * std * torch.randn(config.num_prefixes, words.shape[1])
        self.prefixes = nn.Parameter(first + near.to(words))
        anywhere = std * torch.randn(config.num_suffix_vectors, words.shape[1]).to(words)
        self.suffixes = nn.Parameter(words.mean(dim=0) + anywhere)
        self.prompting = PromptingTransformer(
            config,
            input_width=language_model.width(config.readout),
            width=text_encoder.width,
            word_std=float(text_encoder.word_vectors.std()),
        ).to(words.device)
        self.share = nn.Parameter(torch.zeros((), device=words.device)) if config.clip_residual else None
        self._own: dict[str, Tensor] = {}  # CLIP's vectors of labels, while training

    def forward(self, labels: Sequence[str]) -> Tensor:
        """K labels -> (K, D) float32.

        Raises:
            ModelError: a label of which the language model's tokenizer makes nothing.
        """
        by_length: dict[int, list[int]] = defaultdict(list)
        tokens = [self.language_model.tokens(label) for label in labels]
        for place, ids in enumerate(tokens):
            by_length[len(ids)].append(place)
        parts, order = [], []
        for indices in by_length.values():
            for start in range(0, len(indices), self.config.labels_at_once):
                chosen = indices[start : start + self.config.labels_at_once]
                order += chosen
                arguments = ([labels[i] for i in chosen], torch.tensor([tokens[i] for i in chosen]))
                if self.config.save_memory and torch.is_grad_enabled():
                    parts.append(checkpoint(self._encode, *arguments, use_reentrant=False))
                else:
                    parts.append(self._encode(*arguments))
        if not parts:
            return torch.zeros(0, self.text_encoder.embedding_dim, device=self.prefixes.device)
        back = torch.tensor(order, device=parts[0].device).argsort()
        return torch.cat(parts)[back]

    def attributes(self, ids: Tensor) -> Tensor:
        """Soft attributes of labels that have as many tokens each: (K, L) int64 -> (K, A, W)."""
        return self.prompting(self.read(ids))

    def read(self, ids: Tensor) -> Tensor:
        """What the language model says of labels that have as many tokens each: (K, L) int64 -> (K, S, W_lm)."""
        c, model = self.config, self.language_model
        words = model.word_vectors
        ids = ids.to(words.device)

        def several(vectors: Tensor) -> Tensor:
            return vectors.expand(len(ids), *vectors.shape)

        def fixed(tokens: list[int]) -> Tensor:
            return several(words[torch.tensor(tokens, dtype=torch.int64, device=words.device)])

        asked = model.continuation(c.suffix)
        pieces = [fixed(model.start()), several(self.prefixes), words[ids], fixed(asked), several(self.suffixes)]
        vectors = torch.cat([piece.float() for piece in pieces], dim=1)
        num_suffix = len(asked) + c.num_suffix_vectors
        num_read = {"suffix": num_suffix, "last": 1, "all": vectors.shape[1] - len(model.start())}[c.attend]
        return model.read(vectors, num_read=num_read, readout=c.readout, layer=c.layer, top_k=c.top_k)

    def _encode(self, labels: list[str], ids: Tensor) -> Tensor:
        never_changes = self.config.num_prefixes == 0 and self.config.num_suffix_vectors == 0
        readout = self._remembered(labels, ids) if never_changes and self.training else self.read(ids)
        vectors = self.text_encoder(
            labels, self.prompting(readout), include_label_tokens=self.config.include_label_tokens
        )
        if self.share is None:
            return vectors
        return F.normalize(self._clip_says(labels) + self.share * vectors, dim=-1)

    @torch.no_grad()
    def _clip_says(self, labels: Sequence[str]) -> Tensor:
        """CLIP's own vectors (K, D) of labels."""
        if not self.training:
            return self.text_encoder(labels)
        if new := [label for label in labels if label not in self._own]:
            self._own |= dict(zip(new, self.text_encoder(new).unbind(), strict=True))
        return torch.stack([self._own[label] for label in labels])

    @torch.no_grad()
    def _remembered(self, labels: list[str], ids: Tensor) -> Tensor:
        """As `read`, asking for what was not asked for before.

        Label by label: in company the last bits depend on the company, and a run that was resumed has other company.
        """
        for i, label in enumerate(labels):
            if label not in self._memory:
                self._memory[label] = self.read(ids[i : i + 1])[0]
        return torch.stack([self._memory[label] for label in labels]).to(self.prefixes.device)

    def settings(self) -> dict[str, Any]:
        return {
            "language_model": self.language_model.lasting_name,
            "language_model_fingerprint": self.language_model_fingerprint,
            "config": self.config.to_stored(),
        }

    @classmethod
    def from_settings(
        cls, about: Mapping[str, Any], text_encoder: FrozenTextEncoder, *, device: str | torch.device
    ) -> SoftAttributeEncoder:
        name = str(about["language_model"])
        language_model = FrozenLanguageModel.load(name, device=device)
        stored = str(about["language_model_fingerprint"])
        if not language_model.has_fingerprint(stored):
            raise ModelError(
                f"the language model {name!r} is not the one that these soft attributes were trained with: its "
                "weights differ"
            )
        encoder = cls(language_model, text_encoder, SoftAttributeConfig.from_stored(about["config"]))
        encoder.language_model_fingerprint = stored  # label databases hold vectors under it
        return encoder
