"""A label database: labels and their vectors in a folder, which grows without any training (OVML).

    labels.json                    which encoder made the vectors, the labels in order, the phrases that were read where
                                   labels are identifiers, the name of the vectors' file
    vectors-DIGEST.safetensors     (K, D) float32, unit length; of prompts also in the few sentences in which labels are
                                   compared with everyday words (`lexivid.scoring.background`)

A label's vector depends on no video and on no other label, so a new class costs one label. labels.json is replaced
last and whole: whoever reads, or is killed while writing, sees the old state or the new one. Several processes may add
at once; each adds to what the others wrote. A label that was renamed keeps the phrase that was read.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor
from torch.nn import functional as F

from lexivid.base.storage import write_atomically
from lexivid.errors import LabelError
from lexivid.labels.encoders.identity import EncoderIdentity, LabelEncoder
from lexivid.labels.identifiers import class_key, words_of
from lexivid.labels.names import Label, check_labels
from lexivid.labels.templates import TemplateSet, load_templates

INDEX_FILE = "labels.json"
EXPORTS = (".txt", ".json", ".npz")
_FORMAT = 2
_LOCK_TIMEOUT_S = 60.0


class Added(NamedTuple):
    """Labels that are new, and labels that were there before."""

    new: list[str]
    known: list[str]


class Match(NamedTuple):
    """A label and its cosine with what was searched for."""

    label: str
    cosine: float


class LabelDatabase:
    """Labels with vectors, all of one encoder. Open one with `open_database` or `create_database`.

    It stands wherever a classifier takes labels: `classifier.classify("clip.mp4", open_database("my-labels"))`.

    Attributes:
        folder: where it lies. encoder: what made the vectors.
        labels: K names, in the order in which they were added. phrases: of each, what the encoder read.
        vectors: (K, D) float32, unit length.
        short: (K, D), the same in `short_templates`; None where there are no sentences.
    """

    def __init__(
        self,
        folder: Path,
        encoder: EncoderIdentity,
        labels: tuple[str, ...],
        vectors: Tensor,
        short: Tensor | None = None,
        *,
        phrases: tuple[str, ...] | None = None,
    ) -> None:
        self.folder, self.encoder, self.labels, self.vectors, self.short = folder, encoder, labels, vectors, short
        self.phrases = labels if phrases is None else phrases

    def __len__(self) -> int:
        return len(self.labels)

    def __iter__(self) -> Iterator[str]:
        return iter(self.labels)

    @property
    def told(self) -> list[Label]:
        """Each label with its phrase."""
        return [Label(name, phrase) for name, phrase in zip(self.labels, self.phrases, strict=True)]

    def describe(self) -> str:
        """For people: where it lies and what made it."""
        return f"label database {str(self.folder)!r} was made by {self.encoder.describe()}"

    def sentences(self, templates: str | Path | TemplateSet | None = None) -> TemplateSet | None:
        """The sentences around its labels; None: a trained label encoder, which needs none.

        templates: that somebody asks for; None: whatever they are.

        Raises:
            LabelError: the database is empty, or its vectors do not come from these sentences.
        """
        if not self.labels:
            raise LabelError(f"label database {str(self.folder)!r} is empty: `lexivid labels add` puts labels there")
        made_with = self.encoder.template_set
        if templates is not None:
            asked = load_templates(templates)
            if made_with is None or asked.templates != made_with.templates:
                raise LabelError(f"{self.describe()}: its vectors do not come from the sentences {asked.name!r}")
        return made_with

    @property
    def digest(self) -> str:
        """Identifies the content: the encoder, the labels in their order, the vectors."""
        digest = hashlib.sha256("\x00".join((self.encoder.fingerprint, *self.labels, *self.phrases)).encode())
        for tensor in (self.vectors, self.short):
            if tensor is not None:
                digest.update(tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()[:32]

    def add(self, labels: str | Iterable[str], encoder: LabelEncoder) -> Added:
        """Add labels; those that are there already cost nothing.

        Args:
            labels: as `check_labels` takes them.
            encoder: the one that made the vectors that are here.

        Raises:
            LabelError: labels that cannot be used, another encoder, or a database that another process keeps busy.
        """
        self._check(encoder.identity)
        names, phrases, _ = check_labels(labels)
        known = self._finder()
        new = [(name, phrase) for name, phrase in zip(names, phrases, strict=True) if known(name) is None]
        shown, fresh = [name for name, _ in new], [phrase for _, phrase in new]
        vectors = encoder.encode(fresh).float().cpu() if fresh else self.vectors[:0]
        short = encoder.encode_short(fresh).float().cpu() if fresh and encoder.encode_short else None
        with self._latest() as newest:
            newest._check(encoder.identity)
            find = newest._finder()
            indices = [i for i, name in enumerate(shown) if find(name) is None]
            self.labels = (*newest.labels, *(shown[i] for i in indices))
            self.phrases = (*newest.phrases, *(fresh[i] for i in indices))
            self.vectors = torch.cat([newest.vectors.view(-1, vectors.shape[1]), vectors[indices]])
            self.short = newest.short
            if short is not None:
                before = short[:0] if newest.short is None else newest.short
                self.short = torch.cat([before, short[indices]])
            self._write()
        added = [shown[i] for i in indices]
        return Added(added, [name for name in names if name not in added])

    def remove(self, labels: str | Iterable[str]) -> list[str]:
        """Take labels out -> their names as they stood here.

        Args:
            labels: as `check_labels` takes them.

        Raises:
            LabelError: a label that is not here (nothing is removed), or a database that another process keeps busy.
        """
        names = check_labels(labels).names
        with self._latest() as newest:
            gone = set(newest._indices(names))
            remaining = [i for i in range(len(newest)) if i not in gone]
            self._take(newest, newest.labels, newest.phrases, remaining)
            self._write()
        return [newest.labels[i] for i in sorted(gone)]

    def rename(self, label: str, name: str) -> str:
        """Show a label under another name -> the name it had. Its vector, and the phrase it was made of, stay.

        Raises:
            LabelError: the label is not here, the name is another label's, or a database that another process keeps
                busy.
        """
        (name,) = check_labels([Label(name, "")]).names
        with self._latest() as newest:
            (index,) = newest._indices(check_labels([label]).names)
            taken = newest._finder()(name)
            if taken not in (None, index):
                raise LabelError(
                    f"{name!r} is a label of {str(self.folder)!r} already: remove one of the two, or choose another "
                    "name"
                )
            before = newest.labels[index]
            labels = (*newest.labels[:index], name, *newest.labels[index + 1 :])
            self._take(newest, labels, newest.phrases, list(range(len(newest))))
            self._write()
        return before

    @contextmanager
    def _latest(self) -> Iterator[LabelDatabase]:
        """What the folder holds now, with what others wrote since; nobody else writes meanwhile."""
        try:
            with FileLock(self.folder / ".lock", timeout=_LOCK_TIMEOUT_S):
                yield open_database(self.folder)
        except Timeout:
            raise LabelError(
                f"label database {str(self.folder)!r} has been busy for {_LOCK_TIMEOUT_S:g} s: another process "
                "writes to it"
            ) from None

    def _take(self, newest: LabelDatabase, labels: Sequence[str], phrases: Sequence[str], indices: list[int]) -> None:
        self.labels, self.phrases = tuple(labels[i] for i in indices), tuple(phrases[i] for i in indices)
        self.vectors = newest.vectors[indices]
        self.short = None if newest.short is None else newest.short[indices]

    def __contains__(self, label: str) -> bool:
        """Whether it is here, in whatever spelling (`class_key`), as a name or as its phrase."""
        return self._finder()(label) is not None

    def _finder(self) -> Callable[[str], int | None]:
        """Name -> its place: as it is spelled, or else any name or phrase with which it shares its key, the first."""
        index_of: dict[str, int] = {}
        for spelled in (self.labels, map(class_key, self.labels), map(class_key, self.phrases)):
            for place, text in enumerate(spelled):
                index_of.setdefault(text, place)

        def find(name: str) -> int | None:
            keys = (name, class_key(name), class_key(words_of([name])[0]))
            return next((index_of[key] for key in keys if key in index_of), None)

        return find

    def select(self, labels: Sequence[str]) -> Tensor:
        """Vectors of some labels, in that order: (n, D).

        Raises:
            LabelError: a label that is not here.
        """
        return self.vectors[self._indices(labels)]

    def only(self, labels: str | Iterable[str]) -> LabelDatabase:
        """Some of the labels, in that order and under the names asked for, to classify with. Nothing is written.

        Args:
            labels: as `check_labels` takes them.

        Raises:
            LabelError: a label that is not here.
        """
        names = check_labels(labels).names
        indices = self._indices(names)
        short = None if self.short is None else self.short[indices]
        phrases = tuple(self.phrases[i] for i in indices)
        return LabelDatabase(self.folder, self.encoder, tuple(names), self.vectors[indices], short, phrases=phrases)

    def also(self, labels: str | Iterable[str] | Mapping[str, str]) -> ExtendedDatabase:
        """The labels of the database and further ones, to classify with. Nothing is written.

        Args:
            labels: as `check_labels` takes them; those that are here already count once.

        Raises:
            LabelError: labels that cannot be used, or a label that has another phrase here.
        """
        names, phrases, _ = check_labels(labels)
        given = [Label(name, phrase) for name, phrase in zip(names, phrases, strict=True)]
        find, more = self._finder(), list[Label]()
        for label in given:
            index = find(label)
            if index is None:
                more.append(label)
            elif class_key(label.phrase) not in (class_key(self.phrases[index]), class_key(self.labels[index])):
                raise LabelError(
                    f"{str(label)!r} is read as {label.phrase!r} here and as {self.phrases[index]!r} in label database "
                    f"{str(self.folder)!r}: give it another name, or leave its phrase out"
                )
        return ExtendedDatabase(self, tuple(more))

    def _indices(self, labels: Sequence[str]) -> list[int]:
        find = self._finder()
        index_of = {label: find(label) for label in labels}
        indices = {label: place for label, place in index_of.items() if place is not None}
        missing = [label for label in labels if label not in indices]
        if missing:
            listed = ", ".join(repr(label[:40]) for label in missing[:5]) + (", ..." if len(missing) > 5 else "")
            verb = "are" if len(missing) > 1 else "is"
            raise LabelError(
                f"{listed} {verb} not in label database {str(self.folder)!r}: `lexivid labels add` puts labels there"
            )
        return [indices[label] for label in labels]

    def search(self, query: str | Tensor, *, top_k: int = 10, encoder: LabelEncoder | None = None) -> list[Match]:
        """The labels nearest to a text or a vector, best first.

        Args:
            query: a text, or a vector (D,), such as a clip's features. A text that is a label here needs no encoder,
                and is not among its own matches.
            top_k: the most matches; 0: all.

        Raises:
            LabelError: a new text without its encoder, another encoder, or a vector of another width.
        """
        index = None
        if isinstance(query, str):
            (text,), (phrase,), _ = check_labels([query])
            if text in self:
                (index,) = self._indices([text])
                vector = self.vectors[index]
            elif encoder is None:
                raise LabelError(
                    f"{text!r} is not a label of {str(self.folder)!r}: its encoder is needed to search for it"
                )
            else:
                self._check(encoder.identity)
                vector = encoder.encode([phrase])[0]
        else:
            vector = query
        if vector.shape != self.vectors.shape[1:]:
            raise LabelError(
                f"a vector of {tuple(vector.shape)} cannot be compared with {tuple(self.vectors.shape[1:])}"
            )
        cosines = self.vectors @ F.normalize(vector.float().cpu(), dim=0)
        best = [int(i) for i in cosines.argsort(descending=True, stable=True) if int(i) != index]
        return [Match(self.labels[i], float(cosines[i])) for i in (best[:top_k] if top_k else best)]

    def export(self, path: Path) -> None:
        """Write to a file: .txt one label a line, .json and .npz with the vectors.

        Raises:
            LexividError: another ending, or a file that cannot be written.
        """
        suffix = path.suffix.lower()
        if suffix == ".txt":
            write_atomically(path, "".join(f"{label}\n" for label in self.labels))
        elif suffix == ".json":
            rows = [{"label": n, "vector": v} for n, v in zip(self.labels, self.vectors.tolist(), strict=True)]
            write_atomically(path, json.dumps({"encoder": self.encoder.to_dict(), "labels": rows}, ensure_ascii=False))
        elif suffix == ".npz":
            import io

            buffer = io.BytesIO()
            np.savez(buffer, labels=np.array(self.labels, dtype=str), vectors=self.vectors.numpy())
            write_atomically(path, buffer.getvalue())
        else:
            raise LabelError(f"{str(path)!r}: a label database is written as {', '.join(EXPORTS)}")

    def _check(self, identity: EncoderIdentity) -> None:
        if identity.fingerprint != self.encoder.fingerprint:
            raise LabelError(
                f"{self.describe()}; vectors of {identity.describe()} cannot stand beside those: make another "
                "database for it"
            )

    def _write(self) -> None:
        from safetensors.torch import save

        tensors = {"vectors": self.vectors.contiguous()}
        if self.short is not None:
            tensors["short"] = self.short.contiguous()
        data = save(tensors)
        name = f"vectors-{hashlib.sha256(data).hexdigest()[:16]}.safetensors"
        write_atomically(self.folder / name, data)
        about = {"format": _FORMAT, "encoder": self.encoder.to_dict(), "vectors": name, "labels": list(self.labels)}
        if Path(self.encoder.model).is_absolute():  # both may move together
            about["model_from_here"] = os.path.relpath(self.encoder.model, self.folder.resolve())
        if self.phrases != self.labels:
            about["phrases"] = list(self.phrases)
        write_atomically(self.folder / INDEX_FILE, json.dumps(about, indent=1, ensure_ascii=False) + "\n")
        for old in self.folder.glob("vectors-*.safetensors"):
            if old.name != name:
                old.unlink(missing_ok=True)


@dataclass(frozen=True)
class ExtendedDatabase:
    """A label database and labels that are not in it, with their phrases; `LabelDatabase.also` makes one."""

    database: LabelDatabase
    more: tuple[Label, ...]

    @property
    def digest(self) -> str:
        """Identifies the content."""
        more = "\x00".join(f"{label}\x01{label.phrase}" for label in self.more)
        return hashlib.sha256(f"{self.database.digest}\x00{more}".encode()).hexdigest()[:32]


LabelsGiven = str | Iterable[str] | Mapping[str, str] | ExtendedDatabase
"""Names, one comma-separated string, names with their phrases, or a label database (with further labels)."""


def _found_beside(encoder: EncoderIdentity, folder: Path, from_here: str | None) -> EncoderIdentity:
    """The folder that made the vectors may have moved together with the database: then its new place counts."""
    if from_here is None or Path(encoder.model).is_dir():
        return encoder
    moved = (folder / from_here).resolve()
    return replace(encoder, model=str(moved)) if moved.is_dir() else encoder


def create_database(folder: str | Path, encoder: LabelEncoder) -> LabelDatabase:
    """An empty database for the vectors of one encoder.

    Raises:
        LabelError: there is one already.
    """
    folder = Path(folder)
    if (folder / INDEX_FILE).exists():
        raise LabelError(f"{str(folder)!r} is a label database already: add to it, or name another folder")
    made = LabelDatabase(folder, encoder.identity, (), torch.zeros(0, 0))
    made._write()
    return made


def open_database(folder: str | Path) -> LabelDatabase:
    """Read a database.

    Raises:
        LabelError: there is none, it is damaged, or another version of Lexivid made it.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    folder = Path(folder)
    if not (folder / INDEX_FILE).is_file():
        raise LabelError(
            f"{str(folder)!r} is no label database ({INDEX_FILE} is missing): `lexivid labels add` makes one"
        )
    for attempt in range(3):
        try:
            about = json.loads((folder / INDEX_FILE).read_text(encoding="utf-8"))
            if about["format"] != _FORMAT:
                raise LabelError(
                    f"label database {str(folder)!r} is of format {about['format']}, this Lexivid reads {_FORMAT}: "
                    "make another with `lexivid labels add`"
                )
            tensors = load((folder / about["vectors"]).read_bytes())
            vectors, short = tensors["vectors"], tensors.get("short")
            labels, encoder = tuple(map(str, about["labels"])), EncoderIdentity.from_dict(about["encoder"])
            encoder = _found_beside(encoder, folder, about.get("model_from_here"))
            phrases = tuple(map(str, about.get("phrases", labels)))
        except LabelError:
            raise
        except FileNotFoundError:  # somebody replaced both files between our two looks
            if attempt < 2:
                continue
            raise LabelError(f"label database {str(folder)!r} is damaged: its vectors are missing") from None
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise LabelError(f"label database {str(folder)!r} is damaged ({type(error).__name__}: {error})") from None
        break
    if (
        vectors.ndim != 2
        or not len(vectors) == len(labels) == len(phrases)
        or (short is not None and short.shape != vectors.shape)
    ):
        raise LabelError(
            f"label database {str(folder)!r} is damaged: {len(labels)} labels and vectors of {tuple(vectors.shape)}"
        )
    return LabelDatabase(folder, encoder, labels, vectors, short, phrases=phrases)
