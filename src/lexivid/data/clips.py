"""Labelled clips and the data set that they make; `lexivid.data.formats` reads them.

Nothing is opened here but lists. A file that a manifest names and that is not there stays in the data set: the loader
counts it and says so. The entries of official lists that are not on disk are counted in `Dataset.missing`, because
parts of such data sets are commonly used.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from lexivid.data.naming import name_clips, spelled_as, unknown_parts
from lexivid.data.recordings import on_both_sides
from lexivid.errors import LexividError
from lexivid.media.files import LeftOut


@dataclass(frozen=True)
class Clip:
    """One labelled piece of a file.

    Args:
        path: the file, video or sound.
        labels: its classes; none for a file that is to be classified.
        split: "train", "val", "test", or what the manifest says.
        start_s, end_s: which part, in seconds from the start of the file; end None: to its end.
        group: clips of one group come from one recording, and must not be on both sides of a split. None: not known.
        synthetic: a captioner's labels beside its own: for training, not all of them true, and no ground truth.
    """

    path: str
    labels: tuple[str, ...]
    split: str = "train"
    start_s: float = 0.0
    end_s: float | None = None
    group: str | None = None
    synthetic: tuple[str, ...] = ()


@dataclass(frozen=True)
class Dataset:
    """Clips and the classes that they show.

    Attributes:
        name: for reports. clips: in a fixed order.
        classes: sorted, every label of the data set; synthetic ones are none.
        missing: entries of an official list that are not on disk (they are no clips here).
        left_out: one line on files in its folders that are no clips; empty where there are none.
        warnings: what to know of it: names that were changed, parts of no known name, recordings on two sides.
        written: each class as a folder or a list writes it -> as it is called here.
    """

    name: str
    clips: tuple[Clip, ...]
    classes: tuple[str, ...]
    missing: tuple[str, ...] = ()
    left_out: str = ""
    warnings: tuple[str, ...] = ()
    written: Mapping[str, str] = field(default_factory=dict, compare=False)

    @property
    def remarks(self) -> tuple[str, ...]:
        """What whoever uses the data should be told: the warnings, and what was left out."""
        return self.warnings + ((self.left_out,) if self.left_out else ())

    @property
    def synthetic(self) -> tuple[str, ...]:
        """Every synthetic label of the clips, sorted. Some may be classes too."""
        return tuple(sorted({label for clip in self.clips for label in clip.synthetic}))

    def select(self, *, split: str | None = None, classes: Iterable[str] | None = None) -> Dataset:
        """The clips of a split, and those all of whose labels are among `classes`, which become the data set's own.

        Raises:
            LexividError: a class that the data set does not have, or no clip is left.
        """
        chosen = self._known(classes)
        indices = set(chosen)
        return self._with((c for c in self.clips if indices.issuperset(c.labels)), split, chosen)

    def restricted(self, classes: Iterable[str], *, split: str | None = None) -> Dataset:
        """The clips of which at least one label is among `classes`, with those labels alone: open-vocabulary training,
        in which a clip may show more than is told. Synthetic labels stay, and keep no clip.

        Raises:
            LexividError: as `select`.
        """
        chosen = self._known(classes)
        allowed = set(chosen)
        restricted_clips = (
            replace(c, labels=tuple(label for label in c.labels if label in allowed)) for c in self.clips
        )
        return self._with((c for c in restricted_clips if c.labels), split, chosen)

    def spelled_as(self, names: Iterable[str]) -> Dataset:
        """The same with classes spelled as in `names`, where case, spacing or Unicode form differ."""
        one = spelled_as((*self.classes, *self.synthetic), names)

        def several(labels: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(dict.fromkeys(one[name] for name in labels))

        clips = tuple(replace(c, labels=several(c.labels), synthetic=several(c.synthetic)) for c in self.clips)
        written = {name: one.get(text, text) for name, text in self.written.items()}
        return replace(self, clips=clips, classes=tuple(sorted(several(self.classes))), written=written)

    def _known(self, classes: Iterable[str] | None) -> tuple[str, ...]:
        chosen = self.classes if classes is None else tuple(spelled_as(classes, self.classes).values())
        if unknown := [name for name in chosen if name not in self.classes]:
            raise LexividError(f"{self.name} has no class {unknown[0]!r}; it has {_some(self.classes)}")
        return chosen

    def _with(self, clips: Iterable[Clip], split: str | None, classes: tuple[str, ...]) -> Dataset:
        clips = tuple(c for c in clips if split is None or c.split == split)
        if not clips:
            splits = sorted({c.split for c in self.clips})
            raise LexividError(f"{self.name} has no clips of split {split!r} and {_some(classes)}; splits: {splits}")
        return replace(self, clips=clips, classes=classes)


def make_dataset(
    name: str,
    clips: Iterable[Clip],
    called: Mapping[str, str],
    looked_for: str,
    *,
    are_folders: bool = False,
    missing: Iterable[str] = (),
    left_out: LeftOut | None = None,
    warnings: Iterable[str] = (),
) -> Dataset:
    """Clips as the data set labels them -> the data set, with classes named (`lexivid.data.naming`) and checked.

    Raises:
        LexividError: no clips; `looked_for` says what was.
    """
    passed_by = str(left_out or "")
    named_clips, name_warnings, written = name_clips(clips, called, are_folders=are_folders)
    if not named_clips:
        raise LexividError(f"{name}: no clips there ({looked_for}{'; ' if passed_by else ''}{passed_by})")
    classes = tuple(sorted({label for c in named_clips for label in c.labels}))
    remarks = (*warnings, *name_warnings, *unknown_parts(named_clips), *on_both_sides(named_clips))
    return Dataset(name, tuple(named_clips), classes, tuple(missing), passed_by, remarks, written)


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
