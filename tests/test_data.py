"""Images: which are listed, in which order, how they are read, and what their fingerprint sees."""

from __future__ import annotations

import errno
import os
import shutil
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import CLASSES, draw_photos
from vismech.config.choices import DataSource, Fingerprint
from vismech.errors import UserError
from vismech.sources.data import CIFAR10, imagenet_names, imagenet_wnids, open_data
from vismech.sources.pictures import load_image

KINDS = list(Fingerprint)


def empty_images(root, folders: dict[str, int]) -> None:
    for folder, count in folders.items():
        for index in range(count):
            path = root / folder / f"{index:03}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()


# Listing


def test_an_image_folder(photos) -> None:
    data = open_data(DataSource.imagefolder, photos)
    assert len(data) == 12
    assert data.ids == [f"{name}/{index:03}.png" for name in CLASSES for index in range(4)]
    assert [sample.label for sample in data.samples] == [0] * 4 + [1] * 4 + [2] * 4
    assert data.classes == dict(enumerate(CLASSES))
    assert data.load(5).mode == "RGB" and data.load(5).size == (36, 40)


def test_the_order_on_disk_does_not_matter(tmp_path) -> None:
    first = open_data("imagefolder", draw_photos(tmp_path / "a"))
    second = open_data("imagefolder", draw_photos(tmp_path / "b", order=-1))
    assert first.samples == second.samples
    for kind in KINDS:
        assert first.fingerprint(kind) == second.fingerprint(kind)


def test_listing_order_of_the_system_does_not_matter(photos, monkeypatch) -> None:
    expected = open_data("imagefolder", photos)
    scandir = os.scandir

    class Backwards:
        def __init__(self, folder) -> None:
            self.entries = iter(sorted(scandir(folder), key=lambda entry: entry.name, reverse=True))

        def __enter__(self):
            return self

        def __exit__(self, *_) -> None: ...

        def __iter__(self):
            return self

        def __next__(self):
            return next(self.entries)

        def close(self) -> None: ...

    monkeypatch.setattr(os, "scandir", Backwards)
    assert open_data("imagefolder", photos).samples == expected.samples


def test_other_files_and_hidden_folders_are_left_out(photos) -> None:
    (photos / "apple" / "notes.txt").write_text("no image")
    (photos / "apple" / "more").mkdir()
    shutil.copy(photos / "apple" / "000.png", photos / "apple" / "more" / "deep.PNG")
    (photos / ".cache").mkdir()
    shutil.copy(photos / "apple" / "000.png", photos / ".cache" / "x.png")
    (photos / "README.md").write_text("beside the classes")
    data = open_data("imagefolder", photos)
    assert len(data) == 13 and "apple/more/deep.PNG" in data.ids
    assert data.samples[data.ids.index("apple/more/deep.PNG")].label == 0


@pytest.mark.parametrize(("limit", "counts"), [(1, [1, 0, 0]), (3, [1, 1, 1]), (5, [2, 2, 1]), (99, [2, 5, 3])])
def test_a_limit_takes_classes_in_turn(tmp_path, limit, counts) -> None:
    empty_images(tmp_path, {"a": 2, "b": 5, "c": 3})
    data = open_data("imagefolder", tmp_path, limit=limit)
    assert np.bincount([sample.label for sample in data.samples], minlength=3).tolist() == counts
    assert data.ids == sorted(data.ids)
    if limit == 5:
        assert data.ids == ["a/000.jpg", "a/001.jpg", "b/000.jpg", "b/001.jpg", "c/000.jpg"]


def test_some_classes_keep_their_indices(photos) -> None:
    data = open_data("imagefolder", photos, classes=[2, 1])
    assert [sample.label for sample in data.samples] == [1] * 4 + [2] * 4
    assert data.classes[2] == "cherry"


def test_imagenet_indices_come_from_the_wnids(tmp_path) -> None:
    # n01440764 is class 0, n02119789 class 278, n15075141 class 999, whatever their ranks among the folders.
    empty_images(tmp_path, {"n15075141": 1, "n01440764": 2, "n02119789": 1})
    data = open_data("imagenet", tmp_path)
    assert {sample.id.split("/")[0]: sample.label for sample in data.samples} == {
        "n01440764": 0,
        "n02119789": 278,
        "n15075141": 999,
    }
    assert data.classes[0] == "tench" and len(data.classes) == 1000
    assert open_data("imagenet", tmp_path, classes=[999]).ids == ["n15075141/000.jpg"]


def test_all_thousand_wnids_match_the_published_table(shared) -> None:
    lines = (shared / "data" / "imagenet_classes.csv").read_text().splitlines()
    header = lines[0].split(",")
    index, wnid = header.index("index"), header.index("wnid")
    table = {line.split(",")[wnid]: int(line.split(",")[index]) for line in lines[1:]}
    assert len(table) == 1000 and table == imagenet_wnids()


