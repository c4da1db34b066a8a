"""Grounded SAM 2 with a tiny stand-in: the packages' own classes, the published file layouts, random weights."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from transformers import BertModel

from riebench.masks import ground
from riebench.masks.cache import CachedMasker, read_masks, write_masks
from riebench.util.errors import PairError, UserError

pytest.importorskip("groundingdino", reason="needs the extra gsam")
pytest.importorskip("sam2", reason="needs the extra gsam")

from riebench.masks import grounding_dino as dino
from riebench.masks import sam
from riebench.masks.dino_bert import DinoBert, random_bert, read_tokenizer, text_encoder
from riebench.masks.grounding_dino import build_detector, caption_of, load_detector, prepare
from riebench.masks.gsam import (
    DETECTOR,
    SEGMENTER,
    TEXT_ENCODER,
    GroundedSAM2,
    GroundedSAM2Files,
    GroundedSAM2Options,
    to_corners,
)
from riebench.masks.sam import build_sam2, load_segmenter
from riebench.standin.masker_weights import bert_vocabulary, write_grounding_dino, write_sam2

OPTIONS = GroundedSAM2Options(short_side=224, long_side=400)
PHRASE = "a red bicycle"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny stand-in, written once."""
    path = tmp_path_factory.mktemp("gsam")
    write_grounding_dino(path, "tiny", 0)
    write_sam2(path, "tiny", 0)
    return path


@pytest.fixture(scope="module")
def masker(folder: Path) -> GroundedSAM2:
    return GroundedSAM2.load(GroundedSAM2Files.in_folder(folder), OPTIONS)


@pytest.fixture(scope="module")
def image() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8)


def change(source: Path, target: Path, **tensors: torch.Tensor | None) -> Path:
    """A copy of a checkpoint with some tensors replaced, added or (None) left out; ``__`` stands for a dot."""
    state = torch.load(source, weights_only=True)["model"]
    for key, value in tensors.items():
        name = key.replace("__", ".")
        if value is None:
            del state[name]
        else:
            state[name] = value
    torch.save({"model": state}, target)
    if source.with_suffix(".json").exists():
        shutil.copy(source.with_suffix(".json"), target.with_suffix(".json"))
    return target


def with_threshold(masker: GroundedSAM2, box_threshold: float) -> GroundedSAM2:
    """The same loaded models with another threshold."""
    options = replace(masker.options, box_threshold=box_threshold)
    return GroundedSAM2(masker.detector, masker.segmenter, masker.fingerprint, options)


# Finding


def test_finds_one_mask_for_each_box(masker: GroundedSAM2, image: NDArray[np.uint8]) -> None:
    boxes = masker.detector.detect(image, PHRASE, 0.35, 224, 400)
    masks = masker.find(image, PHRASE)
    assert masks.dtype == bool
    assert masks.shape == (len(boxes), 96, 128)
    assert len(boxes) > 0
    assert all(0 < mask.mean() < 1 for mask in masks)
    assert 0.05 < masks.mean() < 0.5  # blobs, as the stand-in sets them


def test_boxes_are_the_packages_own(masker: GroundedSAM2, image: NDArray[np.uint8]) -> None:
    inference = pytest.importorskip("groundingdino.util.inference")
    prepared = prepare(image, 224, 400)
    assert masker.detector.detect(image, PHRASE, 0.0, 224, 400).shape == (32, 4)
    for threshold in (0.25, 0.35, 0.4):
        expected, _, _ = inference.predict(masker.detector.model, prepared, PHRASE.upper(), threshold, 0.25, "cpu")
        assert 0 < len(expected) < 32
        assert np.array_equal(masker.detector.detect(image, PHRASE, threshold, 224, 400), expected.numpy())


