"""Which files a user means: paths as named, folders searched for what can be seen or heard.

The one place where endings of media stand. An ending that is known decides; a file with another one, or with none, is
looked at: its first bytes say whether it is media (`_signatures.py`). A file that is named itself is tried whatever it
is called.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from lexivid.media._signatures import HEAD_BYTES, Kind, is_text, kind_of_head

VIDEO_SUFFIXES = frozenset(
    ".264 .265 .266 .3g2 .3gp .3gp2 .3gpp .3gpp2 .amv .apng .asf .avi .divx .dv .dvr-ms .f4v .flv .gif .gxf .h263 "
    ".h264 .h265 .h266 .hevc .insv .ismv .ivf .lrv .m1v .m2p .m2t .m2ts .m2v .m4v .mj2 .mjp2 .mjpeg .mjpg .mk3d .mkv "
    ".mov .mp4 .mp4v .mpe .mpeg .mpg .mpv2 .mxf .nsv .nuv .ogm .ogv .pva .qt .rmvb .tod .tp .trp .vob .vro .vvc .webm "
    ".wmv .wtv .xvid .y4m".split()
)
AUDIO_SUFFIXES = frozenset(
    ".3ga .aa3 .aac .ac3 .adts .aif .aifc .aiff .amr .ape .au .awb .bwf .caf .dsf .dtshd .eac3 .ec3 .f4a .flac .m2a "
    ".m4a .m4b .m4r .mka .mlp .mp1 .mp2 .mp3 .mpa .mpc .mpga .oga .oma .opus .ra .snd .spx .tak .thd .truehd .tta .voc "
    ".w64 .wav .wave .weba .wma .wv".split()
)
# Recordings that share their ending with text: TypeScript and Qt's translations, device trees.
_UNLESS_TEXT: dict[str, Kind] = {".ts": "video", ".mts": "video", ".dts": "sound"}
# Not opened to be looked at: stills, texts, tables, arrays and archives that lie beside clips in great numbers.
_NO_MEDIA = frozenset(
    ".bmp .bz2 .css .csv .doc .docx .gz .htm .html .jpe .jpeg .jpg .js .json .jsonl .log .md .npy .npz .parquet .pdf "
    ".pkl .pt .pth .py .rar .safetensors .srt .tar .tif .tiff .toml .tsv .txt .vtt .xml .xz .yaml .yml .zip".split()
)
# Not whole yet.
_UNFINISHED = frozenset(".!qb .!ut .aria2 .crdownload .download .opdownload .part .partial .temp .tmp".split())
# Folders of systems, cameras and stores, in lower case: bins, thumbnails, snapshots, what macOS puts into archives.
_SYSTEM_FOLDERS = frozenset(
    {
        "$recycle.bin", "recycler", "recycled", "system volume information", "found.000", "lost.dir", "lost+found",
        "network trash folder", "temporary items", "__macosx", "@eadir", "@recycle", "#recycle", "@tmp", "#snapshot",
        "~snapshot",
    }
)  # fmt: skip


@dataclass(frozen=True)
class FoundFile:
    """A file to look at, or a folder that could not be searched (`error` says why)."""

    path: str
    error: str | None = None


@dataclass
class LeftOut:
    """What a search of folders passed by.

    Attributes:
        endings: of files that are neither video nor sound, with how many there are.
        sound: sound files, where only video was asked for. hidden: files and folders whose name begins with a dot.
        unfinished: downloads that are not whole. links: to folders, which could go round in circles.
        unread: files without a known ending whose first bytes cannot be read.
        folders: of the system, by name; what is in them is not counted.
    """

    endings: Counter[str] = field(default_factory=Counter)
    sound: int = 0
    hidden: int = 0
    unfinished: int = 0
    links: int = 0
    unread: int = 0
    folders: Counter[str] = field(default_factory=Counter)

    def add(self, other: LeftOut) -> None:
        self.endings.update(other.endings)
        self.folders.update(other.folders)
        self.sound += other.sound
        self.hidden += other.hidden
        self.unfinished += other.unfinished
        self.links += other.links
        self.unread += other.unread

    def __str__(self) -> str:
        """One line such as "left out: 3 files that are no media (2 .jpg, 1 .ts), 1 hidden"; empty for nothing."""
        parts = []
        if self.endings:
            most = [f"{count} {ending or 'without ending'}" for ending, count in self.endings.most_common(6)]
            more = ", ..." if len(self.endings) > 6 else ""
            total = self.endings.total()
            parts.append(f"{_count(total, 'file that is', 'files that are')} no media ({', '.join(most)}{more})")
        if self.sound:
            parts.append(f"{_count(self.sound, 'sound file', 'sound files')}, which nothing here listens to")
        if self.unfinished:
            parts.append(_count(self.unfinished, "unfinished download", "unfinished downloads"))
        if self.unread:
            parts.append(f"{_count(self.unread, 'file', 'files')} that cannot be read")
        if self.hidden:
            parts.append(f"{self.hidden} hidden")
        if self.links:
            parts.append(_count(self.links, "link to a folder", "links to folders"))
        if self.folders:
            total = self.folders.total()
            parts.append(f"{_count(total, 'system folder', 'system folders')} ({', '.join(sorted(self.folders)[:6])})")
        return f"left out: {', '.join(parts)}" if parts else ""


@dataclass(frozen=True)
class Found:
    """Files in the order in which they were named and found, each once, and what was passed by."""

    files: list[FoundFile]
    left_out: LeftOut


def find_media(paths: Iterable[str | Path], *, sound: bool = False) -> Found:
    """Files as named, and the videos below each folder in alphabetical order, each once.

    Hidden files and folders, folders of the system (bins, thumbnails) and unfinished downloads are left out; links to
    folders are not followed. A folder that is named itself is searched whatever its name.

    Args:
        sound: whether sound files count too: whoever asks can hear.
    """
    left_out = LeftOut()
    seen: dict[str, FoundFile] = {}
    for path in paths:
        for item in _search(path, sound, left_out) if Path(path).is_dir() else [FoundFile(str(path))]:
            seen.setdefault(item.path, item)
    return Found(list(seen.values()), left_out)


def media_below(folder: str | Path, left_out: LeftOut | None = None) -> list[Path]:
    """Videos and sound files below a folder, sorted; what cannot be read is left out.

    Args:
        left_out: is added to.
    """
    files = _below(folder, True, LeftOut() if left_out is None else left_out, [])
    return sorted(Path(path) for path in files)


def is_set_aside(folder_name: str) -> bool:
    """Whether a folder of this name, below one that is searched, holds nothing that a user means."""
    return folder_name.startswith(".") or folder_name.lower() in _SYSTEM_FOLDERS


def kind_of_file(path: str | Path) -> Kind | None:
    """What a file of a folder is, by its ending, or by its first bytes where the ending does not tell; None: no media.

    Raises:
        OSError: it has to be opened, and cannot be.
    """
    ending = Path(path).suffix.lower()
    if ending in VIDEO_SUFFIXES:
        return "video"
    if ending in AUDIO_SUFFIXES:
        return "sound"
    if ending in _NO_MEDIA or ending in _UNFINISHED:
        return None
    head = _head(path)
    kind = kind_of_head(head)
    if kind is None and ending == ".ogg":
        return "sound"
    if kind is None and ending in _UNLESS_TEXT and not is_text(head):
        return _UNLESS_TEXT[ending]  # a recording that begins with damage
    return kind


def _head(path: str | Path) -> bytes:
    """The first bytes of an ordinary file; nothing of a pipe or a device, which are not waited for."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        return os.read(descriptor, HEAD_BYTES) if stat.S_ISREG(os.fstat(descriptor).st_mode) else b""
    finally:
        os.close(descriptor)


