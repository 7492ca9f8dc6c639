"""Files damaged at random are read, or refused by one clear error, in bounded memory and time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from damaged_files import KINDS, damaged, make_valid, try_case

from lexivid.media._container import PlainFile
from lexivid.media.audio import read_sound
from lexivid.media.decode import probe, read_views
from lexivid.media.views import Views

ROOT = Path(__file__).parents[2]
NUM_CASES = 3 * len(KINDS)


@pytest.mark.slow
def test_damaged_files_are_read_or_refused(tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    command = [sys.executable, "-m", "benchmarks.fuzz_damaged.measure", "--num-cases", str(NUM_CASES), "--out", out]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL, env=environment)
    result = json.loads(out.read_text())
    assert result["failures"] == []
    assert sum(result["frames"].values()) == sum(result["sound"].values()) == NUM_CASES
    assert result["frames"]["read"] > 20  # the damage is such that there is something to read
    assert result["sound"]["read"] > 40
    assert result["largest_mib"] < 1024
    assert result["longest_sound"][0]["sound_s"] < 120


def test_valid_files_are_read(tmp_path: Path) -> None:
    """What is damaged is whole before."""
    valid = make_valid(tmp_path)
    assert max(map(len, valid.values())) < 2 << 20
    for number, kind in enumerate(KINDS):
        assert damaged(number, valid)[0] == kind
        assert damaged(number, valid) == damaged(number, valid)
        info = probe(tmp_path / kind)
        assert info.has_video or info.has_audio
        if info.has_video:
            assert read_views(tmp_path / kind, Views(num_frames=2)).warnings == ()
        if info.has_audio:
            heard = read_sound(tmp_path / kind)
            assert heard.warnings == ()
            assert 1.9 < len(heard.waveform) / heard.sample_rate_hz < 2.2


def test_a_place_that_no_file_has_is_an_error_to_ffmpeg_and_not_to_python(tmp_path: Path) -> None:
    """What a damaged WMV asks for."""
    path = tmp_path / "a"
    path.write_bytes(b"0123456789")
    file = PlainFile(str(path))
    file.seek(4)
    for offset, whence in ((-1, os.SEEK_SET), (1 << 70, os.SEEK_SET), (-50, os.SEEK_CUR)):
        assert file.seek(offset, whence) < 0
        assert file.tell() == 4
    file.close()


def test_a_second_stream_of_pictures_without_a_decoder_is_no_other_film(tmp_path: Path) -> None:
    """Damage in a program stream announces one: case 1856 of the fuzz."""
    valid = make_valid(tmp_path)
    outcome = try_case(1856, valid, tmp_path)
    assert (outcome.kind, outcome.frames, outcome.failures) == ("mpeg1.mpg", "read", [])
