"""Valid files of many kinds: frames, times and durations are ffmpeg's, and random access is reading in order.

The same comparison as benchmarks/fuzz_valid, which looks at more files.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from valid_files import CONTAINERS, EDITS, ENCODERS, RATES, Case, differences, draw, explanation, make, reference


def one_of_each() -> list[int]:
    """Seeds of short files, each with another pair of container and edit."""
    found: dict[tuple[str, str | None], int] = {}
    for seed in range(1000, 3000):
        case = draw(seed)
        if case.seconds <= 2:
            found.setdefault((case.container, case.edit), seed)
    return list(found.values())


SEEDS = one_of_each()


def test_all_kinds_are_among_the_files() -> None:
    cases = [draw(seed) for seed in SEEDS]
    assert {case.container for case in cases} == set(CONTAINERS)
    assert {case.codec for case in cases} == set(ENCODERS)
    assert {case.edit for case in cases} == {*EDITS, None}
    assert {case.rate for case in cases} == set(RATES) - {"1"}
    assert {case.turned for case in cases} == {0, 90, 180, 270}
    assert {case.sound_s for case in cases} == {None, 0.0, 0.4, -0.4}


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_a_valid_file_is_read_as_ffmpeg_reads_it(seed: int, tmp_path: Path) -> None:
    case = draw(seed)
    made = make(case, tmp_path)
    found = differences(made.path, case)
    unexplained = {kind: said for kind, said in found.items() if explanation(case, kind) is None}
    assert unexplained == {}, "\n".join([str(case), *made.commands])


def test_a_difference_is_seen(tmp_path: Path) -> None:
    """The comparison itself, with what ffmpeg shows of another file, and changed in every way."""
    case, slower = Case(0, "mp4", "h264", sound_s=0.0), Case(0, "mkv", "h264", rate="24", size="128x96", sound_s=0.4)
    path, other = make(case, tmp_path).path, make(slower, tmp_path).path
    same = reference(path, sound=True)
    assert differences(path, case, same) == {}
    assert set(differences(path, case, reference(other, sound=True))) == {"frames", "times", "size", "sound"}
    assert same.sound_s
    earlier = (same.sound_s[0] - 1, same.sound_s[1])
    changed = replace(same, frames=255 - same.frames, lengths_s=same.lengths_s * 9, sound_s=earlier)
    assert set(differences(path, case, changed)) == {"picture", "duration", "start", "sound"}
