"""A results dictionary with every part that a report can have. All its numbers are invented: they test the page."""

from __future__ import annotations

import base64
import io
from typing import Any

from lexivid.synthetic.reproduce.published import PUBLISHED

EVIL = "<script>alert('x')</script> & |pipe| `tick` *star* $x$"


def invented_results() -> dict[str, Any]:
    return {
        "title": "Tables and figures of MOV, invented numbers",
        "created": "2026-11-21T15:00:00+00:00",
        "command": "lexivid reproduce all --world --seeds 5 --out world-report",
        "data": "invented numbers of a test (never results)",
        "versions": {"lexivid": "0.1.0", "torch": "2.9.1"},
        "hardware": "2 cores, invented",
        "protocol": {
            "Classes": "40 base, 30 novel, drawn anew for each seed",
            "Clips": "20 training clips and 15 test clips a class; 5,250 asked, 2 failed",
            "Frames": "8 of 32 x 32, one view",
            "Flow": "DIS, 20 pixels to either side",
            "Prompts": ["a video of {}", "a clip that shows {}", "{} in a noisy picture"],
            "Seeds": 5,
        },
        "models": [
            {
                "id": name,
                "word_accuracy": {"shape": 0.712 + shift, "colour": 0.861, "motion": 0.334, "sound": 0.523},
                "chance": {"shape": 0.1, "colour": 0.1, "motion": 0.125, "sound": 0.125},
                "text_variance": {"shape": 0.413, "colour": 0.322, "motion": 0.088, "sound": 0.177},
            }
            for name, shift in (("world", 0.0), ("world-2", 0.031), ("world-3", -0.022))
        ],
        "seconds": {"clips": 312.4, "flow": 208.9, "spectrograms": 4.2, "training of MOV": 1011.0, "evaluation": 77.7},
        "tables": [_main_table(), _fusion_table(), {"id": "table6", "title": "Table 6: trainable layers", "rows": []}],
        "figures": [_curves(), _gains(), _temperature()],
        "pictures": [{"title": "Eight clips of the world", "png": _png(), "alt": "eight coloured squares in two rows"}],
        "failures": [{"what": "novel/0031.mp4", "why": "the decoder gave up: 0 frames"}],
    }


def _cell(value: float, half: float) -> dict[str, Any]:
    spread = (-1.1, -0.4, 0.0, 0.6, 0.9)
    return {
        "value": value,
        "low": value - half,
        "high": value + half,
        "per_seed": [value + half * each for each in spread],
    }


def _row(system: str, modalities: str, values: dict[str, tuple[float, float]], published: Any, **more: Any) -> Any:
    cells = {key: _cell(*value) for key, value in values.items()}
    return {"system": system, "modalities": modalities, "values": cells, "published": dict(published), **more}


def _main_table() -> dict[str, Any]:
    paper = PUBLISHED["table1"]
    return {
        "id": "table1",
        "title": "Table 1: video and optical flow",
        "about": "Top-1 accuracy on base and on novel classes, each among its own classes, and their harmonic mean.",
        "columns": [
            {"key": "base", "label": "base acc."},
            {"key": "novel", "label": "novel acc."},
            {"key": "harmonic_mean", "label": "harmonic mean"},
        ],
        "rows": [
            _row(
                "CLIP",
                "V, T",
                {"base": (44.31, 2.2), "novel": (45.12, 2.7), "harmonic_mean": (44.71, 2.1)},
                paper["CLIP"],
            ),
            _row(
                "Fine-tuned video tower",
                "V, T",
                {"base": (52.43, 3.1), "novel": (43.64, 2.9), "harmonic_mean": (47.65, 2.5)},
                {},
            ),
            _row(
                "MOV",
                "V, F, T",
                {"base": (65.46, 2.4), "novel": (48.57, 2.8), "harmonic_mean": (55.78, 2.3)},
                paper["MOV"],
                best=True,
            ),
        ],
        "published_on": "Kinetics-700",
        "differences": [
            {"of": "MOV", "minus": "CLIP", "column": "base", "value": 21.15, "low": 19.02, "high": 23.28},
            {"of": "MOV", "minus": "CLIP", "column": "novel", "value": 3.45, "low": 1.36, "high": 5.53},
            {
                "of": "Fine-tuned video tower",
                "minus": "CLIP",
                "column": "novel",
                "value": -1.48,
                "low": -4.07,
                "high": 1.11,
            },
        ],
        "expectations": [
            {
                "text": "MOV above CLIP on base by 15 points or more",
                "holds": True,
                "measured": "+21.2 [19.0, 23.3]",
                "reason": "",
            },
            {
                "text": "Fine-tuning the video tower lowers novel",
                "holds": False,
                "measured": "−1.5 [−4.1, 1.1]",
                "reason": "the interval includes zero: three of five seeds fall, two rise",
            },
            {
                "text": "MOV above CoOp on novel",
                "holds": None,
                "measured": "",
                "reason": "CoOp is not part of this run",
            },
        ],
        "notes": ["Every novel class carries a held-out shape, and colours are held out half the time."],
    }