def test_nothing_found_is_an_error_of_the_pair(masker: GroundedSAM2, image: NDArray[np.uint8]) -> None:
    strict = with_threshold(masker, 0.99)
    assert strict.find(image, PHRASE).shape == (0, 96, 128)
    assert masker.find(image, "  ").shape == (0, 96, 128)
    with pytest.raises(PairError, match="grounded-sam-2 finds no 'a red bicycle'"):
        ground(strict, image, PHRASE)


def test_special_phrases(masker: GroundedSAM2, image: NDArray[np.uint8]) -> None:
    bicycle, front = masker.find(image, PHRASE).any(0), masker.find(image, "foreground").any(0)
    assert ground(masker, image, "#everything").pixels().all()
    assert np.array_equal(ground(masker, image, f"~{PHRASE}").pixels(), ~bicycle)
    assert np.array_equal(ground(masker, image, "the background").pixels(), ~front)
    assert not np.array_equal(bicycle, front)


def test_a_phrase_that_is_too_long_is_an_error_of_the_pair(masker: GroundedSAM2, image: NDArray[np.uint8]) -> None:
    with pytest.raises(PairError, match="tokens, of at most 256"):
        masker.find(image, "a " * 300)


def test_an_output_that_is_not_a_number_is_an_error_of_the_pair(
    folder: Path, tmp_path: Path, image: NDArray[np.uint8]
) -> None:
    path = change(folder / DETECTOR, tmp_path / DETECTOR, feat_map__bias=torch.full((256,), torch.nan))
    with pytest.raises(PairError, match="not a number"):
        load_detector(path, folder / TEXT_ENCODER).detect(image, PHRASE, 0.35, 224, 400)


def test_a_lower_threshold_finds_more(masker: GroundedSAM2, image: NDArray[np.uint8]) -> None:
    wider = with_threshold(masker, 0.25)
    assert masker.options.box_threshold == 0.35
    assert len(wider.find(image, PHRASE)) > len(masker.find(image, PHRASE))


def test_a_picture_is_embedded_once(
    masker: GroundedSAM2, image: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    embedded: list[int] = []
    inner = masker.segmenter.model.forward_image
    monkeypatch.setattr(masker.segmenter.model, "forward_image", lambda x: embedded.append(1) or inner(x))
    other, third = image[::-1].copy(), image[:, ::-1].copy()
    first = masker.find(other, PHRASE)
    masker.find(other, "cat")
    masker.find(third, "cat")
    assert np.array_equal(masker.find(other, PHRASE), first)
    assert len(embedded) == 2
    masker.find(image.transpose(1, 0, 2).copy(), "cat")
    masker.find(third, "cat")
    assert len(embedded) == 4  # two are kept, and the one used last stays


def test_boxes_go_to_sam_in_parts(
    masker: GroundedSAM2, image: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    boxes = np.array([[5, 5, 40, 60], [20, 30, 100, 90], [0, 0, 128, 96]], np.float32)
    together = masker.segmenter.masks(image, boxes)
    monkeypatch.setattr(sam, "BOXES_AT_ONCE", 2)
    assert together.shape == (3, 96, 128)
    assert np.mean(masker.segmenter.masks(image, boxes) != together) < 1e-3


# Input


def test_captions() -> None:
    assert caption_of("  A Red Bicycle ") == "a red bicycle."
    assert caption_of("cat.") == "cat."


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (512, 512, (800, 800)),
        (512, 768, (800, 1200)),
        (768, 512, (1200, 800)),
        (300, 499, (800, 1330)),  # 1330.67, cut off
        (300, 500, (800, 1333)),  # 1333.3
        (300, 600, (666, 1332)),  # 1333 / 2 = 666.5, rounded to even
        (600, 300, (1332, 666)),
        (100, 1000, (133, 1330)),
        (800, 1000, (800, 1000)),
    ],
)
def test_resize_rule(height: int, width: int, expected: tuple[int, int]) -> None:
    assert prepare(np.zeros((height, width, 3), np.uint8), 800, 1333).shape == (3, *expected)


