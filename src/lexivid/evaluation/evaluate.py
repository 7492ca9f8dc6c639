"""`lexivid evaluate`: a run of `lexivid train` or a backbone by name, a data folder, a protocol -> one result file.

The result says how it was made: protocol, prompts, frames, views, split, decoder, clips asked, clips failed, version.
A clip that cannot be read is counted and listed, never replaced.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from lexivid import __version__
from lexivid.backbones import load_backbone
from lexivid.data.cache import ClipCache
from lexivid.data.clips import Clip, Dataset
from lexivid.data.formats import read_dataset
from lexivid.data.recordings import recording_names
from lexivid.data.run_clips import CLIPS_FILE, SPLIT_FILE, RunClips, contents_of, recipe_layout
from lexivid.data.sampling import ClipSamples, SampleSpec
from lexivid.data.splits import ClassSplit
from lexivid.errors import LexividError
from lexivid.evaluation import protocols
from lexivid.evaluation.leave_classes_out import fit_leaving_classes_out
from lexivid.evaluation.report import write_evaluation
from lexivid.labels import check_labels, load_templates
from lexivid.labels.identifiers import class_key
from lexivid.labels.prompt_cache import PromptCache
from lexivid.media.decode import decoder_version
from lexivid.media.views import PAPER_STRIDE, Views, ViewsAsked
from lexivid.models.calibration import DEFAULT_THRESHOLD
from lexivid.models.label_vectors import label_templates, prompt_cache_of
from lexivid.models.serialization import is_trained_model, update_config
from lexivid.models.trained import TrainedModel
from lexivid.scoring.base_novel_offset import fit_offset
from lexivid.scoring.calibration import fit_model_calibrations
from lexivid.scoring.features import collect


def evaluate(
    model: str | Path,
    data: str | Path,
    *,
    protocol: str = "base-novel",
    out: str | Path | None = None,
    views: Views | ViewsAsked | None = None,
    num_audio_views: int | None = None,
    split: str | Path | ClassSplit | None = None,
    part: str | None = "test",
    kind: str | None = None,
    list_number: int | None = None,
    lists: str | Path | None = None,
    names: str | Path | None = None,
    distractors: Sequence[str] = (),
    templates: str | None = None,
    threshold: float = DEFAULT_THRESHOLD,
    device: str = "auto",
    num_workers: int = 2,
    cache: bool = True,
    leave_classes_out: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Measure a model.

    Args:
        model: a run folder of `lexivid train`, or what `lexivid.load` takes.
        data: see `lexivid.data.formats.read_dataset`, with kind, list_number, lists and names; what is None of these is
            as the run's recipe says. Another kind than the recipe's takes none of its lists.
        protocol: see `lexivid.evaluation.protocols`.
        out: a folder for `<protocol>.json`, `<protocol>.html` (a report), `<protocol>-predictions.csv` (a row for each
            clip) and the collected features; None: nothing is written.
        views: None: 16 frames over the whole file for a backbone; as it was trained for a run. What `ViewsAsked` does
            not name is that, too.
        num_audio_views: None: as many as `views` has.
        split: base and novel classes, a JSON file; None: the run's own, or else all classes as novel ones.
        part: which clips of the data ("test"); where it has none of that name, all of them, which the result says.
        distractors: more names in every vocabulary.
        templates: sentences around labels; None: the run's, or what suits the backbone.
        threshold: of "multi-label": from which probability on a label is said to hold.
        leave_classes_out: for "calibrate": train so many models that leave classes out
            (`lexivid.evaluation.leave_classes_out`); 0: the run's own held-out clips, which is quick, and blind where
            the novel head was trained.

    Raises:
        LexividError: the model, the data, the split or the protocol cannot be used.

    Returns:
        The result, as JSON has it; of "base-novel" and "generalized" with "predictions", a row for each clip: path,
        recording, label, side, prediction, score, score of the right label and its rank, and whether it is right.
    """
    if protocol not in protocols.PROTOCOLS:
        raise LexividError(f"unknown protocol {protocol!r}: choose {', '.join(protocols.PROTOCOLS)}")
    trained = TrainedModel.from_pretrained(model, device=device) if is_trained_model(model) else None
    asked = {"kind": kind, "list_number": list_number, "lists": lists, "names": names}
    layout, from_recipe, warnings = _layout(asked, trained.folder if trained else None)
    dataset = _read(data, layout, from_recipe)
    if protocol == "calibrate" and (trained is None or not Path(model).is_dir()):
        hint = "" if trained is None else f": fetch it by `hf download {model} --local-dir FOLDER`, and name that"
        raise LexividError(f"only a run of `lexivid train` in a folder can be calibrated{hint}")
    backbone = trained.backbone if trained else load_backbone(str(model), device=device)
    record = trained.clips if trained else None
    if trained:
        dataset = dataset.spelled_as(trained.base_classes)
    written = {} if split is None or isinstance(split, ClassSplit) else dataset.written  # of a file that a user wrote
    chosen = _class_split(split, dataset.classes, trained).spelled_as(dataset.classes, written)
    distractors = _others(distractors, chosen.classes)
    several = protocol == "multi-label" or (trained is not None and trained.scales is not None)
    if several and protocol not in ("multi-label", "calibrate"):
        raise LexividError(f"protocol {protocol!r} is of one label a clip; this run has several: use multi-label")
    if protocol == "calibrate":
        assert trained is not None
        files, missing = held_out_clips(record, data, layout)
        clips, which = list(files.held_out), "held out of training"
        if missing:
            which += f" ({missing} of them are no longer there)"
    else:
        if several:
            dataset = dataset.restricted([name for name in chosen.classes if name in dataset.classes])
        clips, which = _clips(dataset.clips, part, set(chosen.classes))
    if isinstance(views, ViewsAsked):
        views = views.on(trained.trained_views) if trained else views.on(Views(), clip_stride=PAPER_STRIDE)
    if trained:
        spec = trained.sample_spec(views, num_audio_views=num_audio_views)
    else:
        spec = SampleSpec.of_views(backbone.images, views or Views())
    classes = trained.base_classes if trained and protocol == "calibrate" else dataset.classes
    samples = ClipSamples(clips, spec, classes=classes, cache=ClipCache() if cache else None, multi_label=several)
    has_encoder = trained is not None and trained.label_encoder is not None
    if has_encoder and templates is not None:
        raise LexividError("this run trained its label encoder, which needs no templates: leave them out")
    prompt_cache = prompt_cache_of(trained) if trained else PromptCache(backbone)
    if trained is not None and templates is None:
        sentences = label_templates(trained)
    else:
        sentences = load_templates(templates or backbone.default_templates)

    def embed(labels: Sequence[str]) -> Tensor:
        return prompt_cache.embed(labels, sentences)

    collected = collect(
        trained or backbone,
        samples,
        classes=classes,
        num_clips=spec.num_clips,
        num_workers=num_workers,
        paths=[clip.path for clip in clips],
        groups=recording_names(clips),
        on_progress=on_progress,
    )
    result: dict[str, Any] = {
        "protocol": protocol,
        "model": str(model),
        "trained": trained is not None,
        "backbone": backbone.name,
        "backbone_fingerprint": backbone.fingerprint,
        "modalities": list(trained.inputs if trained else ("video",)),
        "prompts": None if has_encoder else {"name": sentences.name, "templates": list(sentences.templates)},
        "frames": spec.num_frames,
        "stride": spec.stride,
        "stride_rate": spec.stride_rate,
        "views": {"clips": spec.num_clips, "crops": spec.num_crops, "audio": spec.num_audio_views},
        "flow": spec.flow if "flow" in spec.reads else None,
        "flow_texture": spec.flow_texture and "flow" in spec.reads,
        "data": dataset.name,
        "layout": {key: str(value) if isinstance(value, Path) else value for key, value in layout.items()},
        "clips": which,
        "split": asdict(chosen),
        "distractors": len(distractors),
        "decoder": decoder_version(),
        "clips_asked": len(clips),
        "clips_failed": len(collected.failures),
        "clips_trained_on": _num_trained_on(trained, clips),
        "warnings": [*warnings, *dataset.remarks],
        "failures": [list(pair) for pair in collected.failures],
        "entries_missing": len(dataset.missing),
        "settings": collected.settings,
        "version": __version__,
    }
    if protocol == "calibrate":
        assert trained is not None
        fitted_evidence, reasons = fit_model_calibrations(trained, collected)
        evidence = {path: fitted_one.to_dict() for path, fitted_one in fitted_evidence.items()}
        update_config(model, evidence=evidence, not_fitted=reasons)
        result |= {"evidence": evidence, "not_fitted": reasons}
        if several:
            result["results"] = evidence
        elif leave_classes_out:
            fitted = fit_leaving_classes_out(
                trained,
                files,
                num_models=leave_classes_out,
                device=device,
                num_workers=num_workers,
                on_progress=on_progress,
            )
        else:
            fitted = fit_offset(collected, embed)
        if not several:
            update_config(model, calibration=fitted.to_dict())
            result["results"] = fitted.to_dict()
    elif protocol == "multi-label":
        result["results"] = protocols.multi_label(
            collected, chosen, trained or backbone, prompt_cache=prompt_cache, templates=sentences, threshold=threshold
        )
    elif protocol == "generalized":
        stored = trained.base_novel_offset if trained else None
        result["results"] = protocols.generalized(collected, chosen, embed, calibration=stored, distractors=distractors)
    else:
        result["results"] = protocols.base_novel(collected, chosen, embed, distractors=distractors)
    if "predictions" in result["results"]:
        result["predictions"] = result["results"].pop("predictions")
    if out is not None:
        collected.facts = {key: value for key, value in result.items() if key not in ("results", "predictions")}
        collected.save(Path(out) / f"{protocol}-features.npz")
        protocols.write_result(result, out)
        write_evaluation(result, out)
    return result


