"""The numbers that the MOV paper prints, to stand beside ours: never mixed with them, never taken for a target.

Source: "Multimodal Open-Vocabulary Video Classification via Vision and Language Models", tables 1 to 9 and
figures 1 and 3. Accuracies are top-1 in percent, of the paper's own data (`DATA`): a number measured on other data
differs because the data differ. A cell that the paper leaves empty ("-") is absent here.

    PUBLISHED["table1"]["MOV"]["base"]            75.3
    PUBLISHED["table5"]["Video only"]["VGGSound"] 61.2
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

K700, VGG = "Kinetics-700", "VGGSound"

# What each table is measured on, and what it shows.
DATA: Mapping[str, str] = {
    "table1": K700,
    "table2": VGG,
    "table3": f"{K700} and {VGG}",
    "table4": "UCF101 and HMDB51",
    "table5": f"{K700} and {VGG}",
    "table6": f"{K700} and {VGG}",
    "table7": VGG,
    "table8": f"{K700} and {VGG}",
    "table9": K700,
    "figure1": f"{K700} and {VGG}",
    "figure3": f"{K700} and {VGG}",
}
ABOUT: Mapping[str, str] = {
    "table1": "base, novel and harmonic mean with optical flow (section 4.3; 400 base and 300 novel classes)",
    "table2": "base, novel and harmonic mean with sound (section 4.3; 154 base and 155 novel classes)",
    "table3": "a larger backbone (section 4.3)",
    "table4": "transfer to other data without training on them (section 4.4); 'halves': mean of 10 random halves of "
    "the classes, 'halves std': their standard deviation",
    "table5": "ways of fusing, base classes (section 4.5)",
    "table6": "trainable layers of the flow or audio tower alone, base classes (section 4.5)",
    "table7": "sound alone against networks made for sound (appendix A)",
    "table8": "temperature of the video path, novel classes, beta 0.25, tau_f = tau_a = 0.01 (appendix B)",
    "table9": "novel clips among the novel classes only, and among all 700 classes with every class taken for a novel "
    "one (appendix C)",
}

_TRANSFER = ("UCF101 halves", "UCF101 halves std", "UCF101", "HMDB51 halves", "HMDB51 halves std", "HMDB51")

PUBLISHED: Mapping[str, Mapping[str, Mapping[str, float]]] = {
    "table1": {
        "VATT": {"base": 19.8, "novel": 21.6, "harmonic_mean": 20.7},
        "CLIP": {"base": 51.2, "novel": 56.7, "harmonic_mean": 53.8},
        "CoOp": {"base": 58.9, "novel": 45.7, "harmonic_mean": 51.5},
        "CLIP-Adapter": {"base": 66.5, "novel": 36.2, "harmonic_mean": 46.9},
        "MOV": {"base": 75.3, "novel": 58.1, "harmonic_mean": 65.6},
    },
    "table2": {
        "VATT": {"base": 21.6, "novel": 23.7, "harmonic_mean": 22.6},
        "CLIP": {"base": 48.5, "novel": 48.8, "harmonic_mean": 48.6},
        "CoOp": {"base": 56.9, "novel": 42.0, "harmonic_mean": 48.3},
        "CLIP-Adapter": {"base": 60.0, "novel": 27.5, "harmonic_mean": 37.7},
        "MOV": {"base": 68.4, "novel": 51.5, "harmonic_mean": 58.8},
    },
    "table3": {
        "CLIP ViT-B/16": {f"{K700} base": 51.2, f"{K700} novel": 56.7, f"{VGG} base": 48.5, f"{VGG} novel": 48.8},
        "CLIP ViT-L/14": {f"{K700} base": 59.6, f"{K700} novel": 65.3, f"{VGG} base": 52.6, f"{VGG} novel": 54.1},
        "MOV ViT-B/16": {f"{K700} base": 75.3, f"{K700} novel": 58.1, f"{VGG} base": 68.4, f"{VGG} novel": 51.5},
        "MOV ViT-L/14": {f"{K700} base": 80.1, f"{K700} novel": 66.9, f"{VGG} base": 71.9, f"{VGG} novel": 56.1},
    },
    "table4": {
        name: {column: value for column, value in zip(_TRANSFER, values, strict=True) if value is not None}
        for name, *values in (
            ("GA", 17.3, 1.1, None, 19.3, 2.1, None),
            ("TARN", 19.0, 2.3, None, 19.5, 4.2, None),
            ("CWEGAN", 26.9, 2.8, None, 30.2, 2.7, None),
            ("TS-GCN", 34.2, 3.1, None, 23.2, 3.0, None),
            ("PS-GNN", 36.1, 4.8, None, 25.9, 4.1, None),
            ("E2E", 48.0, None, 37.6, 32.7, None, 26.9),
            ("DASZL", 48.9, 5.8, None, None, None, None),
            ("ER", 51.8, 2.9, None, 35.3, 4.6, None),
            ("ResT", 58.7, 3.3, 40.6, 41.1, 3.7, 34.4),
            ("MIL-NCE", None, None, 29.3, None, None, 10.4),
            ("VideoCLIP", None, None, 22.5, None, None, 11.3),
            ("VATT", None, None, 18.4, None, None, 13.2),
            ("CLIP ViT-B/16", 79.9, 3.8, 73.0, 54.0, 4.1, 46.1),
            ("ActionCLIP ViT-B/16", None, None, 69.5, None, None, 50.5),
            ("X-CLIP ViT-B/16", None, None, 72.0, None, None, 44.6),
            ("MOV ViT-B/16", 82.6, 4.1, 76.2, 60.8, 2.8, 52.1),
            ("MOV ViT-L/14", 87.1, 3.2, 80.9, 64.7, 3.2, 57.8),
        )
    },
    "table5": {
        "Flow or audio only": {K700: 54.2, VGG: 59.5},
        "Video only": {K700: 72.7, VGG: 61.2},
        "Score fusion": {K700: 72.7, VGG: 67.7},
        "Cross-attention": {K700: 75.3, VGG: 68.4},
    },
    "table6": {
        "Last 1 layer": {K700: 30.5, VGG: 40.1},
        "Last 3 layers": {K700: 38.3, VGG: 47.8},
        "Last 6 layers": {K700: 46.0, VGG: 50.8},
        "Last 9 layers": {K700: 51.6, VGG: 57.1},
        "All 12 layers": {K700: 54.2, VGG: 59.5},
    },
    "table7": {
        "Acoustic scene classifier": {VGG: 39.7},
        "Best baseline of VGGSound": {VGG: 51.0},
        "Audio-SlowFast": {VGG: 52.5},
        "MOV": {VGG: 54.6},
    },
    # Rows are tau_v; `video` and `flow or audio` are the two paths alone, which tau_v does not change.
    "table8": {
        tau_v: {
            f"{K700} video": 56.7,
            f"{K700} flow or audio": 30.4,
            K700: kinetics,
            f"{VGG} video": 48.8,
            f"{VGG} flow or audio": 24.8,
            VGG: vggsound,
        }
        for tau_v, kinetics, vggsound in (
            ("0.01", 38.0, 35.7),
            ("0.003", 58.1, 51.5),
            ("0.001", 57.1, 49.5),
            ("0.0003", 56.0, 49.1),
            ("0.0001", 56.4, 49.0),
        )
    },
    "table9": {
        "CLIP": {"original": 56.7, "generalised": 46.0},
        "MOV": {"original": 58.1, "generalised": 46.7},
    },
}

# Figure 1 is a drawing without printed numbers: what its caption says of accuracy while a tower is fine-tuned.
FIGURE1: Mapping[tuple[str, str], Literal["up", "down"]] = {
    ("video", "base"): "up",
    ("video", "novel"): "down",
    ("flow", "base"): "up",
    ("flow", "novel"): "up",
    ("audio", "base"): "up",
    ("audio", "novel"): "up",
}
# Figure 3: the classes that the text (section 4.5) names among the 20 most improved and the 20 most degraded.
FIGURE3: Mapping[str, Mapping[Literal["up", "down"], tuple[str, ...]]] = {
    K700: {"up": ("yawning", "long jump"), "down": ("look in mirror", "geocaching")},
    VGG: {"up": ("people nose blowing", "people laughing"), "down": ("sloshing water", "wind noise")},
}