def test_cifar10_folders_have_their_own_order(tmp_path) -> None:
    empty_images(tmp_path, {"truck": 1, "cat": 1, "airplane": 1})
    data = open_data("cifar10", tmp_path)
    assert [(sample.id.split("/")[0], sample.label) for sample in data.samples] == [
        ("airplane", 0),
        ("cat", 3),
        ("truck", 9),
    ]
    assert data.classes == dict(enumerate(CIFAR10))


@pytest.mark.skipif(find_spec("foolbox") is None, reason="needs the extra 'samples'")
def test_the_sample_photographs() -> None:
    data = open_data("samples")
    assert len(data) == 20
    assert data.samples[data.ids.index("imagenet_14_129.jpg")].label == 129
    assert {129, 99} <= {sample.label for sample in data.samples}
    assert data.classes[129] == "spoonbill" and data.classes == dict(enumerate(imagenet_names()))
    assert data.load(0).mode == "RGB"


# Refusals


@pytest.mark.parametrize("source", ["imagenet", "cifar10"])
def test_a_folder_that_is_no_class_is_named(photos, source) -> None:
    with pytest.raises(UserError, match=rf"apple is not a class folder of {source}: use data=imagefolder"):
        open_data(source, photos)


def test_missing_empty_and_unset_roots(tmp_path) -> None:
    with pytest.raises(UserError, match=r"data.root=.*nowhere is not a folder"):
        open_data("imagefolder", tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"data=imagenet needs data.root=FOLDER"):
        open_data("imagenet")
    with pytest.raises(UserError, match=r"there is no image below .*ROOT/<class>/<image file>"):
        open_data("imagefolder", tmp_path)
    (tmp_path / "flat.png").touch()  # images beside the class folders, not in them
    (tmp_path / "empty class").mkdir()
    with pytest.raises(UserError, match="there is no image below"):
        open_data("imagefolder", tmp_path)


def test_classes_without_images_are_refused(photos) -> None:
    with pytest.raises(UserError, match=r"no image of the classes \[7\]"):
        open_data("imagefolder", photos, classes=[7])
    with pytest.raises(UserError, match=r"data.classes=\[1, 7\]: there is no image of class 7"):
        open_data("imagefolder", photos, classes=[1, 7])
    with pytest.raises(UserError, match=r"data.limit=0 must be at least 1"):
        open_data("imagefolder", photos, limit=0)


@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "missing"])
def test_an_unreadable_image_is_named(photos, damage) -> None:
    path = photos / "berry" / "001.jpg"
    load_image(photos / "berry" / "001.png").save(path)
    content = {"truncated": path.read_bytes()[:400], "empty": b"", "text": b"this is no image\n"}.get(damage)
    data = open_data("imagefolder", photos)
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(UserError, match=r"berry/001\.jpg is not a readable image \(.+\)"):
        data.load(data.ids.index("berry/001.jpg"))


def test_errors_of_every_decoder_are_a_users(tmp_path) -> None:
    for name, content in {
        "a.ppm": b"P6 2x 2 255\n" + bytes(12),  # ValueError
        "b.png": b"\x89PNG\r\n\x1a\n" + bytes(30),  # SyntaxError
        "c.gif": b"GIF89a",
        "d.bmp": b"BM" + bytes(20),
        "e.tif": b"II*\x00" + bytes(20),
        "f.webp": b"RIFF\x00\x00\x00\x00WEBP",
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=f"{name[0]}.{name[2:]} is not a readable image"):
            load_image(tmp_path / name)


@pytest.mark.parametrize("kind", KINDS)
def test_a_link_to_nothing_is_an_unreadable_image(photos, kind) -> None:
    (photos / "berry" / "gone.jpg").symlink_to(photos / "nowhere.jpg")
    (photos / "berry" / "circle.jpg").symlink_to(photos / "berry" / "circle.jpg")
    data = open_data("imagefolder", photos)
    assert {"berry/gone.jpg", "berry/circle.jpg"} < {*data.ids}
    assert data.fingerprint(kind) != open_data("imagefolder", photos, classes=[0]).fingerprint(kind)
    for name in ("gone", "circle"):
        with pytest.raises(UserError, match=f"berry/{name}.jpg is not a readable image"):
            data.load(data.ids.index(f"berry/{name}.jpg"))


def test_a_pipe_is_no_image_and_nobody_waits_for_it(photos) -> None:
    os.mkfifo(photos / "berry" / "pipe.jpg")
    data = open_data("imagefolder", photos)
    assert data.fingerprint(Fingerprint.content)
    with pytest.raises(UserError, match=r"pipe.jpg is not a readable image \(it is no file\)"):
        data.load(data.ids.index("berry/pipe.jpg"))


