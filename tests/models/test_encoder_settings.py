"""`EncoderSettings` and its short text form, which is parsed in one place and read back from everything that it is written to."""

from __future__ import annotations

from pathlib import Path

import pytest

from cdgmae.settings.encoder import EncoderSettings, VitSettings, parse_encoder

SHORT_FORMS = {
    "pixels:16": EncoderSettings(pixels=16),
    "random:vit_tiny_patch16_224": EncoderSettings(random="vit_tiny_patch16_224"),
    'random:{"patch_size":8}': EncoderSettings(random=VitSettings(patch_size=8)),
    "vit_base_patch16_224.mae": EncoderSettings(timm="vit_base_patch16_224.mae"),
    "hf-hub:timm/vit_small_patch16_224.dino": EncoderSettings(timm="hf-hub:timm/vit_small_patch16_224.dino"),
    "hf-hub:owner/name@v2": EncoderSettings(timm="hf-hub:owner/name@v2"),
    "local-dir:/data/my-encoder": EncoderSettings(timm="local-dir:/data/my-encoder"),
    "results/pretrain/cdg/seed0/encoder.safetensors": EncoderSettings(
        checkpoint="results/pretrain/cdg/seed0/encoder.safetensors"
    ),
    "vit-s-300ep.pth.tar": EncoderSettings(checkpoint="vit-s-300ep.pth.tar"),
    "folder/without_ending": EncoderSettings(checkpoint="folder/without_ending"),
    '{"checkpoint": "a.pth"}': EncoderSettings(checkpoint="a.pth"),
}


@pytest.mark.parametrize(("text", "settings"), SHORT_FORMS.items(), ids=SHORT_FORMS)
def test_every_short_form_names_one_encoder_and_is_read_back_from_its_text_and_its_json(
    text: str, settings: EncoderSettings
) -> None:
    assert parse_encoder(text) == settings
    assert parse_encoder(settings.text) == settings
    assert parse_encoder(settings.canonical_json()) == settings


def test_a_file_is_preferred_to_every_other_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("weights@1.pth", "plain"):
        Path(name).touch()
    assert parse_encoder("plain") == EncoderSettings(checkpoint="plain")
    assert parse_encoder("weights@1.pth") == EncoderSettings(checkpoint="weights@1.pth")
    assert parse_encoder("vit_tiny@weights@1.pth") == EncoderSettings(timm="vit_tiny", checkpoint="weights@1.pth")


def test_what_a_file_does_not_say_follows_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = parse_encoder("a.pth?key=model_ema&prefix=&num_heads=12")
    assert said == EncoderSettings(checkpoint="a.pth", key="model_ema", prefix="", num_heads=12)
    monkeypatch.chdir(tmp_path)
    for name in ("weights", "odd?key=1"):
        Path(name).touch()
    assert parse_encoder("vit_tiny@weights?key=model/ema") == EncoderSettings(
        timm="vit_tiny", checkpoint="weights", key="model/ema"
    )
    assert parse_encoder("odd?key=1") == EncoderSettings(checkpoint="odd?key=1")


def test_what_is_dumped_is_what_was_given() -> None:
    assert EncoderSettings(run="cdg", seed=2).model_dump() == {"run": "cdg", "seed": 2}
    assert EncoderSettings(checkpoint="a.pth").canonical_json() == '{"checkpoint":"a.pth"}'
    kinds = [EncoderSettings(pixels=8).kind, EncoderSettings(random_like="cdg").kind, EncoderSettings(timm="x").kind]
    assert kinds == ["pixels", "random", "trained"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pixels:0", r"greater than or equal to 1"),
        ("pixels:x", r"behind the colon stands the side of a patch in pixels, e\.g\. pixels:16"),
        ("random:", r"behind the colon stands a timm name, e\.g\. random:vit_small"),
        ("{}", r"name exactly one of run, timm, checkpoint, .*found none"),
        ('{"checkpoint": "a.pth", "pixels": 8}', r"found checkpoint, pixels"),
        ('{"chekpoint": "a.pth"}', r"chekpoint: unknown key; .*did you mean 'checkpoint'"),
        ('{"checkpoint"', r"is not valid JSON"),
        ("a.pth?heads=3", r"behind \? stands KEY=VALUE, joined by &, of key, prefix, num_heads"),
        ("a.pth?num_heads=x", r"num_heads = 'x': input should be a valid integer"),
        ("vit_tiny?key=model", r"key say what lies in a checkpoint file"),
        ('random:{"depth": 0}', r"depth = 0: .*greater than or equal to 1"),
    ],
)  # fmt: skip
def test_what_names_no_encoder_is_refused_in_words(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_encoder(text)
