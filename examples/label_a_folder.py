"""Label every film of a folder: python label_a_folder.py FOLDER rows.csv "surfing, playing chess" """

import csv
import sys
from pathlib import Path

import lexivid
from lexivid.inference.library import classify_library


def main(folder: str, output: str, labels: str, model: str = "lite") -> None:
    classifier = lexivid.load(model)
    vocabulary = classifier.prepare(labels)  # embedded once for all films
    with Path(output).open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "answer", "score", "error"])
        for prediction in classify_library(classifier, [folder], vocabulary):  # a broken film is a row that says why
            best = prediction.labels[0] if prediction.labels else None
            writer.writerow([prediction.path, prediction.answer, best and round(best.score, 3), prediction.error])
            print(prediction)


if __name__ == "__main__":
    main(*sys.argv[1:])