def test_imagenet_normalisation() -> None:
    grey = prepare(np.full((224, 224, 3), 128, np.uint8), 224, 400)
    expected = [(128 / 255 - mean) / std for mean, std in ((0.485, 0.229), (0.456, 0.224), (0.406, 0.225))]
    assert grey[:, 0, 0].tolist() == pytest.approx(expected, rel=1e-5)


def test_boxes_to_corners() -> None:
    boxes = np.array([[0.5, 0.5, 0.2, 0.4], [0.25, 0.75, 0.5, 0.5]], np.float32)
    assert to_corners(boxes, 100, 200).tolist() == [
        pytest.approx([80, 30, 120, 70]),
        pytest.approx([0, 50, 100, 100]),
    ]


@pytest.mark.parametrize("wrong", [{"box_threshold": 1.5}, {"box_threshold": -0.1}, {"short_side": 100}])
def test_options_out_of_range(wrong: dict[str, float]) -> None:
    with pytest.raises(UserError, match=f"{next(iter(wrong))} is "):
        GroundedSAM2Options(**wrong)  # type: ignore[arg-type]


def test_published_defaults() -> None:
    assert GroundedSAM2Options().__dict__ == {
        "box_threshold": 0.35,
        "short_side": 800,
        "long_side": 1333,
        "device": "cpu",
    }


def test_a_device_that_is_not_there(folder: Path) -> None:
    with pytest.raises(UserError, match="device 'tpu' is not on this machine; expected one of: cpu"):
        GroundedSAM2.load(GroundedSAM2Files.in_folder(folder), GroundedSAM2Options(device="tpu"))


# The text encoder


@pytest.fixture(scope="module")
def bert(folder: Path) -> DinoBert:
    torch.manual_seed(0)
    return random_bert(folder / TEXT_ENCODER).eval()


def test_adapter_masks_by_hand(bert: DinoBert) -> None:
    lowest = torch.finfo(torch.float32).min
    padding = torch.tensor([[1, 1, 0]])
    assert bert.get_extended_attention_mask(padding).tolist() == [[[[0, 0, lowest]]]]
    blocks = torch.tensor([[[True, True, False], [True, True, False], [False, False, True]]])
    by_hand = [[0, 0, lowest], [0, 0, lowest], [lowest, lowest, 0]]
    assert bert.get_extended_attention_mask(blocks, (1, 3), "cpu").tolist() == [[by_hand]]
    assert bert.invert_attention_mask(padding).tolist() == [[[[0, 0, lowest]]]]
    assert bert.get_head_mask(None, 3) == [None, None, None]
    with pytest.raises(ValueError, match="2 or 3 dimensions"):
        bert.get_extended_attention_mask(torch.ones(3))
    with pytest.raises(ValueError, match="head masks"):
        bert.get_head_mask(torch.ones(2), 3)


@torch.no_grad()
def test_wrapped_encoder_equals_transformers_own(bert: DinoBert) -> None:
    from groundingdino.models.GroundingDINO.bertwarper import BertModelWarper

    ids = torch.tensor([[101, 110, 120, 130, 102, 0]])
    padding = torch.tensor([[1, 1, 1, 1, 1, 0]])
    own = BertModel.forward(bert, input_ids=ids, attention_mask=padding).last_hidden_state
    wrapped = BertModelWarper(bert_model=bert)
    assert torch.allclose(wrapped(ids, padding)["last_hidden_state"][:, :5], own[:, :5], atol=1e-5)
    # Phrases that are kept apart do not see each other.
    apart = torch.block_diag(torch.ones(3, 3), torch.ones(3, 3)).bool()[None]
    other = ids.clone()
    other[0, 4] = 140
    before, after = (wrapped(x, apart)["last_hidden_state"] for x in (ids, other))
    assert torch.allclose(before[:, :3], after[:, :3], atol=1e-6)
    assert not torch.allclose(before[:, 3], after[:, 3], atol=1e-3)