def _fusion_table() -> dict[str, Any]:
    return {
        "id": "table5",
        "title": "Table 5: ways of fusing",
        "about": "Base classes only.",
        "columns": [{"key": "flow", "label": "V + F, base"}, {"key": "audio", "label": "V + A, base"}],
        "rows": [
            {"system": "Flow or audio only", "values": {"flow": _cell(45.2, 1.6), "audio": {"value": float("nan")}}},
            {"system": EVIL, "values": {"flow": {"value": 58.8, "low": None, "high": None}}},
        ],
        "differences": [],
        "expectations": [],
        "notes": [EVIL],
    }


def _curves() -> dict[str, Any]:
    panels = []
    for modality, side, start, slope, direction in (
        ("video", "base", 44.0, 1.0, "up"),
        ("video", "novel", 45.0, -0.6, "down"),
        ("flow", "base", 7.0, 4.2, "up"),
        ("flow", "novel", 7.5, 1.2, "up"),
    ):
        y = [start + slope * epoch * (1 - epoch / 24) for epoch in range(11)]
        series = [
            {
                "name": "mean of 5 seeds, with its 95 % interval",
                "x": list(range(11)),
                "y": y,
                "low": [value - 2 for value in y],
                "high": [value + 2 for value in y],
            },
            {
                "name": "last block only",
                "x": list(range(11)),
                "y": [start + slope * e * 0.4 for e in range(11)],
                "low": None,
                "high": None,
            },
        ]
        panels.append(
            {
                "title": f"{modality}, {side}",
                "x_label": "epoch",
                "y_label": "accuracy, %",
                "series": series,
                "published": direction,
            }
        )
    return {
        "id": "figure1",
        "title": "Figure 1: accuracy while a tower is fine-tuned",
        "about": "One tower alone, base and novel classes.",
        "kind": "lines",
        "panels": panels,
        "expectations": [
            {"text": "flow rises on novel", "holds": True, "measured": "+6.1 [4.0, 8.2]", "reason": ""},
        ],
        "notes": ["Held-out words decide the panel of novel classes."],
    }


def _gains() -> dict[str, Any]:
    names = [
        "red striped circle spinning with a hiss",
        "blue moon going left",
        '"heart" <b> & co',
        "green arrow growing",
    ]
    names += [f"class {index} of a bouncing object with a rising tone" for index in range(5, 13)]
    gains = [31.2, 18.7, 12.5, 6.3, 4.4, 1.0, 0.0, -2.2, -4.0, -6.7, -9.1, -12.9]
    return {
        "id": "figure3",
        "title": "Figure 3: gains and losses by class",
        "kind": "bars",
        "panels": [{"title": "V + F, MOV minus CLIP", "names": names, "values": gains}],
    }


def _temperature() -> dict[str, Any]:
    return {
        "id": "table8-grid",
        "title": "Table 8 with beta beside it",
        "kind": "grid",
        "panels": [
            {
                "title": "novel accuracy",
                "x_label": "beta",
                "x": [0.1, 0.25, 0.5, 1],
                "y_label": "tau_v / tau",
                "y": [3, 1, 0.3, 0.1],
                "values": [[49.4, 45.2, 39.1, 36.0], [45.4, 48.1, 47.9, 36.0], [44.3, 45.0, 46.3, None], [44.2] * 4],
                "marked": [[1, 1]],
                "marked_label": "chosen on the validation classes",
            },
            {
                "title": "MOV minus CLIP",
                "x_label": "beta",
                "x": [0.1, 0.25, 0.5],
                "y_label": "tau_v / tau",
                "y": [3, 1],
                "values": [[5.5, 1.1, -5.2], [1.3, 3.3, 3.9]],
            },
        ],
    }


def _png() -> str:
    from PIL import Image

    image = Image.new("RGB", (320, 160))
    for index in range(8):
        colour = (40 + 25 * index, 200 - 20 * index, 120)
        image.paste(
            colour, (80 * (index % 4) + 4, 80 * (index // 4) + 4, 80 * (index % 4) + 76, 80 * (index // 4) + 76)
        )
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode("ascii")