def _search(folder: str | Path, sound: bool, left_out: LeftOut) -> Iterator[FoundFile]:
    """The files below a folder, and the reasons for which there are none."""
    failures: list[OSError] = []
    left_out_here = LeftOut()
    any_file = False
    for path in _below(folder, sound, left_out_here, failures):
        any_file = True
        yield FoundFile(path)
    for failure in failures:
        where = str(failure.filename or folder)
        yield FoundFile(where, f"{where}: the folder cannot be read ({failure.strerror}); check its permissions")
    if not any_file and not failures:
        what = "no video or sound files" if sound else "no video files"
        yield FoundFile(
            str(folder), f"{folder}: {what} in this folder" + (f" ({left_out_here})" if str(left_out_here) else "")
        )
    left_out.add(left_out_here)


def _below(folder: str | Path, sound: bool, left_out: LeftOut, failures: list[OSError]) -> Iterator[str]:
    for root, folders, names in os.walk(folder, onerror=failures.append):
        entries = []
        for name in sorted(folders):
            if name.startswith("."):
                left_out.hidden += 1
            elif name.lower() in _SYSTEM_FOLDERS:
                left_out.folders[name] += 1
            else:
                left_out.links += Path(root, name).is_symlink()
                entries.append(name)  # os.walk itself does not follow links
        folders[:] = entries
        for name in sorted(names):
            path = str(Path(root, name))
            ending = Path(name).suffix.lower()
            if name.startswith("."):
                left_out.hidden += 1
                continue
            if ending in _UNFINISHED:
                left_out.unfinished += 1
                continue
            try:
                kind = kind_of_file(path)
            except OSError:
                left_out.unread += 1
                continue
            if kind == "video" or (kind == "sound" and sound):
                yield path
            elif kind == "sound":
                left_out.sound += 1
            else:
                left_out.endings[ending] += 1


def _count(number: int, one: str, several: str) -> str:
    return f"{number:,} {one if number == 1 else several}"
