"""data/splits.py: seeded, stored, disjoint; groups stay whole; nothing depends on the order of clips."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lexivid.data.clips import Clip, Dataset
from lexivid.data.formats import read_dataset
from lexivid.data.recordings import recordings
from lexivid.data.splits import ClassSplit, complementary_splits, hold_out, split_classes, split_in_order
from lexivid.errors import LexividError

NAMES = [f"class {i}" for i in range(10)]


def test_split_is_seeded_and_does_not_depend_on_order() -> None:
    one = split_classes(NAMES, num_base=4, seed=3, source="test")
    assert split_classes(reversed(NAMES), num_base=4, seed=3, source="test") == one
    assert len(one.base) == 4
    assert sorted(one.classes) == NAMES
    assert len({split_classes(NAMES, seed=s).base for s in range(20)}) > 15
    # Stored with results: a change of this draw would silently change what a seed means.
    assert one.base == ("class 1", "class 2", "class 3", "class 9")


def test_split_sizes() -> None:
    assert len(split_classes(NAMES, fraction=0.26).base) == 3
    assert split_classes(NAMES, num_base=10).novel == ()
    for count in (0, 11):
        with pytest.raises(LexividError, match="choose 1 to 10"):
            split_classes(NAMES, num_base=count)


def test_save_and_load(tmp_path: Path) -> None:
    split = split_classes([*NAMES, "跳舞"], seed=1, source="ten and one")
    split.save(tmp_path / "split.json")
    assert ClassSplit.load(tmp_path / "split.json") == split
    (tmp_path / "split.json").write_text('{"base": ["a"], "novel": []}')
    assert ClassSplit.load(tmp_path / "split.json") == ClassSplit(("a",), ())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read"),
        ("[]", "must be JSON with"),
        ('{"base": ["a"]}', "must be JSON with"),
        ('{"base": ["a"], "novel": [], "extra": 1}', "must be JSON with"),
        ('{"base": "abc", "novel": []}', "lists of names"),
        ('{"base": [1], "novel": []}', "strings"),
        ('{"base": [], "novel": ["a"]}', "no base"),
        ('{"base": ["a", "b"], "novel": ["b"]}', "'b' stands twice"),
    ],
)
def test_load_errors(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "split.json").write_text(text)
    with pytest.raises(LexividError, match=message):
        ClassSplit.load(tmp_path / "split.json")


def test_load_missing(tmp_path: Path) -> None:
    with pytest.raises(LexividError, match="does not exist"):
        ClassSplit.load(tmp_path / "none.json")


@pytest.mark.parametrize(("num_classes", "num_pairs"), [(6, 3), (6, 10), (2, 1), (50, 5)])
def test_complementary(num_classes: int, num_pairs: int) -> None:
    names = [f"c{i:02d}" for i in range(num_classes)]
    splits = complementary_splits(names, num_pairs=num_pairs, seed=2)
    assert splits == complementary_splits(reversed(names), num_pairs=num_pairs, seed=2)
    assert len({split.base for split in splits}) == len(splits) == 2 * num_pairs  # all different
    for first, second in zip(splits[::2], splits[1::2], strict=True):
        assert (first.base, first.novel) == (second.novel, second.base)
        assert sorted(first.classes) == names
    for name in names:
        assert sum(name in split.base for split in splits) == num_pairs


def test_complementary_errors() -> None:
    with pytest.raises(LexividError, match="even number"):
        complementary_splits(NAMES[:5], num_pairs=1)
    with pytest.raises(LexividError, match="3 different halvings"):
        complementary_splits(NAMES[:4], num_pairs=4)


def _clips(groups: dict[str, list[int]]) -> list[Clip]:
    """{"a": [3, 2]}: class a has a group of three clips and one of two."""
    return [
        Clip(f"/{label}/{g}/{i}.mp4", (label,), group=f"{label} {g}")
        for label, sizes in groups.items()
        for g, size in enumerate(sizes)
        for i in range(size)
    ]


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(st.sampled_from("abcd"), st.lists(st.integers(1, 5), min_size=1, max_size=8), min_size=1),
    st.floats(0.01, 0.9),
    st.integers(0, 5),
)
def test_hold_out_properties(groups: dict[str, list[int]], fraction: float, seed: int) -> None:
    clips = _clips(groups)
    kept, out = hold_out(clips, fraction=fraction, seed=seed)
    assert sorted(map(repr, kept + out)) == sorted(map(repr, clips))
    assert not {c.group for c in kept} & {c.group for c in out}
    for label, sizes in groups.items():
        gone = sum(c.labels[0] == label for c in out)
        assert gone < sum(sizes)
        assert (gone > 0) == (len(sizes) > 1)
        if gone:  # no further from the share than one group
            assert abs(gone - fraction * sum(sizes)) <= max(sizes)
    shuffled = random.Random(seed).sample(clips, len(clips))
    assert sorted(map(repr, hold_out(shuffled, fraction=fraction, seed=seed)[1])) == sorted(map(repr, out))


def test_hold_out_single_clips() -> None:
    clips = _clips({"a": [20], "b": [20]})
    assert hold_out(clips, fraction=0.2)[1] == []  # one group cannot be divided
    _, out = hold_out(clips, fraction=0.2, by="clip")
    assert [sum(c.labels[0] == label for c in out) for label in "ab"] == [4, 4]
    assert hold_out(clips, fraction=0.2, seed=1, by="clip")[1] != out
    without = [Clip(c.path, c.labels) for c in clips]
    assert [c.path for c in hold_out(without, fraction=0.2)[1]] == [c.path for c in out]  # no group: one of its own
    assert hold_out(clips, fraction=0) == (clips, [])
    with pytest.raises(LexividError, match=r"1\.0"):
        hold_out(clips, fraction=1.0)


def test_hold_out_group_of_two_classes() -> None:
    """A recording that shows two classes is on one side."""
    clips = [Clip(f"/{i}.mp4", ("ab"[i % 2],), group=f"g{i // 4}") for i in range(40)]
    kept, out = hold_out(clips, fraction=0.3)
    assert out
    assert not {c.group for c in kept} & {c.group for c in out}


def test_parts_of_one_file_are_on_one_side() -> None:
    parts = [Clip("m.mp4", ("a",), start_s=k, end_s=k + 1) for k in range(4)]
    assert hold_out(parts, fraction=0.25) == (parts, [])  # nothing else would be left
    several = [replace(clip, path=f"{name}.mp4") for name in "mno" for clip in parts]
    for by in ("group", "clip"):
        for seed in range(5):
            kept, out = hold_out(several, fraction=0.25, seed=seed, by=by)  # type: ignore[arg-type]
            assert len(out) == 4
            assert not {c.path for c in kept} & {c.path for c in out}
    linked = [*several, Clip("./m.mp4", ("b",), group="g"), Clip("z.mp4", ("b",), group="g")]
    assert len(set(recordings(linked))) == 3  # a file, and the group of one of its parts
    done = split_in_order(several, test_fraction=0.25)
    assert {c.path for c in done if c.split == "test"} == {"o.mp4"}
    assert {c.path for c in done if c.split == "train"} == {"m.mp4", "n.mp4"}
    assert all(c.split == "train" for c in split_in_order(parts))


@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 3)), min_size=1, max_size=40),
    st.floats(0.01, 0.9),
    st.integers(0, 3),
)
@settings(max_examples=100, deadline=None)
def test_no_class_loses_all_its_clips_to_groups_of_several(
    told: list[tuple[int, int]], fraction: float, seed: int
) -> None:
    clips = [Clip(f"{i}.mp4", (f"class {c}",), group=f"group {g}") for i, (g, c) in enumerate(told)]
    kept, out = hold_out(clips, fraction=fraction, seed=seed)
    assert {c.labels[0] for c in kept} == {c.labels[0] for c in clips}
    assert not {c.group for c in kept} & {c.group for c in out}
    assert hold_out(clips[::-1], fraction=fraction, seed=seed)[1] == out[::-1]
    ordered = split_in_order(clips, test_fraction=fraction)
    sides = {side: [c for c in ordered if c.split == side] for side in ("train", "test")}
    assert {c.labels[0] for c in sides["train"]} == {c.labels[0] for c in clips}
    assert not {c.group for c in sides["train"]} & {c.group for c in sides["test"]}


def test_class_splits_in_another_spelling() -> None:
    split = ClassSplit(("HorseRace", "surfing"), ("CAFE\u0301",))
    assert split.spelled_as(["horse race", "Café", "golf"]) == ClassSplit(("horse race", "surfing"), ("Café",))
    with pytest.raises(LexividError, match="'Surfing' and 'surfing' stands twice"):
        ClassSplit(("Surfing",), ("surfing",))


@pytest.mark.parametrize("name", ["Playing_Guitar", "playing guitar", "PlayingGuitar", "PLAYING-GUITAR"])
@pytest.mark.parametrize("folder", ["Playing_Guitar", "playing guitar", "PlayingGuitar", "01_playingGuitar"])
def test_a_split_names_folders_as_they_are_on_disk(tmp_path: Path, folder: str, name: str) -> None:
    data = _folders(tmp_path, folder, "02_Surfing" if folder.startswith("0") else "Surfing")
    (tmp_path / "split.json").write_text(json.dumps({"base": [name], "novel": []}))
    split = ClassSplit.load(tmp_path / "split.json").spelled_as(data.classes, data.written)
    assert split.base == ("playing guitar",)
    assert ClassSplit((folder,), ()).spelled_as(data.classes, data.written) == ClassSplit(("playing guitar",), ())


def _folders(root: Path, *names: str, called: dict[str, str] | None = None) -> Dataset:
    for name in names:
        (root / "data" / name).mkdir(parents=True)
        (root / "data" / name / "a.mp4").write_bytes(b"\0\0\0\x18ftypmp42")
    return read_dataset(root / "data", names=called)


def test_a_name_in_a_split_that_may_mean_two_classes_is_refused(tmp_path: Path) -> None:
    data = _folders(tmp_path, "surfing", "waves", "golf", called={"surfing": "kite surfing", "waves": "surfing"})
    assert data.classes == ("golf", "kite surfing", "surfing")
    split = ClassSplit(("WAVES", "kite surfing"), ("Golf",)).spelled_as(data.classes, data.written)
    assert split == ClassSplit(("surfing", "kite surfing"), ("golf",))
    with pytest.raises(
        LexividError, match=r"'surfing' may be 'waves' \(read as 'surfing'\) or 'surfing' \(read as 'kite"
    ):
        ClassSplit(("surfing",), ()).spelled_as(data.classes, data.written)
    with pytest.raises(LexividError, match="'waves' and 'Surfing' are one class of this data"):
        ClassSplit(("waves",), ("Surfing",)).spelled_as(["golf", "surfing"], {"waves": "surfing"})
    with pytest.raises(LexividError, match="'Surfing' and 'surf_ing' stands twice"):
        ClassSplit(("Surfing",), ("surf_ing",))


def test_split_in_order() -> None:
    clips = [Clip(f"/{label}/{i:02d}.ogg", (label,)) for i in reversed(range(8)) for label in "ab"]
    done = split_in_order([*clips, Clip("/c/0.ogg", ("c",), "test")], test_fraction=0.25)
    assert [c.path for c in done[:-1]] == [c.path for c in clips]
    assert {c.path for c in done if c.split == "test"} == {"/a/06.ogg", "/a/07.ogg", "/b/06.ogg", "/b/07.ogg"}
    assert done[-1].split == "train"


def test_a_split_is_written_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "split.json"
    split_classes(NAMES).save(path)
    assert [p.name for p in path.parent.iterdir()] == ["split.json"]
    assert set(json.loads(path.read_text())) == {"base", "novel", "seed", "source"}


def test_clips_of_several_labels_are_held_out_alike() -> None:
    clips = [Clip(f"{i}.mp4", (f"label {i}", "everywhere")) for i in range(50)]
    kept, out = hold_out(clips, fraction=0.2, each_class=False)
    assert len(out) == 10
    assert set(kept) | set(out) == set(clips)
    assert not set(kept) & set(out)
    assert out != hold_out(clips, fraction=0.2, seed=1, each_class=False)[1]
    twice = [Clip(f"{i}.mp4", ("same", "everywhere")) for i in range(50)]
    assert len(hold_out(twice, fraction=0.2)[1]) == 10  # of one class it is the same
