"""Pictures that a user hands in: how each kind of file is read, and what its record says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

import riebench
from riebench.cli import main
from riebench.models.mini import PAIRS
from riebench.pairs import load_pairs, select
from riebench.pairs.edited_images import PicturedPair, pictured
from riebench.pairs.picture_file import read_picture
from riebench.records import Record, read_records
from riebench.util.errors import PairError

(PAIR,) = select(load_pairs(PAIRS), categories=[6], limit=1)


@pytest.fixture
def pixels(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 256, (16, 24, 3)).astype(np.uint8)


def saved(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)  # type: ignore[arg-type]
    return path


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_as_its_exif_says(tmp_path: Path, pixels: np.ndarray, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    read = read_picture(saved(tmp_path / "a.png", Image.fromarray(pixels), exif=exif))
    flipped = pixels[:, ::-1]
    turned = {1: pixels, 2: flipped, 3: np.rot90(pixels, 2), 4: pixels[::-1], 5: np.rot90(flipped)}
    turned |= {6: np.rot90(pixels, -1), 7: np.rot90(flipped, -1), 8: np.rot90(pixels)}
    assert np.array_equal(read.pixels, turned[orientation])
    assert read.changes == ("" if orientation == 1 else f"turned by EXIF orientation {orientation}")


def test_transparency_lies_on_white(tmp_path: Path, pixels: np.ndarray) -> None:
    alpha = np.zeros(pixels.shape[:2], np.uint8)
    alpha[:8], alpha[8] = 255, 51
    rgba = Image.fromarray(np.dstack([pixels, alpha]))
    read = read_picture(saved(tmp_path / "a.png", rgba))
    assert read.changes == "transparency on white"
    assert np.array_equal(read.pixels[:8], pixels[:8])
    assert (read.pixels[9:] == 255).all()
    assert np.abs(read.pixels[8] - (0.2 * pixels[8] + 0.8 * 255)).max() <= 1
    alpha[:] = 255
    opaque = read_picture(saved(tmp_path / "b.png", Image.fromarray(np.dstack([pixels, alpha]))))
    assert (opaque.changes, np.array_equal(opaque.pixels, pixels)) == ("", True)
    grey = read_picture(saved(tmp_path / "c.png", Image.fromarray(pixels[..., 0]).convert("LA")))
    assert np.array_equal(grey.pixels, np.repeat(pixels[..., :1], 3, 2))
    palette = Image.fromarray(np.arange(2, dtype=np.uint8)[None].repeat(4, 0)).convert("P")
    palette.putpalette([9, 8, 7, 200, 100, 0])
    clear = read_picture(saved(tmp_path / "d.png", palette, transparency=0))
    assert clear.pixels[0].tolist() == [[255, 255, 255], [200, 100, 0]]
    assert (clear.format, clear.changes) == ("PNG, 256 colours", "transparency on white")


def test_sixteen_bits_are_scaled(tmp_path: Path) -> None:
    grey = np.array([[0, 128, 257, 32767, 65535]], np.uint16)
    read = read_picture(saved(tmp_path / "a.png", Image.fromarray(grey)))
    assert read.pixels[0, :, 0].tolist() == [0, 0, 1, 127, 255]
    assert read.changes == "16 bits scaled to 8"


def test_other_colours_become_srgb(tmp_path: Path, pixels: np.ndarray) -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    plain = read_picture(saved(tmp_path / "a.png", Image.fromarray(pixels), icc_profile=srgb))
    assert (plain.changes, np.array_equal(plain.pixels, pixels)) == ("", True)
    # A profile of the same primaries in which red and green are exchanged.
    swapped = srgb.replace(b"rXYZ", b"tXYZ").replace(b"gXYZ", b"rXYZ").replace(b"tXYZ", b"gXYZ")
    swapped = swapped.replace("sRGB".encode("utf-16-be"), "swap".encode("utf-16-be"))
    read = read_picture(saved(tmp_path / "b.png", Image.fromarray(pixels), icc_profile=swapped))
    assert "swap" in read.changes
    assert np.abs(read.pixels.astype(int) - pixels[..., [1, 0, 2]]).max() <= 2
    damaged = read_picture(saved(tmp_path / "c.png", Image.fromarray(pixels), icc_profile=b"no profile"))
    assert np.array_equal(damaged.pixels, pixels)


def test_the_kind_of_file_is_told(tmp_path: Path, pixels: np.ndarray) -> None:
    image = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x010E] = "a description, which makes an extended file"
    for name, options, kind in (
        ("a.png", {}, "PNG"),
        ("b.jpg", {}, "JPEG, lossy"),
        ("c.webp", {"lossless": True}, "WEBP"),
        ("d.webp", {"lossless": True, "exif": exif}, "WEBP"),
        ("e.webp", {"quality": 90, "exif": exif}, "WEBP, lossy"),
        ("f.webp", {"quality": 90}, "WEBP, lossy"),
    ):
        assert read_picture(saved(tmp_path / name, image, **options)).format == kind, name
    (tmp_path / "b.jpg").rename(tmp_path / "g.png")
    assert read_picture(tmp_path / "g.png").format == "JPEG, lossy"  # whatever its name says


def test_what_is_no_such_picture_is_refused_by_name(tmp_path: Path, pixels: np.ndarray) -> None:
    image, other = Image.fromarray(pixels), Image.fromarray(255 - pixels)
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "dangling.png").symlink_to("nowhere")
    (tmp_path / "text.png").write_text("a poem")
    (tmp_path / "empty.png").touch()
    whole = saved(tmp_path / "torn.png", image)
    whole.write_bytes(whole.read_bytes()[:600])
    for suffix in ("png", "webp", "gif"):
        saved(tmp_path / f"animated.{suffix}", image, save_all=True, append_images=[other])
    saved(tmp_path / "ink.jpg", image.convert("CMYK"))
    saved(tmp_path / "float.tiff", Image.fromarray(pixels[..., 0].astype(np.float32)))
    saved(tmp_path / "long.tiff", Image.fromarray(pixels[..., 0].astype(np.int32)))
    words = {"animated": "2 frames", "ink": "CMYK", "float": "colours are F", "long": "colours are I", "torn": "trunc"}
    for path in tmp_path.iterdir():
        with pytest.raises(PairError) as caught:
            read_picture(path)
        assert path.name in str(caught.value)
        assert words.get(path.stem, "") in str(caught.value)
        assert "0x" not in str(caught.value)  # the reason is the same each time


def scored(folder: Path, out: Path) -> Record:
    words = ["score", "--images", folder, "--name", "e", "--id", PAIR.id, "--out", out, "--keep-images", "0"]
    with pytest.raises(SystemExit):
        main([str(word) for word in words])
    return read_records(out)[0]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    model = riebench.load("mini")
    return model.generate([PAIR.base_prompt], [PAIR.seed], 1)[0].image


def test_records_are_of_the_picture_as_it_looks(tmp_path: Path, base: np.ndarray) -> None:
    """Colours under transparency and the upper bits of a grey picture gave other numbers, without a word."""
    hidden = np.full(base.shape[:2], 255, np.uint8)
    hidden[:64] = 0
    white = base.copy()
    white[:64] = 255
    grey = np.asarray(Image.fromarray(base).convert("L"))
    kinds = {
        "rgba": Image.fromarray(np.dstack([base, hidden])),
        "white": Image.fromarray(white),
        "sixteen": Image.fromarray(grey.astype(np.uint16) * 257),
        "grey": Image.fromarray(grey),
    }
    records = {}
    for name, image in kinds.items():
        (tmp_path / name).mkdir()
        saved(tmp_path / name / f"{PAIR.id}.png", image)
        records[name] = scored(tmp_path / name, tmp_path / f"run-{name}")
    assert records["rgba"].metrics == records["white"].metrics
    assert records["sixteen"].metrics == records["grey"].metrics
    assert records["rgba"].notes["picture_changes"] == "transparency on white"
    assert records["white"].notes == {"acts": "outside", "picture_format": "PNG"}


def test_a_lossy_picture_says_so(tmp_path: Path, base: np.ndarray, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in").mkdir()
    saved(tmp_path / "in" / f"{PAIR.id}.jpg", Image.fromarray(base), quality=95)
    record = scored(tmp_path / "in", tmp_path / "run")
    assert record.notes["picture_format"] == "JPEG, lossy"
    assert "JPEG, lossy" in capsys.readouterr().err


def test_a_folder_or_a_dangling_link_is_a_failed_record(tmp_path: Path) -> None:
    for number, make in enumerate((Path.mkdir, lambda path: path.symlink_to("nowhere"))):
        folder = tmp_path / f"in-{number}"
        folder.mkdir()
        make(folder / f"{PAIR.id}.png")
        record = scored(folder, tmp_path / f"run-{number}")
        assert (record.status, record.where) == ("failed", "pictures")
        assert f"{PAIR.id}.png" in str(record.reason)


def test_the_key_holds_the_reading(tmp_path: Path, pixels: np.ndarray) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    (tmp_path / "in").mkdir()
    file = saved(tmp_path / "in" / f"{PAIR.id}.png", Image.fromarray(pixels))
    (plain,) = pictured([PAIR], tmp_path / "in")
    assert isinstance(plain, PicturedPair)
    assert plain.picture == read_picture(file).sha256  # as in earlier records
    saved(file, Image.fromarray(pixels), exif=exif)
    (turned,) = pictured([PAIR], tmp_path / "in")
    assert isinstance(turned, PicturedPair)
    assert turned.picture.endswith("turned by EXIF orientation 3")
