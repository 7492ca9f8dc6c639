"""What is seen when, as subtitles beside a film: python subtitles.py film.mp4 "surfing, playing chess" """

import sys
from pathlib import Path

import lexivid
from lexivid.inference.output import format_rows


def main(film: str, labels: str, window_s: str = "4", model: str = "lite") -> None:
    classifier = lexivid.load(model)
    prediction = classifier.classify(film, labels, timeline_s=float(window_s))
    for segment in prediction.segments or ():
        print(f"{segment.start_s:7.1f} - {segment.end_s:7.1f} s  {segment.answer}")
    path = Path(film).with_suffix(".vtt")
    path.write_text(format_rows([prediction.to_dict()], "vtt"), encoding="utf-8")
    print(path)


if __name__ == "__main__":
    main(*sys.argv[1:])