def test_a_link_to_no_class_folder_is_left_out_and_named(photos, caplog) -> None:
    (photos / "zebra").symlink_to(photos / "nowhere")
    (photos / "linked").symlink_to(photos / "apple")
    assert open_data("imagefolder", photos).classes == dict(enumerate((*CLASSES, "linked")))
    assert "zebra is a link to nothing and is left out" in caplog.text


@pytest.mark.parametrize("place", ["class", "folder", "file"])
def test_a_name_that_is_not_utf8_is_one_sentence(photos, place) -> None:
    root, name = os.fsencode(photos), b"caf\xe9"
    folder = os.path.join(root, name if place == "class" else b"apple", name if place == "folder" else b"more")
    os.makedirs(folder)
    shutil.copy(photos / "apple" / "000.png", os.path.join(folder, (name if place == "file" else b"x") + b".png"))
    with pytest.raises(UserError, match=r"caf\\xe9(/|\.png)? has a name that is not UTF-8, which no sample id"):
        open_data("imagefolder", photos)


def test_what_systems_leave_beside_photographs_is_no_image_and_no_class(photos) -> None:
    expected = open_data("imagefolder", photos)
    content = (photos / "apple" / "000.png").read_bytes()
    for path in (
        "apple/._000.png",
        "apple/.hidden.jpg",
        "apple/.DS_Store",
        "apple/Thumbs.db",
        "apple/__MACOSX/000.png",
        "apple/.cache/000.png",
        "apple/@eaDir/000.png",
        "__MACOSX/apple/000.png",
        ".DS_Store",
        ".git/x.png",
    ):
        (photos / path).parent.mkdir(parents=True, exist_ok=True)
        (photos / path).write_bytes(content)
    found = open_data("imagefolder", photos)
    assert found.samples == expected.samples and found.classes == expected.classes
    assert found.fingerprint() == expected.fingerprint()


@pytest.mark.parametrize("place", ["", "berry", "berry/deep"])
def test_a_folder_that_cannot_be_read_is_named(photos, place, monkeypatch) -> None:
    """Root may read everything, so the system's answer is put in its place."""
    (photos / "berry" / "deep").mkdir()
    scandir = os.scandir

    def refuse(folder):
        if Path(folder) == photos / place:
            raise PermissionError(errno.EACCES, "Permission denied", str(folder))
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match=rf"{place} cannot be read \(Permission denied\): give yourself access"):
        open_data("imagefolder", photos)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_cannot_be_read_is_an_unreadable_image(photos, kind, monkeypatch) -> None:
    data = open_data("imagefolder", photos)
    path, read = photos / "berry" / "001.png", Path.read_bytes

    def refuse(file) -> bytes:
        if file == path:
            raise PermissionError(errno.EACCES, "Permission denied", str(file))
        return read(file)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert data.fingerprint(kind)


def test_an_empty_class_folder_has_its_label_and_no_images(photos) -> None:
    (photos / "banana").mkdir()
    data = open_data("imagefolder", photos)
    assert data.classes == {0: "apple", 1: "banana", 2: "berry", 3: "cherry"}
    assert sorted({sample.label for sample in data.samples}) == [0, 2, 3]


def test_a_large_image_is_read_and_a_bomb_is_refused(photos, monkeypatch, recwarn) -> None:
    data = open_data("imagefolder", photos)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # pictures of 1,440 pixels: Pillow warns
    assert data.load(0).size == (36, 40) and not recwarn
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 700)
    with pytest.raises(UserError, match=r"000.png is not a readable image \(Image size \(1440 pixels\) exceeds"):
        data.load(0)


def test_only_some_folders(photos) -> None:
    found = open_data("imagefolder", photos, folders=["cherry", "berry"])
    assert {sample.id.split("/")[0] for sample in found.samples} == {"berry", "cherry"}
    with pytest.raises(UserError, match=r"evaluate.root=.* has no image of the class 'pear', which data.classes asks"):
        open_data("imagefolder", photos, key="evaluate.root", folders=["berry", "pear"])


# Pixels


def pixels(path) -> np.ndarray:
    image = load_image(path)
    assert image.mode == "RGB"
    return np.asarray(image)


def mode_of(path) -> str:
    with Image.open(path) as image:
        return image.mode


@pytest.fixture(scope="module")
def rgb() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)