def test_loading_leaves_transformers_alone(folder: Path) -> None:
    from groundingdino.models.GroundingDINO import groundingdino
    from groundingdino.util import get_tokenlizer

    before = {name: getattr(BertModel, name) for name in dir(BertModel)}
    load_detector(folder / DETECTOR, folder / TEXT_ENCODER)
    assert {name: getattr(BertModel, name) for name in dir(BertModel)} == before
    assert not hasattr(BertModel, "get_head_mask")
    assert groundingdino.get_tokenlizer is get_tokenlizer


def test_works_without_a_network_in_silence_and_only_when_asked(folder: Path) -> None:
    code = f"""
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
import riebench.cli, riebench.masks.gsam
assert not {{"groundingdino", "sam2", "cv2"}} & set(sys.modules)
import socket
def refuse(*a, **k): raise AssertionError("a connection")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
import numpy as np
from riebench.masks.gsam import GroundedSAM2, GroundedSAM2Files, GroundedSAM2Options
options = GroundedSAM2Options(short_side=224, long_side=400)
masker = GroundedSAM2.load(GroundedSAM2Files.in_folder(Path({str(folder)!r})), options)
print(masker.find(np.zeros((64, 64, 3), np.uint8), "cat").any(), masker.detector.model.tokenizer.tokenize("Cat."))
"""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("True ['ca', '##t', '.']\n", "")


def test_vocabulary_has_berts_ids() -> None:
    words = bert_vocabulary(30522)
    assert len(words) == len(set(words)) == 30522
    assert [words[i] for i in (0, 100, 101, 102, 103)] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def test_the_standins_text_encoder_is_a_bert(folder: Path) -> None:
    text = folder / TEXT_ENCODER
    model, info = BertModel.from_pretrained(text, output_loading_info=True, local_files_only=True)
    assert not any(info.values())
    state = torch.load(folder / DETECTOR, weights_only=True)["model"]
    assert all(torch.equal(value, state[f"bert.{key}"]) for key, value in model.state_dict().items())
    assert set(load_file(text / "model.safetensors")) == {key for key in state if key.startswith("bert.")}
    assert read_tokenizer(text)("A cat.")["input_ids"][0] == 101


def test_a_text_encoder_that_cannot_be_read(folder: Path, tmp_path: Path) -> None:
    for number, names in enumerate((["config.json"], ["tokenizer.json", "vocab.txt"])):
        text = shutil.copytree(folder / TEXT_ENCODER, tmp_path / f"{number}")
        for name in names:
            (text / name).unlink()
        with pytest.raises(UserError, match=r"has no config\.json or no tokenizer\.json; get config\.json"):
            load_detector(folder / DETECTOR, text)
        (text / names[0]).write_text("{")
        with pytest.raises(UserError, match="cannot be read"):
            load_detector(folder / DETECTOR, text)


def test_a_vocabulary_is_enough(folder: Path, tmp_path: Path) -> None:
    text = shutil.copytree(folder / TEXT_ENCODER, tmp_path / TEXT_ENCODER)
    (text / "tokenizer.json").unlink()
    assert read_tokenizer(text)("A cat.") == read_tokenizer(folder / TEXT_ENCODER)("A cat.")
    (text / "vocab.txt").write_text("\n".join([*bert_vocabulary(None), "more"]))
    with pytest.raises(UserError, match="has more words than its config"):
        load_detector(folder / DETECTOR, text)


# Checkpoints


def test_checkpoints_load_whole(folder: Path, masker: GroundedSAM2) -> None:
    for path, model in ((DETECTOR, masker.detector.model), (SEGMENTER, masker.segmenter.model)):
        state = torch.load(folder / path, weights_only=True)["model"]
        own = model.state_dict()
        assert own.keys() == state.keys()
        assert all(torch.equal(own[key], state[key]) for key in own)


