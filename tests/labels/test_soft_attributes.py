"""Soft attributes: both frozen models give what transformers gives, gradients pass through them and neither moves."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from checkpoints import make_clip
from language_models import make_gpt2, make_llama
from torch.nn import functional as F

from lexivid.backbones import load_backbone
from lexivid.errors import ModelError
from lexivid.labels.encoders.base import CONFIG_FILE, WEIGHTS_FILE
from lexivid.labels.encoders.language_model import FrozenLanguageModel
from lexivid.labels.encoders.load import load_label_encoder
from lexivid.labels.encoders.soft_attributes import SoftAttributeConfig, SoftAttributeEncoder
from lexivid.labels.encoders.text_encoder import FrozenTextEncoder

LABELS = ["cat", "a dog barking", "playing drums", "ox", "fog"]


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def lm_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    make = {"gpt2": make_gpt2, "llama": make_llama}[request.param]
    return make(tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def language_model(lm_folder: Path) -> FrozenLanguageModel:
    return FrozenLanguageModel.load(str(lm_folder))


@pytest.fixture(scope="module")
def clip(clip_folder: Path) -> FrozenTextEncoder:
    return FrozenTextEncoder(load_backbone(str(clip_folder), device="cpu", dtype="float32"))


def make(language_model: FrozenLanguageModel, clip: FrozenTextEncoder, **settings: object) -> SoftAttributeEncoder:
    torch.manual_seed(0)
    defaults = {"num_prefixes": 3, "num_attributes": 4, "num_heads": 2}
    return SoftAttributeEncoder(language_model, clip, SoftAttributeConfig(**(defaults | settings)))


@pytest.mark.parametrize("kind", ["clip_folder", "siglip_folder"])
def test_without_attributes_the_text_encoder_is_the_backbones(kind: str, request: pytest.FixtureRequest) -> None:
    backbone = load_backbone(str(request.getfixturevalue(kind)), device="cpu", dtype="float32")
    labels = [*LABELS, "x" * 200]  # the last is cut off at the context length
    ours = FrozenTextEncoder(backbone)(labels)
    torch.testing.assert_close(ours, backbone.encode_texts(labels), atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", ["clip_folder", "siglip_folder"])
def test_attributes_that_are_word_vectors_are_words(kind: str, request: pytest.FixtureRequest) -> None:
    backbone = load_backbone(str(request.getfixturevalue(kind)), device="cpu", dtype="float32")
    text = FrozenTextEncoder(backbone)
    ids = torch.tensor([text.tokenizer("red", add_special_tokens=False)["input_ids"]] * 2)
    given = text(["cat", "fish"], text.word_vectors[ids])
    torch.testing.assert_close(given, text(["redcat", "redfish"]), atol=1e-6, rtol=0)  # letters are its tokens
    replaced = text(["cat", "fish"], text.word_vectors[ids], include_label_tokens=False)
    torch.testing.assert_close(replaced, text(["red", "red"]), atol=1e-6, rtol=0)


def test_attributes_leave_long_labels_within_the_context(clip: FrozenTextEncoder) -> None:
    attributes = torch.randn(2, 70, clip.width)  # 77 - start - end leaves 5 letters
    long, cut = clip(["abcdefgh", "abcdexyz"], attributes[:1].expand(2, -1, -1))
    torch.testing.assert_close(long, cut)
    with pytest.raises(ModelError, match="76 soft attributes do not fit"):
        clip(["a"], torch.randn(1, 76, clip.width))


def test_reads_what_transformers_computes(language_model: FrozenLanguageModel) -> None:
    ids = torch.randint(4, 20, (3, 6))
    vectors = language_model.word_vectors[ids]
    truth = language_model.model(input_ids=ids, output_hidden_states=True)
    read = language_model.read(vectors, num_read=2, readout="hidden")
    torch.testing.assert_close(read, truth.hidden_states[-1][:, -2:])
    first = language_model.read(vectors, num_read=6, readout="hidden", layer=1)
    torch.testing.assert_close(first, truth.hidden_states[1])
    expected = truth.logits[:, -2:].softmax(-1) @ language_model.word_vectors
    torch.testing.assert_close(language_model.read(vectors, num_read=2, readout="next_word"), expected)
    every = language_model.read(vectors, num_read=2, readout="next_word", top_k=len(language_model.word_vectors))
    torch.testing.assert_close(every, expected)
    best = language_model.read(vectors, num_read=1, readout="next_word", top_k=1)[:, 0]
    torch.testing.assert_close(best, language_model.word_vectors[truth.logits[:, -1].argmax(-1)])


def test_answers_as_transformers_generates(language_model: FrozenLanguageModel) -> None:
    tokenizer = language_model.tokenizer
    asked = tokenizer("cat is a", return_tensors="pt")["input_ids"]  # with the start token where there is one
    truth = language_model.model.generate(asked, max_new_tokens=5, do_sample=False, pad_token_id=1)
    said = tokenizer.decode(truth[0, asked.shape[1] :], skip_special_tokens=True).strip()
    assert language_model.answer(["cat"], num_tokens=5) == [said]


def test_a_label_does_not_depend_on_its_neighbours(
    language_model: FrozenLanguageModel, clip: FrozenTextEncoder
) -> None:
    encoder = make(language_model, clip)
    together = encoder(LABELS)
    assert together.shape == (5, 24)
    torch.testing.assert_close(together.norm(dim=-1), torch.ones(5))
    torch.testing.assert_close(encoder(LABELS[::-1]), together.flip(0))
    torch.testing.assert_close(torch.cat([encoder([label]) for label in LABELS]), together, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(make(language_model, clip, labels_at_once=1)(LABELS), together, atol=1e-6, rtol=1e-5)
    assert encoder([]).shape == (0, 24)


def test_reading_places(language_model: FrozenLanguageModel, clip: FrozenTextEncoder) -> None:
    """ "is a" is five letters to these models: "all" reads prefixes, label and suffix, but never the start token."""
    ids = torch.tensor([language_model.tokens("cat")])
    seen: list[int] = []
    for settings, expected in (
        ({}, 5),
        ({"num_suffix_vectors": 2}, 7),
        ({"attend": "last"}, 1),
        ({"attend": "all"}, 3 + 3 + 5),
    ):
        encoder = make(language_model, clip, **settings)
        encoder.prompting.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape[1]))
        encoder.attributes(ids)
        assert seen[-1] == expected
    paper = SoftAttributeEncoder(language_model, clip, SoftAttributeConfig.paper(num_heads=2))
    paper.prompting.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape[1]))
    paper.attributes(ids)
    assert seen[-1] == 8 + 3


def test_gradients_pass_both_frozen_models_and_neither_moves(
    language_model: FrozenLanguageModel, clip: FrozenTextEncoder
) -> None:
    encoder = make(language_model, clip, num_suffix_vectors=2)
    encoder.train()
    frozen = {name: value.clone() for name, value in encoder.state_dict().items()}
    target = F.normalize(torch.randn(len(LABELS), 24, generator=torch.Generator().manual_seed(1)), dim=-1)
    optimizer = torch.optim.AdamW([p for p in encoder.parameters() if p.requires_grad], lr=3e-3)
    losses = []
    for step in range(15):
        loss = (1 - (encoder(LABELS) * target).sum(-1)).mean()
        loss.backward()
        if step == 0:
            for name, value in encoder.named_parameters():
                if name.startswith(("language_model.", "text_encoder.")):
                    assert value.grad is None, name
                else:
                    assert value.grad is not None, name
            assert encoder.prefixes.grad is not None
            assert encoder.prefixes.grad.abs().sum(-1).min() > 0
            assert encoder.suffixes.grad is not None
            assert encoder.suffixes.grad.abs().sum(-1).min() > 0
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] - 0.2
    moved = {name for name, value in encoder.state_dict().items() if not torch.equal(value, frozen[name])}
    assert {"prefixes", "suffixes", "prompting.queries"} <= moved
    assert not [name for name in moved if name.startswith(("language_model.", "text_encoder."))]
    assert not language_model.training
    assert not clip.training


def test_what_never_changes_is_asked_for_once(
    language_model: FrozenLanguageModel, clip: FrozenTextEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    read = FrozenLanguageModel.read

    def counted(self: FrozenLanguageModel, vectors: torch.Tensor, **options: object) -> torch.Tensor:
        asked.append(len(vectors))
        return read(self, vectors, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(FrozenLanguageModel, "read", counted)
    for settings, times in (({"num_prefixes": 0}, 1), ({"num_prefixes": 2}, 3)):
        encoder = make(language_model, clip, **settings)
        truth = encoder.eval()(LABELS)
        asked.clear()
        encoder.train()
        for labels in (LABELS[:3], LABELS, LABELS[::-1]):
            out = encoder(labels)
            out.sum().backward()
        torch.testing.assert_close(out, truth.flip(0))
        assert sum(asked) == (len(LABELS) if times == 1 else 3 + 2 * len(LABELS))


def test_soft_attributes_start_at_the_scale_of_words(
    language_model: FrozenLanguageModel, clip: FrozenTextEncoder
) -> None:
    encoder = make(language_model, clip, num_attributes=8)
    ids = torch.tensor([language_model.tokens(word) for word in ("cat", "fog", "sun", "sea", "owl", "bee")])
    ratio = encoder.attributes(ids).std() / clip.word_vectors.std()
    assert 0.7 < ratio < 1.4


def test_memory_is_bounded_by_one_group(language_model: FrozenLanguageModel, clip: FrozenTextEncoder) -> None:
    """What is kept for the backward pass, counted in numbers: with save_memory, next to nothing a label."""
    labels = [a + b for a in "abcdefgh" for b in "ijklmnop"]

    def kept(num: int, *, save_memory: bool) -> tuple[int, torch.Tensor]:
        encoder = make(language_model, clip, labels_at_once=8, save_memory=save_memory)
        numbers: dict[int, int] = {}

        def pack(x: torch.Tensor) -> torch.Tensor:
            numbers[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes() // 4
            held.append(x)
            return x

        held: list[torch.Tensor] = []
        weights = {p.untyped_storage().data_ptr() for p in encoder.parameters()}
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            out = encoder(labels[:num])
        out.sum().backward()
        assert encoder.prefixes.grad is not None
        return sum(size for place, size in numbers.items() if place not in weights), encoder.prefixes.grad

    plain, gradient = kept(64, save_memory=False)
    small, same_gradient = kept(64, save_memory=True)
    torch.testing.assert_close(same_gradient, gradient, atol=1e-6, rtol=1e-4)
    assert small < plain / 50
    assert plain > 3 * kept(16, save_memory=False)[0]  # without, it grows with the labels


def test_saved_and_loaded(
    lm_folder: Path, language_model: FrozenLanguageModel, clip: FrozenTextEncoder, clip_folder: Path, tmp_path: Path
) -> None:
    encoder = make(language_model, clip, num_suffix_vectors=1)
    encoder.save(tmp_path / "run", backbone=str(clip_folder))
    size = (tmp_path / "run" / WEIGHTS_FILE).stat().st_size
    assert (
        size < 4.2 * sum(p.numel() for p in encoder.parameters() if p.requires_grad) + 5000
    )  # no frozen weights in it
    again = load_label_encoder(tmp_path / "run")
    assert again.config == encoder.config
    torch.testing.assert_close(again(LABELS), encoder(LABELS))
    (tmp_path / "run" / WEIGHTS_FILE).write_bytes(b"no")
    with pytest.raises(ModelError, match="holds no trained label encoder that can be read"):
        load_label_encoder(tmp_path / "run")


def test_the_folder_and_the_fingerprint_keep_their_first_names(
    language_model: FrozenLanguageModel, clip: FrozenTextEncoder, clip_folder: Path, tmp_path: Path
) -> None:
    settings = {"readout": "hidden", "layer": 1, "clip_residual": True, "include_label_tokens": False}
    encoder = make(language_model, clip, **settings, save_memory=True)
    encoder.save(tmp_path, backbone=str(clip_folder))
    about = json.loads((tmp_path / CONFIG_FILE).read_text())
    first_names = {
        "num_prefixes": 3, "suffix": "is a", "num_suffix_vectors": 0, "reading": "hidden", "layer": 1, "top_k": None,
        "attend": "suffix", "num_attributes": 4, "num_layers": 2, "num_heads": 2, "mlp_ratio": 4.0, "dropout": 0.0,
        "own_words": False, "beside_clip": True,
    }  # fmt: skip
    assert about["config"] == first_names
    decisive = {"language_model_fingerprint": language_model.fingerprint, "config": first_names}
    digest = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode())
    for name, value in sorted((encoder.trained_state() | clip.state_dict(prefix="clip.")).items()):
        digest.update(name.encode() + value.numpy().tobytes())
    assert about["fingerprint"] == encoder.fingerprint == digest.hexdigest()[:32]
    again = load_label_encoder(tmp_path).config
    assert (again.readout, again.clip_residual, again.include_label_tokens) == ("hidden", True, False)


def test_another_language_model_is_refused(clip: FrozenTextEncoder, clip_folder: Path, tmp_path: Path) -> None:
    folder = make_gpt2(tmp_path / "lm")
    encoder = make(FrozenLanguageModel.load(str(folder)), clip)
    encoder.save(tmp_path / "run", backbone=str(clip_folder))
    make_gpt2(folder, seed=1)
    with pytest.raises(ModelError, match="its weights differ"):
        load_label_encoder(tmp_path / "run")


def test_a_language_model_moves_and_transformers_is_updated(
    clip: FrozenTextEncoder, clip_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither its folder nor a version is what it is: label encoders load, and their databases stay of one encoder."""
    encoder = make(FrozenLanguageModel.load(str(make_gpt2(tmp_path / "lm"))), clip)
    encoder.save(tmp_path / "run", backbone=str(clip_folder))
    (tmp_path / "lm").rename(tmp_path / "elsewhere")
    about = tmp_path / "run" / CONFIG_FILE
    about.write_text(about.read_text().replace(str(tmp_path / "lm"), str(tmp_path / "elsewhere")))
    monkeypatch.setattr("transformers.configuration_utils.__version__", "99.0.0")
    again = load_label_encoder(tmp_path / "run")
    assert again.fingerprint == encoder.fingerprint
    torch.testing.assert_close(again(LABELS), encoder(LABELS))


def test_another_clip_is_refused(language_model: FrozenLanguageModel, tmp_path: Path) -> None:
    folder = make_clip(tmp_path / "clip")
    text = FrozenTextEncoder(load_backbone(str(folder), device="cpu", dtype="float32"))
    make(language_model, text).save(tmp_path / "run", backbone=str(folder))
    make_clip(folder, seed=1)
    with pytest.raises(ModelError, match="was trained with another CLIP"):
        load_label_encoder(tmp_path / "run")


def test_errors_say_what_to_do(language_model: FrozenLanguageModel, clip: FrozenTextEncoder, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"'no-such-model' could not be loaded.*Name a causal language model"):
        FrozenLanguageModel.load("no-such-model")
    with pytest.raises(ModelError, match="give a suffix"):
        SoftAttributeConfig(suffix="")
    with pytest.raises(ModelError, match="makes no token of the label ''"):
        make(language_model, clip)([""])
    with pytest.raises(ModelError, match="num_heads 5 does not divide"):
        make(language_model, clip, num_heads=5)
