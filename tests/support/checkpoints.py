"""Small randomly initialised checkpoints in the Hub's format, made by the tests."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    CLIPConfig,
    CLIPModel,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipModel,
)

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,'-"
_TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}


def _tokenizer(end: str = "<|endoftext|>", start: str | None = "<|startoftext|>") -> PreTrainedTokenizerFast:
    """A letter-by-letter tokenizer with CLIP's (or SigLIP's) frame of special tokens."""
    specials = ([start] if start else []) + [end, "<unk>"]
    vocabulary = {token: i for i, token in enumerate(specials + list(LETTERS) + ["▁"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.Replace(" ", "▁")])
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    ends = [(token, vocabulary[token]) for token in specials if token != "<unk>"]
    single = f"{start} $A {end}" if start else f"$A {end}"
    tokenizer.post_processor = processors.TemplateProcessing(single=single, special_tokens=ends)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=start, eos_token=end, pad_token=end, unk_token="<unk>"
    )


def make_clip(folder: Path, *, image_size: int = 32, seed: int = 0, tower: Mapping[str, int] = _TOWER) -> Path:
    """A CLIP with towers of 2 layers."""
    torch.manual_seed(seed)
    tokenizer = _tokenizer()
    config = CLIPConfig(
        text_config=_TOWER
        | dict(tower)
        | {
            "vocab_size": len(tokenizer),
            "max_position_embeddings": 77,
            "eos_token_id": tokenizer.eos_token_id,
            "bos_token_id": tokenizer.bos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        vision_config=_TOWER | dict(tower) | {"image_size": image_size, "patch_size": 8},
        projection_dim=24,
    )
    CLIPModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    processing = {
        "crop_size": {"height": image_size, "width": image_size},
        "do_center_crop": True,
        "do_normalize": True,
        "do_resize": True,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "resample": 3,
        "size": {"shortest_edge": image_size},
        "image_processor_type": "CLIPImageProcessor",
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processing))
    return folder


def make_siglip(folder: Path, *, image_size: int = 32, seed: int = 0) -> Path:
    """A SigLIP with towers of 2 layers."""
    torch.manual_seed(seed)
    tokenizer = _tokenizer(end="</s>", start=None)
    config = SiglipConfig(
        text_config=_TOWER
        | {
            "vocab_size": len(tokenizer),
            "max_position_embeddings": 64,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": None,
            "projection_size": 32,
        },
        vision_config=_TOWER | {"image_size": image_size, "patch_size": 8},
    )
    SiglipModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    processing = {
        "do_normalize": True,
        "do_resize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "resample": 3,
        "size": {"height": image_size, "width": image_size},
        "image_processor_type": "SiglipImageProcessor",
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processing))
    return folder
