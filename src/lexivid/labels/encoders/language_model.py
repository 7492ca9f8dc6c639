"""A frozen causal language model of `transformers`, asked about labels: what soft attributes are made from.

    label --tokens--> [start] [learned vectors] label [words or learned vectors] --frozen model--> vectors at the end

Labels of one length in tokens go through together, so nothing is padded: what comes out for a label does not depend on
which labels stand beside it, and a model needs no mask and no positions of its own for that.

Shapes: K labels, L tokens, S places that are read (the last ones), W the model's width, V its vocabulary.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lexivid.backbones.base import lasting_name
from lexivid.backbones.host import quiet_transformers, random_state_kept
from lexivid.backbones.hub import commit_of
from lexivid.errors import ModelError

_FINGERPRINT = "weights-"
WORLD_LANGUAGE_MODEL = "world"
"""The language model that comes with the package: it knows the synthetic world's words and invented nouns alone."""

Readout = Literal["hidden", "next_word"]


class FrozenLanguageModel(nn.Module):
    """A causal language model that nothing moves; gradients pass through it.

    Args:
        model: a ...ForCausalLM of transformers. tokenizer: its own. name: as the user asked for it.
        commit: of a model of the Hub.
    """

    def __init__(self, model: Any, tokenizer: Any, *, name: str, commit: str | None = None) -> None:
        super().__init__()
        self.model, self.tokenizer, self.name, self.commit = model, tokenizer, name, commit
        self.requires_grad_(False)
        self.train(False)

    @classmethod
    @random_state_kept()
    @quiet_transformers()
    def load(
        cls, name: str, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
    ) -> FrozenLanguageModel:
        """Load "world", "owner/name", "owner/name@revision" or a folder; weights from safetensors only.

        A model that is on this machine never touches the network.

        Raises:
            ModelError: not found, not downloadable, or no causal language model.
        """
        from safetensors import SafetensorError
        from transformers import AutoModelForCausalLM, AutoTokenizer

        source, _, revision = name.partition("@") if not Path(name).exists() else (name, "", "")
        if name == WORLD_LANGUAGE_MODEL:
            source = str(Path(__file__).parent / "world_language_model")
        options: dict[str, Any] = {"revision": revision} if revision else {}
        error: Exception | None = None
        for offline in (True, False):
            if not offline and Path(source).exists():
                break
            try:
                where = options | {"local_files_only": offline}
                model: Any = AutoModelForCausalLM.from_pretrained(source, **where, use_safetensors=True, dtype=dtype)
                tokenizer = AutoTokenizer.from_pretrained(source, **where)
                return cls(model.to(device), tokenizer, name=name, commit=commit_of(source, revision or None))
            except (OSError, ValueError, ImportError, KeyError, RuntimeError, SafetensorError) as reason:
                error = reason
        raise ModelError(
            f"language model {name!r} could not be loaded: {' '.join(str(error).split())[:300]}. Name a causal "
            "language model of the Hugging Face Hub, or a folder with config.json, model.safetensors and its tokenizer."
        ) from error

    def train(self, mode: bool = True) -> FrozenLanguageModel:
        """Stays in evaluation mode whatever `mode` says."""
        super().train(False)
        return self

    @property
    def word_vectors(self) -> Tensor:
        """(V, W)."""
        return self.model.get_input_embeddings().weight

    @property
    def lasting_name(self) -> str:
        """What finds this model again from anywhere: a folder's absolute path, "owner/name@commit", or "world"."""
        if self.name == WORLD_LANGUAGE_MODEL:
            return WORLD_LANGUAGE_MODEL
        return lasting_name(self.name, self.commit)

    @property
    def fingerprint(self) -> str:
        """Identifies the weights: a hash of the architecture, its number of heads and a few numbers of every tensor.

        The rest of the configuration stays out: it names the model's folder and the version of transformers.
        """
        config = self.model.config
        digest = hashlib.sha256(f"{config.model_type} {getattr(config, 'num_attention_heads', None)}".encode())
        for key, value in sorted(self.model.state_dict().items()):
            flat = value.flatten()
            some = flat[:: max(1, len(flat) // 64)][:64].float().cpu()
            digest.update(f"{key} {tuple(value.shape)}".encode() + some.numpy().tobytes())
        return _FINGERPRINT + digest.hexdigest()[:32]

    def has_fingerprint(self, stored: str) -> bool:
        """Whether a stored fingerprint is of these weights.

        Earlier ones were also of the model's folder and of the version of transformers. Nothing can be read from them.
        """
        return stored == self.fingerprint or not stored.startswith(_FINGERPRINT)

    def width(self, readout: Readout) -> int:
        """W of what `read` gives."""
        return int(self.model.config.hidden_size) if readout == "hidden" else self.word_vectors.shape[1]

    def start(self) -> list[int]:
        """The tokens that this model wants before every text: its start token, where its tokenizer adds one."""
        first = list(self.tokenizer("a")["input_ids"])[:1]
        return first if first and first[0] == self.tokenizer.bos_token_id else []

    def tokens(self, label: str) -> list[int]:
        """The label's own tokens, without start and end.

        Raises:
            ModelError: the tokenizer makes nothing of it.
        """
        ids = list(self.tokenizer(label, add_special_tokens=False, verbose=False)["input_ids"])
        if not ids:
            raise ModelError(f"the tokenizer of {self.name!r} makes no token of the label {label!r}")
        return ids

    def continuation(self, text: str) -> list[int]:
        """The tokens of a text that goes on after a word, such as "is a" after a label.

        (With the space before it, which many tokenizers make part of the token.)
        """
        word = self.tokens("a")
        return self.tokens(f"a {text}")[len(word) :] if text else []

    def read(
        self, vectors: Tensor, *, num_read: int, readout: Readout, layer: int = -1, top_k: int | None = None
    ) -> Tensor:
        """What the model makes of word vectors, at the last places.

        Args:
            vectors: (K, L, W).
            num_read: S.
            readout: "hidden": the states of a layer. "next_word": the mean of all word vectors, weighted by how
                likely each is to come next.
            layer: of "hidden"; -1 is the last, after its norm.
            top_k: of "next_word": only the k likeliest words count, renormalised; None: all.

        Returns:
            (K, S, W) float32.
        """
        vectors = vectors.to(self.word_vectors.dtype)
        if readout == "hidden":
            if layer == -1:
                states = self.model.base_model(inputs_embeds=vectors, use_cache=False).last_hidden_state
            else:
                output = self.model.base_model(inputs_embeds=vectors, use_cache=False, output_hidden_states=True)
                states = output.hidden_states[layer]
            return states[:, -num_read:].float()
        logits = self.model(inputs_embeds=vectors, use_cache=False, logits_to_keep=num_read).logits.float()
        words = self.word_vectors.float()
        if top_k is None:
            return logits.softmax(dim=-1) @ words
        values, tokens = logits.topk(top_k, dim=-1)  # (K, S, k)
        return (values.softmax(dim=-1)[..., None] * words[tokens]).sum(dim=-2)

    @torch.no_grad()
    def answer(self, labels: Sequence[str], *, question: str = "is a", num_tokens: int = 8) -> list[str]:
        """What the model itself says, in words: the likeliest continuation of "LABEL is a", a token at a time.

        The plain alternative to soft attributes. An answer ends at the model's end token, or after `num_tokens`.
        """
        answers = []
        for label in labels:
            ids = [*self.start(), *self.tokens(label), *self.continuation(question)]
            asked = len(ids)
            for _ in range(num_tokens):
                inputs = torch.tensor([ids], device=self.word_vectors.device)
                best = int(self.model(input_ids=inputs, use_cache=False, logits_to_keep=1).logits[0, -1].argmax())
                if best == self.tokenizer.eos_token_id:
                    break
                ids.append(best)
            answers.append(str(self.tokenizer.decode(ids[asked:])).strip())
        return answers
