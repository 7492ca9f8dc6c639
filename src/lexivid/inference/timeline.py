"""Scores of a film's windows -> segments: which label when.

    windows of two hops, as they come --`hop_cells`--> a cell for each hop: the mean of its windows --> segments

A cell is a row of K scores, and a last number: the probability that no label holds, not a number (NaN) if the model
cannot say. Nothing of it grows with the film but the segments. Shapes: K labels, W windows, H hops.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from lexivid.errors import LexividError
from lexivid.inference.prediction import LabelScore, Segment, Vocabulary, ranked
from lexivid.inference.protocol import Film, Question, Scorer, ViewAnswers
from lexivid.models.calibration import says_none

# A window of a timeline advances by half its length, so a frame lies in two windows.
HOPS_PER_WINDOW = 2


def check_window(window_s: float) -> None:
    """Refuse a timeline window that is no length of time, or shorter than 0.1 s.

    Raises:
        LexividError: naming the value.
    """
    if not (math.isfinite(window_s) and window_s >= 0.1):
        raise LexividError(f"a timeline window of {window_s:g} s is too short: 0.1 s is the least")


def segments_of(
    film: Film, scorer: Scorer, question: Question, *, on_progress: Callable[[float, float], None] | None = None
) -> tuple[Segment, ...]:
    """Take all windows of a film, in order -> its segments; the scorer then knows the whole film.

    on_progress: called with (seconds of the film done, seconds in all) after each few windows.
    """

    def answers() -> Iterator[ViewAnswers]:
        num_windows = 0
        for features in film.windows():
            each = scorer.add(features)
            num_windows += len(each.scores)
            if on_progress:
                on_progress(min(num_windows * film.hop_s, film.declared_s), film.declared_s)
            yield each

    cells = hop_cells(answers())
    if question.multi_label:
        return segments_by_label(cells, question.vocabulary, film.hop_s, film.end_s, threshold=question.threshold)
    return join_cells(cells, question.vocabulary, film.hop_s, film.end_s)


def hop_cells(windows: Iterable[ViewAnswers]) -> Iterator[Tensor]:
    """The scores of windows, a few at a time -> a cell (K + 1,) for each hop, the mean of the windows that it is in."""
    before = None
    for window in itertools.chain.from_iterable(map(_cells, windows)):
        yield window if before is None else (before + window) / 2
        before = window
    if before is not None:
        yield before


def _cells(answers: ViewAnswers) -> Tensor:
    """(W, K + 1) float64."""
    scores = answers.scores.double()
    none = torch.full((len(scores),), math.nan) if answers.none_of_these is None else answers.none_of_these
    return torch.cat([scores, none.double()[:, None].cpu()], dim=1)


def join_cells(
    cells: Iterable[Tensor], vocabulary: Vocabulary, hop_s: float, duration_s: float | Callable[[], float]
) -> tuple[Segment, ...]:
    """Adjacent hops of one answer become one segment; the answer is the best label, or "none of these".

    Args:
        cells: of each hop (K + 1,), as they come; none is kept.
        duration_s: of the file; a function: asked when all cells are there.
    """
    runs: list[tuple[int, Tensor]] = []  # where each ends; the sum of its cells
    answer_before = None
    for index, cell in enumerate(cells):
        answer = -1 if says_none(float(cell[-1])) else int(cell[:-1].argmax())
        sums = runs.pop()[1] if answer == answer_before else torch.zeros_like(cell, dtype=torch.float64)
        runs.append((index + 1, sums + cell))
        answer_before = answer
    end_s = duration_s() if callable(duration_s) else duration_s
    segments, start = [], 0
    for end, sums in runs:
        stop_s = end_s if end == runs[-1][0] else min(end * hop_s, end_s)
        mean = sums / (end - start)
        none = None if mean[-1].isnan() else float(mean[-1])
        segments.append(Segment(start * hop_s, stop_s, ranked(mean[:-1], vocabulary), none))
        start = end
    return tuple(segments)


def segments_by_label(
    cells: Iterable[Tensor],
    vocabulary: Vocabulary,
    hop_s: float,
    duration_s: float | Callable[[], float],
    *,
    threshold: float,
) -> tuple[Segment, ...]:
    """Adjacent hops in which a label reaches the threshold become a segment of that label; they may overlap.

    Adjacent hops in which no label does become a segment without labels ("none of these"). In time order, and of those
    that start together the likeliest first. For `cells` and `duration_s` see `join_cells`.
    """
    num_labels = len(vocabulary.labels)
    runs: list[tuple[int, int, int, float]] = []  # label (num_labels: none), start, end, mean
    starts, sums = torch.full((num_labels + 1,), -1), torch.zeros(num_labels + 1, dtype=torch.float64)

    def close(ended: Tensor, end: int) -> None:
        for k in ended.nonzero().flatten().tolist():
            start = int(starts[k])
            runs.append((k, start, end, float(sums[k]) / (end - start)))
        starts[ended] = -1

    num_cells = 0
    for index, cell in enumerate(cells):
        holds, on = cell >= threshold, starts >= 0
        holds[-1] = not holds[:-1].any()
        close(on & ~holds, index)
        begins = holds & ~on
        starts[begins], sums[begins] = index, 0.0
        sums += torch.where(holds, cell, 0.0)
        num_cells = index + 1
    close(starts >= 0, num_cells)
    last_s = duration_s() if callable(duration_s) else duration_s
    segments = []
    for k, start, end, mean in sorted(runs):
        end_s = last_s if end == num_cells else min(end * hop_s, last_s)
        if k < num_labels:
            label = LabelScore(vocabulary.labels[k], mean)
            segments.append(Segment(start * hop_s, end_s, (label,), 1 - mean))
        else:
            segments.append(Segment(start * hop_s, end_s, (), mean))
    return tuple(sorted(segments, key=lambda s: (s.start_s, -s.labels[0].score if s.labels else 0.0)))