def _layout(asked: Mapping[str, Any], run: Path | None) -> tuple[dict[str, Any], list[str], list[str]]:
    """How the data are read: what is asked for, else what the run's recipe says -> (the keyword arguments of
    `read_dataset`, those of them that the recipe gave, what the user should be told).
    """
    layout, taken, warnings = dict(asked), list[str](), list[str]()
    if run is not None:
        try:
            recipe_says = recipe_layout(run)
        except LexividError as error:
            recipe_says = {}
            warnings.append(str(error))
        if layout["kind"] not in (None, recipe_says.get("kind")):
            recipe_says = {"names": recipe_says.get("names")}
        for key, value in recipe_says.items():
            if layout[key] is not None or value is None or value == "auto":
                continue
            if key in ("lists", "names") and not Path(value).exists():
                warnings.append(f"{str(value)!r}, data.{key} of the run's recipe, is not there: say where by --{key}")
                continue
            layout[key] = value
            taken.append(key)
    layout["kind"] = layout["kind"] or "auto"
    return layout, taken, warnings


def _read(data: str | Path, layout: Mapping[str, Any], from_recipe: Sequence[str]) -> Dataset:
    try:
        return read_dataset(data, **layout)
    except LexividError as error:
        if not from_recipe:
            raise
        settings = ", ".join(f"{key} {str(layout[key])!r}" for key in from_recipe)
        raise LexividError(f"{error} (the run's recipe says {settings}; --kind auto: go by what is there)") from None