def test_rgb_and_grey_are_as_written(tmp_path, rgb) -> None:
    Image.fromarray(rgb).save(tmp_path / "x.png")
    assert np.array_equal(pixels(tmp_path / "x.png"), rgb)
    Image.fromarray(rgb[..., 0]).save(tmp_path / "x.png")
    assert np.array_equal(pixels(tmp_path / "x.png"), np.repeat(rgb[..., :1], 3, 2))


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bit_grey_is_scaled_and_rounded(tmp_path, suffix) -> None:
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    Image.fromarray(values).save(tmp_path / f"x.{suffix}")
    found = pixels(tmp_path / f"x.{suffix}")
    assert np.array_equal(found[..., 0], np.round(values / 257).astype(np.uint8))
    assert (found[..., :1] == found).all()


def test_floating_point_pixels_are_refused(tmp_path) -> None:
    Image.fromarray(np.ones((2, 2), np.float32)).save(tmp_path / "x.tif")
    with pytest.raises(UserError, match="mode F: convert it to 8-bit RGB"):
        load_image(tmp_path / "x.tif")


def test_one_bit_is_black_and_white(tmp_path, rgb) -> None:
    bits = rgb[..., 0] > 127
    Image.fromarray(bits).save(tmp_path / "x.png")
    assert np.array_equal(pixels(tmp_path / "x.png"), np.repeat(np.where(bits, 255, 0)[..., None], 3, 2))


def on_white(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    share = alpha[..., None] / 255
    return colour * share + 255 * (1 - share)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_laid_on_white(tmp_path, rgb, mode) -> None:
    alpha = np.arange(30, dtype=np.uint8).reshape(6, 5) * 8
    colour = rgb if mode == "RGBA" else rgb[..., :1]
    Image.fromarray(np.concatenate([colour, alpha[..., None]], 2)).save(tmp_path / "x.png")
    assert mode_of(tmp_path / "x.png") == mode
    assert np.abs(pixels(tmp_path / "x.png") - on_white(np.broadcast_to(colour, rgb.shape), alpha)).max() <= 1


@pytest.mark.parametrize("transparent", [None, 2])
def test_palettes(tmp_path, transparent) -> None:
    indices = np.arange(30, dtype=np.uint8).reshape(6, 5) % 4
    palette = np.array([[10, 20, 30], [200, 0, 0], [0, 150, 0], [1, 2, 250]], dtype=np.uint8)
    image = Image.fromarray(indices).convert("L")
    image.putpalette(palette.tobytes())
    image.save(tmp_path / "x.png", **({} if transparent is None else {"transparency": transparent}))
    assert mode_of(tmp_path / "x.png") == "P"
    expected = palette[indices].copy()
    if transparent is not None:
        expected[indices == transparent] = 255
    assert np.array_equal(pixels(tmp_path / "x.png"), expected)


def test_cmyk(tmp_path, rgb) -> None:
    image = Image.fromarray(rgb).convert("CMYK")
    image.save(tmp_path / "x.tif")
    assert mode_of(tmp_path / "x.tif") == "CMYK"
    assert np.array_equal(pixels(tmp_path / "x.tif"), rgb)


# Fingerprints


def prints(photos, **arguments) -> dict[Fingerprint, str]:
    return {kind: open_data("imagefolder", photos, **arguments).fingerprint(kind) for kind in KINDS}


def test_the_fingerprint_stays_while_nothing_changes(photos, tmp_path) -> None:
    before = prints(photos)
    for path in photos.rglob("*.png"):
        os.utime(path, (0, 0))
    (photos / "apple" / "notes.txt").write_text("no image")
    assert prints(photos) == before
    assert prints(shutil.copytree(photos, tmp_path / "elsewhere")) == before
    assert before[Fingerprint.listing] != before[Fingerprint.content]


def test_the_fingerprint_changes_with_the_listing(photos) -> None:
    seen = [prints(photos)]
    (photos / "apple" / "000.png").rename(photos / "apple" / "renamed.png")
    seen.append(prints(photos))
    shutil.copy(photos / "apple" / "renamed.png", photos / "berry" / "more.png")
    seen.append(prints(photos))
    (photos / "berry" / "more.png").write_bytes((photos / "berry" / "more.png").read_bytes() + b"\x00")
    seen.append(prints(photos))
    (photos / "aardvark").mkdir()  # a folder before the others raises every label
    seen.append(prints(photos))
    seen += [prints(photos, limit=5), prints(photos, classes=[1, 2])]
    for kind in KINDS:
        assert len({found[kind] for found in seen}) == len(seen)


def test_content_of_the_same_size_is_seen_by_the_full_hash_only(photos) -> None:
    before = prints(photos)
    path = photos / "apple" / "000.png"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    after = prints(photos)
    assert after[Fingerprint.listing] == before[Fingerprint.listing]
    assert after[Fingerprint.content] != before[Fingerprint.content]