def test_a_checkpoint_as_published(folder: Path, tmp_path: Path) -> None:
    """With the prefix of a parallel wrapper, and two keys that the package's own loader passes over."""
    state = torch.load(folder / DETECTOR, weights_only=True)["model"]
    extra = {"bert.embeddings.position_ids": torch.arange(512)[None], "label_enc.weight": torch.zeros(2001, 256)}
    torch.save({"model": {f"module.{key}": value for key, value in (state | extra).items()}}, tmp_path / DETECTOR)
    shutil.copy(folder / DETECTOR.replace(".pth", ".json"), tmp_path)
    model = load_detector(tmp_path / DETECTOR, folder / TEXT_ENCODER).model
    assert torch.equal(model.feat_map.weight, state["feat_map.weight"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"feat_map__bias": None}, r"1 missing \(feat_map.bias\)"),
        ({"more__weight": torch.zeros(2)}, r"1 unexpected \(more.weight\)"),
        ({"feat_map__bias": torch.zeros(7)}, r"1 of another shape \(feat_map.bias \(7,\) for \(256,\)\)"),
    ],
)
def test_a_detector_that_does_not_fit(
    folder: Path, tmp_path: Path, changes: dict[str, torch.Tensor | None], message: str
) -> None:
    path = change(folder / DETECTOR, tmp_path / DETECTOR, **changes)
    with pytest.raises(UserError, match=message) as caught:
        load_detector(path, folder / TEXT_ENCODER)
    assert "\n" not in str(caught.value)


def test_a_segmenter_that_does_not_fit(folder: Path, tmp_path: Path) -> None:
    path = change(folder / SEGMENTER, tmp_path / SEGMENTER, no_mem_embed=None, more=torch.zeros(1))
    with pytest.raises(UserError, match=r"1 missing \(no_mem_embed\); 1 unexpected \(more\)"):
        load_segmenter(path)
    path.with_suffix(".json").unlink()  # the published sizes, then
    with pytest.raises(UserError, match=r"missing \(.*, \.\.\.\).* of another shape \("):
        load_segmenter(path)


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (self.path, "w")


@pytest.mark.parametrize("name", [DETECTOR, SEGMENTER])
def test_a_checkpoint_with_code_is_refused(folder: Path, tmp_path: Path, name: str) -> None:
    path, trace = tmp_path / name, tmp_path / "trace"
    torch.save({"model": {"a": torch.zeros(1)}, "args": Payload(str(trace))}, path)
    with pytest.raises(UserError, match="is damaged or holds more than tensors"):
        load_detector(path, folder / TEXT_ENCODER) if name == DETECTOR else load_segmenter(path)
    assert not trace.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no checkpoint .*; get https://dl.fb"),
        (b"PK", "is damaged"),
        ({"a": 1}, "no tens"),
    ],
)
def test_a_checkpoint_that_is_none(tmp_path: Path, content: object, message: str) -> None:
    path = tmp_path / SEGMENTER
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(UserError, match=message):
        load_segmenter(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (DETECTOR, '{"colour": 1}', "colour: Extra inputs"),
        (DETECTOR, "{", "the file: Invalid JSON"),
        (DETECTOR, '{"nheads": 7}', "no detector of these sizes"),
        (SEGMENTER, '{"colour": 1}', "'colour' is not in struct"),
        (SEGMENTER, "{", "is not JSON"),
        (SEGMENTER, '{"image_encoder": {"_target_": "os.system"}}', "sets '_target_'"),
        (SEGMENTER, '{"image_encoder": {"trunk": {"stages": "x"}}}', "no SAM 2 of these sizes"),
    ],
)
def test_sizes_beside_a_checkpoint_are_checked(
    folder: Path, tmp_path: Path, name: str, content: str, message: str
) -> None:
    path = Path(shutil.copy(folder / name, tmp_path))
    path.with_suffix(".json").write_text(content)
    with pytest.raises(UserError, match=message):
        load_detector(path, folder / TEXT_ENCODER) if name == DETECTOR else load_segmenter(path)


