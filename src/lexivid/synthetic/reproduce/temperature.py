"""Table 8: the temperature of the frozen video path (eq. 11)."""

from __future__ import annotations

from lexivid.synthetic.reproduce.parts import (
    ABSOLUTE,
    PAPER_DATA,
    RATIOS,
    SIDES,
    WORLD_NAMES,
    Part,
    difference,
    expect,
    expect_sign,
    mark_best,
    row,
)
from lexivid.synthetic.reproduce.plan import OTHER, ZERO_SHOT
from lexivid.synthetic.reproduce.published import DATA, PUBLISHED
from lexivid.synthetic.reproduce.scores import (
    Estimate,
    Scores,
    estimate,
    minus,
    novel,
)
from lexivid.synthetic.world.words import WorldKind


def temperature(scores: Scores) -> list[Part]:
    """Table 8: tau_v at the model's beta, in units of the backbone's temperature and at the paper's numbers."""
    columns = [
        {"key": key, "label": f"{label}, {WORLD_NAMES[kind]}"}
        for kind in SIDES
        for key, label in (
            (f"{kind} v", "frozen video"), (f"{kind} x", OTHER[kind]), (kind, "both")
        )
    ]  # fmt: skip
    clip = {kind: scores.outcomes(kind, ZERO_SHOT) for kind in SIDES}
    single_stream = {}
    for kind in SIDES:
        for key, name in ((f"{kind} v", "v"), (f"{kind} x", OTHER[kind])):
            single_stream[key] = estimate(novel, scores.stream(kind, "mov", name))
    parts = []
    for values, absolute in ((RATIOS, False), (ABSOLUTE, True)):
        rows, expectations, differences = [], [], []
        for value in values:
            both = {kind: scores.outcomes(kind, "mov", tau_v=value, absolute=absolute) for kind in SIDES}
            paper = f"{value:g}" if absolute else f"{value / 100:g}"
            label = f"{value:g}" if absolute else f"{value:g} tau"
            published = _published_temperature(paper) if absolute or value <= 1 else None
            rows.append(
                row(label, "", single_stream | {kind: estimate(novel, both[kind]) for kind in SIDES}, published)
            )
            for kind in SIDES:
                differences.append(
                    difference(
                        f"tau_v = {label}", "CLIP, zero-shot", kind, estimate(minus(novel), both[kind], clip[kind])
                    )
                )
        for kind in SIDES:
            at = dict(zip(values, (r["values"][kind]["value"] for r in rows), strict=True))
            best, worst = max(at, key=at.__getitem__), min(at, key=at.__getitem__)
            change = estimate(
                minus(novel), scores.outcomes(kind, "mov", tau_v=best, absolute=absolute),
                scores.outcomes(kind, "mov", tau_v=worst, absolute=absolute),
            )  # fmt: skip
            unit = "" if absolute else " tau"
            expectations.append(
                expect_sign(
                    f"tau_v matters on novel classes ({WORLD_NAMES[kind]}).", change,
                    reason=f"Best at {best:g}{unit}, worst at {worst:g}{unit}."
                    + (" At these temperatures the frozen tower's probabilities are one-hot already: its cosines lie "
                       "further apart than CLIP's." if absolute else ""),
                )
            )  # fmt: skip
            expectations[-1]["measured"] += f", {best:g}{unit} against {worst:g}{unit} (chosen by this table itself)"
            if not absolute:
                lower, at_tau = (scores.outcomes(kind, "mov", tau_v=ratio) for ratio in (0.3, 1.0))
                flat, sharp = (scores.entropy(kind, "mov", name) for name in ("v", OTHER[kind]))
                expectations.append(
                    expect_sign(
                        f"Lowering tau_v from tau to 0.3 tau helps on novel classes ({WORLD_NAMES[kind]}).",
                        estimate(minus(novel), lower, at_tau),
                        reason=_why_not_lower(kind, flat, sharp, single_stream),
                    )
                )
                inner = values.index(best) not in (0, len(values) - 1)
                expectations.append(
                    expect(
                        "The curve has the paper's shape: too soft is bad, too sharp falls back to CLIP "
                        f"({WORLD_NAMES[kind]}).",
                        inner, f"best at {best:g} tau; the paper's best is 0.3 tau",
                        f"The best is at an end: {best:g} tau.",
                    )
                )  # fmt: skip
        mark_best(rows, "motion")
        parts.append(
            {
                "id": "table8-absolute" if absolute else "table8",
                "title": "Table 8: temperature of the frozen video path, "
                + ("the paper's numbers" if absolute else "in units of the backbone's temperature"),
                "about": "Top-1 accuracy in percent on novel classes at beta 0.25; the other temperatures are the "
                "backbone's own, tau, which is 0.01 in the paper.",
                "columns": columns, "rows": rows, "published_on": DATA["table8"], "differences": differences,
                "expectations": expectations, "notes": [],
            }
        )  # fmt: skip
    return parts


def _why_not_lower(kind: WorldKind, flat: float, sharp: float, single_stream: dict[str, Estimate]) -> str:
    """What was measured about the two paths that the paper's lower tau_v brings into line."""
    other = OTHER[kind]
    text = f"The paper lowers it because P_v is flatter than P_{other[0]}; "
    text += f"at tau they have {flat:.2f} and {sharp:.2f} nats."
    v, x = single_stream[f"{kind} v"].value, single_stream[f"{kind} x"].value
    if x > v:
        text += f" But here the {other} path alone is the better one ({x:.1f} % against {v:.1f} %), "
        text += "and a sharper P_v outvotes it."
    return text


def _published_temperature(tau_v: str) -> dict[str, float]:
    accuracies = PUBLISHED["table8"][tau_v]
    return {
        key: accuracies[f"{PAPER_DATA[kind]}{ending}"]
        for kind in SIDES
        for key, ending in ((f"{kind} v", " video"), (f"{kind} x", " flow or audio"), (kind, ""))
    }