def _class_split(
    split: str | Path | ClassSplit | None, classes: Sequence[str], trained: TrainedModel | None
) -> ClassSplit:
    if isinstance(split, ClassSplit):
        return split
    if split is not None:
        return ClassSplit.load(split)
    if trained is None:
        return ClassSplit(tuple(classes), (), None, "all classes; the model was trained on none of them")
    if trained.folder is not None and (trained.folder / SPLIT_FILE).is_file():
        return ClassSplit.load(trained.folder / SPLIT_FILE)
    rest = tuple(name for name in classes if name not in trained.base_classes)
    return ClassSplit(trained.base_classes, rest, None, "base classes of the model, the data's others")


def _others(distractors: Sequence[str], classes: Sequence[str]) -> list[str]:
    """Distractors as a model reads them, without those that are classes in another spelling."""
    if not distractors:
        return []
    class_keys = set(map(class_key, classes))
    return [phrase for phrase in check_labels(distractors).phrases if class_key(phrase) not in class_keys]


def _clips(clips: Sequence[Clip], part: str | None, classes: set[str]) -> tuple[list[Clip], str]:
    """The clips to measure, and how the result calls them."""
    of_classes = [clip for clip in clips if classes.intersection(clip.labels)]
    chosen = [clip for clip in of_classes if part is None or clip.split == part]
    if chosen:
        return chosen, part or "all"
    if not of_classes:
        raise LexividError("no clip is of any class of the split: check its names against the data's classes")
    return of_classes, f"all (none of split {part!r})"


def _num_trained_on(trained: TrainedModel | None, clips: Sequence[Clip]) -> int | None:
    """How many of these clips the model was trained on; None: nothing says what it was trained on."""
    if trained is None:
        return 0
    return None if trained.clips is None else trained.clips.num_trained_on(clips)


def held_out_clips(record: RunClips | None, data: str | Path, layout: Mapping[str, Any]) -> tuple[RunClips, int]:
    """A run's clips where they lie now, and how many of those that it kept back are nowhere.

    Raises:
        LexividError: nothing says what the run kept back, it kept nothing, or none of it is there.
    """
    if record is None:
        raise LexividError(
            f"this run does not say which clips it kept back ({CLIPS_FILE} is missing: an earlier Lexivid made it, or "
            "its clips were no files): train again to calibrate"
        )
    if not record.held_out:
        raise LexividError("this run kept no clips back: train with data.held_out above 0 to calibrate")
    now, _ = record.found_in(data, **layout)
    present = contents_of(clip.path for clip in now.held_out)
    kept_back = tuple(clip for clip in now.held_out if clip.path in present)
    if not kept_back:
        raise LexividError(
            f"none of the {len(now.held_out)} clips that this run kept back is in {str(data)!r}, or where it lay in "
            f"training ({record.data}): say where the data of training are"
        )
    return replace(now, held_out=kept_back), len(now.held_out) - len(kept_back)