def test_a_configuration_that_sam2_does_not_have() -> None:
    with pytest.raises(UserError, match=r"no configuration 'x.yaml'; known: configs/sam2.1/sam2.1_hiera_b\+.yaml"):
        build_sam2("x.yaml")


@pytest.mark.parametrize("package", ["groundingdino.models", "sam2", "cv2"])
def test_a_missing_package_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    for name in [n for n in sys.modules if n.partition(".")[0] == "groundingdino"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=r'SAM2_BUILD_CUDA=0 pip install --no-build-isolation "riebench\[gsam\]"'):
        GroundedSAM2.load(GroundedSAM2Files.in_folder(folder), OPTIONS)


# Stand-ins


def shapes(model: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in model.state_dict().items()}


def names(keys: Iterable[str]) -> set[str]:
    """Keys up to the numbers of layers."""
    return {re.sub(r"\.\d+(?=\.|$)", ".N", key) for key in keys}


def test_the_detector_is_built_as_the_package_builds_it(folder: Path) -> None:
    import groundingdino.config
    from groundingdino.models import build_model
    from groundingdino.util.slconfig import SLConfig

    text = folder / TEXT_ENCODER
    published = Path(groundingdino.config.__file__).parent / "GroundingDINO_SwinT_OGC.py"
    with text_encoder(read_tokenizer(text), random_bert(text)):
        own = build_model(SLConfig.fromfile(str(published)))
    ours = build_detector(dino.DetectorSizes(), text)
    assert shapes(ours) == shapes(own)
    assert str(ours).replace("\n", "") == str(own).replace("\n", "")
    tiny = torch.load(folder / DETECTOR, weights_only=True)["model"]
    assert names(tiny) == names(shapes(own))


def test_sam2_is_built_as_the_package_builds_it(folder: Path) -> None:
    from sam2.build_sam import build_sam2 as package_build

    own, ours = package_build(sam.PUBLISHED, None, "cpu"), build_sam2()
    assert shapes(ours) == shapes(own)
    assert str(ours) == str(own)
    simple = {key: value for key, value in vars(own.sam_mask_decoder).items() if isinstance(value, bool | int | float)}
    simple |= {"training": True}  # ours is put to use when it is loaded
    assert simple.items() <= vars(ours.sam_mask_decoder).items()
    assert simple["dynamic_multimask_via_stability"] is True
    tiny = torch.load(folder / SEGMENTER, weights_only=True)["model"]
    assert names(tiny) == names(shapes(own))


