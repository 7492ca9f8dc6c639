"""Train on a few clips of each class: python train_on_few_clips.py CLIPS RUN film.mp4 "other, words" """

import sys

import lexivid
from lexivid.training import train


def main(clips: str, run: str, film: str, labels: str, *settings: str) -> None:
    train("lite-video-only", clips, run, set=["training.epochs=5", *settings])
    classifier = lexivid.load(run)
    print(f"trained on {', '.join(classifier.trained_on)}")
    print(classifier.classify(film, labels))  # any words, also such as it was not trained on


if __name__ == "__main__":
    main(*sys.argv[1:])
