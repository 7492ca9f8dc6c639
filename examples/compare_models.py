"""Measure models on the same clips: python compare_models.py CLIPS lite RUN ... (the first is compared with)"""

import sys

from lexivid.evaluation.compare import compare, format_comparison


def main(clips: str, *models: str) -> None:
    comparison = compare(models, clips)
    print(format_comparison(comparison, "markdown"))
    for name, result in comparison["results"].items():
        print(f"{name}: {result['clips_failed']} of {result['clips_asked']} clips could not be read")


if __name__ == "__main__":
    main(*sys.argv[1:])