def test_a_seed_makes_the_same_weights(folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    write_grounding_dino(tmp_path, "tiny", 0)
    write_sam2(tmp_path, "tiny", 0)
    assert torch.equal(torch.get_rng_state(), before)
    for name in (DETECTOR, SEGMENTER):
        again, first = (torch.load(place / name, weights_only=True)["model"] for place in (tmp_path, folder))
        assert all(torch.equal(again[key], first[key]) for key in first)
    files, others = GroundedSAM2Files.in_folder(folder), GroundedSAM2Files.in_folder(tmp_path)
    assert files.fingerprint() == others.fingerprint()
    write_sam2(tmp_path, "tiny", 1)
    assert files.fingerprint() != others.fingerprint()


# The cache


class Counting:
    """Says how often it is asked; finds a box for a known phrase."""

    name = "counting"
    fingerprint = "0"

    def __init__(self, threshold: float = 0.35) -> None:
        self.threshold = threshold
        self.asked = 0

    def describe(self) -> dict[str, str | float]:
        return {"box_threshold": self.threshold}

    def find(self, image: NDArray[np.uint8], phrase: str) -> NDArray[np.bool_]:
        self.asked += 1
        masks = np.zeros((2 if phrase == "cat" else 0, *image.shape[:2]), bool)
        masks[:, 1:3, 2:] = True
        return masks


def test_the_cache_asks_once(tmp_path: Path, image: NDArray[np.uint8]) -> None:
    inner = Counting()
    cached = CachedMasker(inner, tmp_path / "masks")
    for phrase in ("cat", "dog"):  # one that is found, one that is not
        asked = inner.asked
        first, second = cached.find(image, phrase), cached.find(image, phrase)
        assert inner.asked == asked + 1
        assert second.dtype == bool
        assert np.array_equal(first, second)
        assert first.shape == second.shape
    assert (cached.name, cached.fingerprint, cached.describe()) == ("counting", "0", {"box_threshold": 0.35})


def test_the_cache_tells_apart_what_matters(tmp_path: Path, image: NDArray[np.uint8]) -> None:
    CachedMasker(Counting(), tmp_path).find(image, "cat")
    other_weights, other_masker = Counting(), Counting()
    other_weights.fingerprint, other_masker.name = "1", "other"
    # The same bytes in another shape are another picture.
    reshaped, changed = image.reshape(128, 96, 3), image.copy()
    changed[0, 0, 0] += 1
    cases = [
        (Counting(), image, "cats"),
        (Counting(), changed, "cat"),
        (Counting(), reshaped, "cat"),
        (Counting(0.25), image, "cat"),
        (other_weights, image, "cat"),
        (other_masker, image, "cat"),
    ]
    for inner, picture, phrase in cases:
        CachedMasker(inner, tmp_path).find(picture, phrase)
        assert inner.asked == 1
    again = Counting()
    CachedMasker(again, tmp_path).find(image, "cat")
    assert again.asked == 0


def test_a_damaged_entry_is_made_again(tmp_path: Path, image: NDArray[np.uint8]) -> None:
    inner = Counting()
    cached = CachedMasker(inner, tmp_path)
    expected = cached.find(image, "cat")
    (entry,) = tmp_path.rglob("*.npz")
    whole = entry.read_bytes()
    flipped = whole[:70] + bytes([whole[70] ^ 255]) + whole[71:]  # in the packed bits
    for damage in (b"", whole[:40], whole[:-10], flipped):
        entry.write_bytes(damage)
        asked = inner.asked
        assert np.array_equal(cached.find(image, "cat"), expected)
        assert inner.asked == asked + 1
        assert entry.read_bytes() == whole
    assert list(tmp_path.rglob("*.part")) == []


def test_an_entry_with_objects_is_not_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", bits=np.array([Payload(str(tmp_path / "trace"))], object), count=1)
    assert read_masks(tmp_path / "a.npz", 4, 4) is None
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("count", [0, 1, 3])
def test_packed_masks_come_back(tmp_path: Path, rng: np.random.Generator, count: int) -> None:
    masks = rng.random((count, 5, 7)) > 0.5
    write_masks(tmp_path / "m" / "a.npz", masks)
    assert np.array_equal(read_masks(tmp_path / "m" / "a.npz", 5, 7), masks)
    assert read_masks(tmp_path / "m" / "a.npz", 50, 70) is None or count == 0


def test_a_cache_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot keep masks in"):
        CachedMasker(Counting(), tmp_path / "file" / "masks")


def test_grounded_sam2_behind_the_cache(masker: GroundedSAM2, image: NDArray[np.uint8], tmp_path: Path) -> None:
    cached = CachedMasker(masker, tmp_path)
    first = cached.find(image, PHRASE)
    assert np.array_equal(cached.find(image, PHRASE), first)
    assert json.loads(json.dumps(cached.describe()))["box_threshold"] == 0.35
    assert len(CachedMasker(with_threshold(masker, 0.25), tmp_path).find(image, PHRASE)) > len(first)
    assert len(list(tmp_path.rglob("*.npz"))) == 2
