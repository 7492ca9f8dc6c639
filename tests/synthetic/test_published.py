"""The paper's numbers as we copied them: against the sentences that repeat them, and against each other."""

from __future__ import annotations

import pytest

from lexivid.metrics.single_label import harmonic_mean
from lexivid.synthetic.reproduce.published import ABOUT, DATA, FIGURE1, K700, PUBLISHED, VGG


@pytest.mark.parametrize("table", ["table1", "table2"])
def test_harmonic_means_follow_from_base_and_novel(table: str) -> None:
    for system, row in PUBLISHED[table].items():
        assert row["harmonic_mean"] == pytest.approx(harmonic_mean(row["base"], row["novel"]), abs=0.1), system


def test_gains_that_the_captions_and_the_text_state() -> None:
    one, two, three, four = (PUBLISHED[f"table{n}"] for n in (1, 2, 3, 4))
    five, seven, eight, nine = (PUBLISHED[f"table{n}"] for n in (5, 7, 8, 9))
    stated = {
        "table 1: surpassing CLIP by 24.1% and 1.4%": [
            (one["MOV"]["base"] - one["CLIP"]["base"], 24.1),
            (one["MOV"]["novel"] - one["CLIP"]["novel"], 1.4),
        ],
        "section 4.3: outperforms CLIP-Adapter by 8.8% on base": [
            (one["MOV"]["base"] - one["CLIP-Adapter"]["base"], 8.8)
        ],
        "table 2: surpassing CLIP by 19.9% and 2.7%": [
            (two["MOV"]["base"] - two["CLIP"]["base"], 19.9),
            (two["MOV"]["novel"] - two["CLIP"]["novel"], 2.7),
        ],
        "section 4.3: MOV still improves 20.5% and 1.6%, and 19.3% and 2.0%": [
            (three["MOV ViT-L/14"][column] - three["CLIP ViT-L/14"][column], gain)
            for column, gain in zip(three["MOV ViT-L/14"], (20.5, 1.6, 19.3, 2.0), strict=True)
        ],
        "section 4.4: 4.2% to 6.7% better on UCF101, 1.6% to 7.5% on HMDB51": [
            (four["MOV ViT-B/16"][column] - four[system][column], gain)
            for system, column, gain in (
                ("X-CLIP ViT-B/16", "UCF101", 4.2),
                ("ActionCLIP ViT-B/16", "UCF101", 6.7),
                ("ActionCLIP ViT-B/16", "HMDB51", 1.6),
                ("X-CLIP ViT-B/16", "HMDB51", 7.5),
            )
        ],
        "section 4.5: score fusion 6.5% on VGGSound, cross-attention 2.6% and 0.7%": [
            (five["Score fusion"][VGG] - five["Video only"][VGG], 6.5),
            (five["Cross-attention"][K700] - five["Score fusion"][K700], 2.6),
            (five["Cross-attention"][VGG] - five["Score fusion"][VGG], 0.7),
        ],
        "table 7: +2.1": [(seven["MOV"][VGG] - seven["Audio-SlowFast"][VGG], 2.1)],
        "table 8: by 20.1% on Kinetics-700 and 15.8% on VGGSound": [
            (eight["0.003"][K700] - eight["0.01"][K700], 20.1),
            (eight["0.003"][VGG] - eight["0.01"][VGG], 15.8),
        ],
        "table 9: +1.4 and +0.7": [
            (nine["MOV"]["original"] - nine["CLIP"]["original"], 1.4),
            (nine["MOV"]["generalised"] - nine["CLIP"]["generalised"], 0.7),
        ],
    }
    for sentence, pairs in stated.items():
        for measured, gain in pairs:
            assert measured == pytest.approx(gain, abs=0.001), sentence


def test_numbers_printed_twice_agree() -> None:
    for system in ("CLIP", "MOV"):
        again = PUBLISHED["table3"][f"{system} ViT-B/16"]
        for table, data in (("table1", K700), ("table2", VGG)):
            for side in ("base", "novel"):
                assert again[f"{data} {side}"] == PUBLISHED[table][system][side]
        assert PUBLISHED["table9"][system]["original"] == PUBLISHED["table1"][system]["novel"]
    assert PUBLISHED["table6"]["All 12 layers"] == PUBLISHED["table5"]["Flow or audio only"]
    assert PUBLISHED["table5"]["Cross-attention"] == {
        data: PUBLISHED[table]["MOV"]["base"] for table, data in (("table1", K700), ("table2", VGG))
    }
    best = PUBLISHED["table8"]["0.003"]
    assert (best[K700], best[f"{K700} video"]) == tuple(PUBLISHED["table1"][s]["novel"] for s in ("MOV", "CLIP"))
    assert (best[VGG], best[f"{VGG} video"]) == tuple(PUBLISHED["table2"][s]["novel"] for s in ("MOV", "CLIP"))


def test_every_table_says_what_it_is_of() -> None:
    assert list(PUBLISHED) == [f"table{n}" for n in range(1, 10)]
    assert set(PUBLISHED) == set(ABOUT) <= set(DATA)
    # Figure 1's caption: only the video tower loses, and only on novel classes.
    assert [key for key, direction in FIGURE1.items() if direction == "down"] == [("video", "novel")]
