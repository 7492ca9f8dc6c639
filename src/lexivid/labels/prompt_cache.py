"""Label vectors: prompt ensemble (MOV paper, section 3.1), computed once and kept in memory and on disk.

labels (K strings) x templates (P sentences) -> encode -> normalise -> mean over P -> normalise -> (K, D).
Vectors are kept one by one under a key of model, templates and label, so that a vocabulary that grows by one label
costs one label. The file is SQLite: safe with several processes, and a killed run loses only its last batch.
"""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lexivid.base.storage import cache_dir
from lexivid.labels.templates import TemplateSet

# Sentences a step: progress is shown, and the disk cache written, this often.
_SENTENCES_PER_STEP = 1_024
# About 200 MB of vectors of width 512. When it is full, half of them are dropped.
_MAX_ROWS = 100_000
_SCHEMA = "CREATE TABLE IF NOT EXISTS vectors (key BLOB PRIMARY KEY, vector BLOB NOT NULL) WITHOUT ROWID"


class TextEncoder(Protocol):
    """What the cache needs of a backbone, or of a label encoder.

    Attributes:
        fingerprint: identifies everything that decides a vector; vectors are kept under it.
    """

    @property
    def fingerprint(self) -> str: ...

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """K sentences -> (K, D) float32, unit length, on the CPU."""
        ...


class PromptCache:
    """The label vectors of one text encoder.

    Args:
        encoder: of the sentences, such as a backbone.
        folder: of the disk cache; None: `lexivid.base.storage.cache_dir()`. Where it cannot be written, vectors stay
            in memory.
        on_disk: False keeps vectors in memory only.
    """

    def __init__(self, encoder: TextEncoder, *, folder: Path | None = None, on_disk: bool = True) -> None:
        self.encoder = encoder
        self.memory: dict[bytes, np.ndarray] = {}
        self.path = (folder or cache_dir()) / "labels.sqlite" if on_disk else None

    def embed(
        self,
        labels: Sequence[str],
        templates: TemplateSet,
        *,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> Tensor:
        """Vectors of K labels, (K, D) float32, unit length.

        on_progress: called with labels done and labels to compute; never called when all are known.
        """
        keys = [self._key(label, templates) for label in labels]
        known = self._load([key for key in keys if key not in self.memory])
        self.memory.update(known)
        missing = [i for i, key in enumerate(keys) if key not in self.memory]
        step = max(1, _SENTENCES_PER_STEP // len(templates.templates))
        for start in range(0, len(missing), step):
            chosen = missing[start : start + step]
            vectors = embed_labels(self.encoder, [labels[i] for i in chosen], templates).numpy()
            fresh = {keys[i]: vector for i, vector in zip(chosen, vectors, strict=True)}
            self.memory.update(fresh)
            self._store(fresh)
            if on_progress:
                on_progress(min(start + step, len(missing)), len(missing))
        return torch.from_numpy(np.stack([self.memory[key] for key in keys]))

    def remember(self, labels: Sequence[str], templates: TemplateSet, vectors: Tensor) -> None:
        """Take vectors (K, D) that somebody else keeps, so that `embed` need not compute them; in memory alone."""
        keys = (self._key(label, templates) for label in labels)
        self.memory.update(zip(keys, vectors.float().cpu().numpy(), strict=True))

    def _key(self, label: str, templates: TemplateSet) -> bytes:
        text = "\x00".join((self.encoder.fingerprint, *templates.templates, label))
        return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=20).digest()

    def _connect(self) -> contextlib.AbstractContextManager[sqlite3.Connection]:
        assert self.path is not None
        self.path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(self.path, timeout=5)
        connection.execute(_SCHEMA)
        return contextlib.closing(connection)

    def _load(self, keys: Sequence[bytes]) -> dict[bytes, np.ndarray]:
        if self.path is None or not keys or not self.path.exists():
            return {}
        try:
            with self._connect() as connection:
                return dict(_select(connection, keys))
        except (sqlite3.Error, OSError):
            return {}  # a cache that cannot be read is an empty one

    def _store(self, vectors: dict[bytes, np.ndarray]) -> None:
        if self.path is None:
            return
        rows = [(key, vector.astype("<f4").tobytes()) for key, vector in vectors.items()]
        try:
            with self._connect() as connection, connection:
                connection.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?)", rows)
                (count,) = connection.execute("SELECT count(*) FROM vectors").fetchone()
                if count > _MAX_ROWS:
                    connection.execute(
                        "DELETE FROM vectors WHERE key IN (SELECT key FROM vectors LIMIT ?)", (count // 2,)
                    )
        except sqlite3.DatabaseError as error:
            if "malformed" in str(error) or "not a database" in str(error):
                self.path.unlink(missing_ok=True)  # damaged: computed again from here on
            else:
                self.path = None
        except OSError:
            self.path = None  # not writable: memory alone


def _select(connection: sqlite3.Connection, keys: Sequence[bytes]) -> Iterable[tuple[bytes, np.ndarray]]:
    for start in range(0, len(keys), 500):
        part = keys[start : start + 500]
        marks = ",".join("?" * len(part))
        query = f"SELECT key, vector FROM vectors WHERE key IN ({marks})"
        for key, vector in connection.execute(query, part):
            yield key, np.frombuffer(vector, dtype="<f4").astype(np.float32)


def embed_labels(encoder: TextEncoder, labels: Sequence[str], templates: TemplateSet) -> Tensor:
    """Prompt ensemble without a cache: (K, D) float32, unit length."""
    sentences = [sentence for label in labels for sentence in templates.fill(label)]
    vectors = F.normalize(encoder.encode_texts(sentences).float(), dim=-1)  # (K * P, D)
    return F.normalize(vectors.view(len(labels), len(templates.templates), -1).mean(1), dim=-1)
