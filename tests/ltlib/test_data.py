import functools
import gzip
import hashlib
import http.server
import os
import pickle
import struct
import tarfile
import threading
import tracemalloc
import urllib.error

import numpy as np
import pytest
from needs import needs_cifar100, needs_fashion_mnist

from ltlib.data import (
    DATASETS,
    DatasetSize,
    digit_pairs,
    digit_pairs_for_pretraining,
    download,
    load_dataset,
    numerals,
    sha256,
)
from ltlib.data import digits as digits_module
from ltlib.data import images as images_module
from ltlib.data import load as load_module
from ltlib.data.digits import stored_digit_pairs
from ltlib.errors import ConfigError, DataError
from ltlib.files import data_dir

CONTENT = bytes(range(256)) * 4000  # 1 MB
MD5 = hashlib.md5(CONTENT).hexdigest()


class RangeServer(http.server.BaseHTTPRequestHandler):
    """Serves ``content``; honours Range; ``stop_after`` breaks the first connection off."""

    content = CONTENT
    stop_after = None
    ranges: list = []  # noqa: RUF012

    def do_GET(self):
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
        type(self).ranges.append(start)
        if start >= len(self.content):
            self.send_error(416)
            return
        body = self.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.stop_after:
            body, type(self).stop_after = body[: self.stop_after], None
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    handler = type("Handler", (RangeServer,), {"ranges": []})
    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield handler, f"http://127.0.0.1:{running.server_port}/file"
    running.shutdown()


def test_download_is_checked_and_moved_into_place(server, tmp_path):
    download(server[1], tmp_path / "file", MD5)
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert not (tmp_path / "file.part").exists()


def test_a_broken_download_goes_on_where_it_stopped(server, tmp_path):
    handler, url = server
    handler.stop_after = 300_000
    with pytest.raises(OSError, match=r"run again|Incomplete|IncompleteRead"):
        download(url, tmp_path / "file", MD5)
    have = (tmp_path / "file.part").stat().st_size
    assert 0 < have < len(CONTENT)
    download(url, tmp_path / "file", MD5)
    assert handler.ranges == [0, have]
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_a_download_that_is_complete_but_not_renamed_is_used(server, tmp_path):
    (tmp_path / "file.part").write_bytes(CONTENT)
    download(server[1], tmp_path / "file", MD5)
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_a_wrong_checksum_is_refused_and_the_file_removed(server, tmp_path):
    with pytest.raises(DataError, match="MD5 checksum"):
        download(server[1], tmp_path / "file", "0" * 32)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def fake_archive(tmp_path, monkeypatch):
    """An archive laid out like the official one, with torchvision told its checksums."""
    from torchvision.datasets import CIFAR100

    source = tmp_path / "source" / CIFAR100.base_folder
    source.mkdir(parents=True)
    rng = np.random.default_rng(0)
    contents = {
        name: {
            "data": rng.integers(0, 256, (n, 3072), dtype=np.uint8),
            "fine_labels": list(range(100)) * (n // 100),
        }
        for name, n in (("train", 200), ("test", 100))
    } | {"meta": {"fine_label_names": [f"class {c}" for c in range(100)]}}
    md5 = {}
    for name, value in contents.items():
        (source / name).write_bytes(pickle.dumps(value))
        md5[name] = hashlib.md5((source / name).read_bytes()).hexdigest()
    archive = tmp_path / "served.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(source, CIFAR100.base_folder)
    monkeypatch.setattr(CIFAR100, "train_list", [["train", md5["train"]]])
    monkeypatch.setattr(CIFAR100, "test_list", [["test", md5["test"]]])
    monkeypatch.setattr(
        CIFAR100, "meta", {"filename": "meta", "key": "fine_label_names", "md5": md5["meta"]}
    )
    monkeypatch.setattr(CIFAR100, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    home = tmp_path / "data"
    home.mkdir()
    monkeypatch.setenv("LTLIB_DATA", str(home))
    return CIFAR100, archive, home, contents


def test_the_official_archive_is_downloaded_and_read(
    fake_archive, server, monkeypatch, fresh_caches
):
    cifar, archive, _, contents = fake_archive
    handler, url = server
    handler.content = archive.read_bytes()
    monkeypatch.setattr(cifar, "url", url)
    data = load_dataset("cifar100")
    assert data.class_names[3] == "class 3"
    expected = contents["train"]["data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    assert (data.train_images == expected).all()
    assert data.checksums["x_train"] == sha256(expected)


def test_an_archive_given_by_hand_needs_no_network(fake_archive, monkeypatch, fresh_caches):
    cifar, archive, home, _ = fake_archive
    (home / cifar.filename).write_bytes(archive.read_bytes())
    monkeypatch.setattr(cifar, "url", "http://127.0.0.1:9/nothing")
    assert len(load_dataset("cifar100").test_images) == 100


def test_a_changed_archive_is_refused_before_anything_is_unpacked(fake_archive, fresh_caches):
    cifar, archive, home, _ = fake_archive
    (home / cifar.filename).write_bytes(archive.read_bytes() + b"x")
    with pytest.raises(DataError, match="MD5 checksum"):
        load_dataset("cifar100")
    assert not (home / cifar.base_folder).exists()


def test_a_changed_pickle_is_refused_before_it_is_read(fake_archive, fresh_caches):
    cifar, archive, home, _ = fake_archive
    folder = home / cifar.base_folder
    with tarfile.open(archive) as tar:
        tar.extraction_filter = getattr(tarfile, "data_filter", None)
        tar.extractall(home)
    (folder / "train").write_bytes(b"cos\nsystem\n(S'touch /tmp/never'\ntR.")
    with pytest.raises(DataError, match="incomplete or damaged"):
        load_dataset("cifar100")


def test_missing_cifar100_names_both_ways(fake_archive, monkeypatch, fresh_caches):
    cifar, *_ = fake_archive
    monkeypatch.setattr(cifar, "url", "http://127.0.0.1:9/cifar-100-python.tar.gz")
    with pytest.raises(DataError, match=r"(?s)1\. download .*2\. put cifar100.npz.*LTLIB_DATA"):
        load_dataset("cifar100")


def full_npz(**changes):
    arrays = {
        "x_train": np.zeros((50000, 32, 32, 3), np.uint8),
        "y_train": np.repeat(np.arange(100), 500).astype(np.uint8),
        "x_test": np.zeros((10000, 32, 32, 3), np.uint8),
        "y_test": np.repeat(np.arange(100), 100).astype(np.uint8),
        "class_names": np.array([f"c{i}" for i in range(100)]),
    }
    return {k: v for k, v in (arrays | changes).items() if v is not None}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y_test": None}, "y_test"),
        (
            {"x_test": np.zeros((10, 32, 32, 3), np.uint8)},
            r"x_test has shape \(10, 32, 32, 3\), expected",
        ),
        ({"x_test": np.zeros((10000, 32, 32, 3), np.float16)}, "float16, expected uint8"),
        (
            {"y_test": np.zeros(10000, np.uint8)},
            "y_test should hold whole numbers 0 to 99, each 100 times",
        ),
        ({"class_names": np.array([f"c{i}" for i in range(100)], object)}, "not readable"),
        ({"class_names": np.array("apple")}, r"class_names has shape \(\), expected \(100,\)"),
        (
            {"x_test": np.zeros((10000, 16, 16, 3), np.uint8)},
            r"x_test has shape \(10000, 16, 16, 3\), expected \(10000, 32, 32, 3\)",
        ),
    ],
)
def test_a_wrong_npz_is_refused_by_name(changes, message, tmp_path, monkeypatch, fresh_caches):
    np.savez_compressed(tmp_path / "cifar100.npz", **full_npz(**changes))
    monkeypatch.setenv("LTLIB_DATA", str(tmp_path))
    with pytest.raises(DataError, match=message):
        load_dataset("cifar100")


def test_a_truncated_npz_is_refused(tmp_path, monkeypatch, fresh_caches):
    (tmp_path / "cifar100.npz").write_bytes(b"PK\x03\x04 and then nothing")
    monkeypatch.setenv("LTLIB_DATA", str(tmp_path))
    with pytest.raises(DataError, match="not readable"):
        load_dataset("cifar100")


def test_unknown_data_set():
    with pytest.raises(ConfigError, match="cifar100, digits"):
        load_dataset("cifar11")


def test_an_npz_of_other_images_is_another_version(tmp_path, monkeypatch, fresh_caches):
    np.savez_compressed(tmp_path / "cifar100.npz", **full_npz())
    monkeypatch.setenv("LTLIB_DATA", str(tmp_path))
    found = load_dataset("cifar100").checksums["origin"]
    assert found == "cifar100.npz, another version than the published one"


@needs_cifar100
@pytest.mark.parametrize(
    ("change", "published"),
    [("another order", True), ("a pixel", False), ("two labels", False)],
)
def test_a_changed_pixel_or_label_makes_another_version(
    tmp_path, monkeypatch, fresh_caches, change, published
):
    with np.load(data_dir() / "cifar100.npz") as file:
        arrays = dict(file)
    order = np.random.default_rng(0).permutation(50000)
    arrays["x_train"], arrays["y_train"] = arrays["x_train"][order], arrays["y_train"][order]
    if change == "a pixel":
        arrays["x_train"][7, 3, 3, 0] ^= 1
    if change == "two labels":
        first, second = (np.flatnonzero(arrays["y_test"] == c)[0] for c in (0, 1))
        arrays["y_test"][[first, second]] = 1, 0
    np.savez(tmp_path / "cifar100.npz", **arrays)
    monkeypatch.setenv("LTLIB_DATA", str(tmp_path))
    assert (load_dataset("cifar100").checksums["origin"] == "cifar100.npz") == published


@needs_cifar100
def test_the_real_cifar100():
    data = load_dataset("cifar100")
    assert data.checksums["origin"] in ("cifar100.npz", "cifar-100-python.tar.gz")
    assert data.class_names[0] == "apple"
    assert data.class_names[99] == "worm"
    assert (np.bincount(data.train_labels) == 500).all()
    # the published per-channel means of the training images
    assert np.allclose(data.train_images.mean((0, 1, 2)) / 255, [0.5071, 0.4865, 0.4409], atol=1e-3)


# Fashion-MNIST and
# MNIST

IDX = {
    "x_train": ("train-images-idx3-ubyte", (12, 4, 5)),
    "y_train": ("train-labels-idx1-ubyte", (12,)),
    "x_test": ("t10k-images-idx3-ubyte", (6, 4, 5)),
    "y_test": ("t10k-labels-idx1-ubyte", (6,)),
}


def idx(array):
    return struct.pack(f">{1 + array.ndim}I", 0x0800 + array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def idx_home(tmp_path, monkeypatch, fresh_caches):
    """LTLIB_DATA without anything in it, and small files to put there: write(folder, suffix,
    **changed contents)."""
    monkeypatch.setattr(numerals, "_IDX_PARTS", IDX)
    monkeypatch.setenv("LTLIB_DATA", str(tmp_path))
    random = np.random.default_rng(0)
    arrays = {
        key: random.integers(0, 256 if key[0] == "x" else 10, shape, np.uint8)
        for key, (_, shape) in IDX.items()
    }

    def write(folder, suffix="", **changes):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        for key, (stem, _) in IDX.items():
            content = changes.get(key, idx(arrays[key]))
            if content is not None:
                (tmp_path / folder / f"{stem}{suffix}").write_bytes(
                    gzip.compress(content) if suffix else content
                )
        return arrays

    return write


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("fashion_mnist", "fashion-mnist"),
        ("fashion_mnist", "FashionMNIST/raw"),
        ("fashion_mnist", "."),
        ("mnist", "mnist"),
        ("mnist", "MNIST/raw"),
    ],
)
def test_idx_files_are_read_from_where_they_may_lie_gzipped_or_not(idx_home, name, folder, suffix):
    arrays = idx_home(folder, suffix)
    data = load_dataset(name)
    assert data.train_images.shape == (12, 4, 5, 3)
    for channel in range(3):
        np.testing.assert_array_equal(data.train_images[..., channel], arrays["x_train"])
        np.testing.assert_array_equal(data.test_images[..., channel], arrays["x_test"])
    np.testing.assert_array_equal(data.train_labels, arrays["y_train"])
    np.testing.assert_array_equal(data.test_labels, arrays["y_test"])
    assert (data.train_labels.dtype, data.num_classes) == (np.int64, 10)
    assert data.class_names[9] == ("Ankle boot" if name == "fashion_mnist" else "9 - nine")


def test_what_a_data_set_is_does_not_depend_on_how_its_files_are_stored(idx_home, tmp_path):
    idx_home("fashion-mnist", ".gz")
    first = load_dataset("fashion_mnist")
    (tmp_path / "fashion-mnist").rename(tmp_path / "elsewhere")
    load_dataset.cache_clear()
    idx_home(".")
    second = load_dataset("fashion_mnist")
    assert {k: v for k, v in first.checksums.items() if k != "origin"} == {
        k: v for k, v in second.checksums.items() if k != "origin"
    }


WHOLE = idx(np.zeros((12, 4, 5), np.uint8))


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "buffer|header says"),
        (WHOLE[:3], "buffer|multiple"),
        (WHOLE[:16], "cannot reshape|offset"),
        (WHOLE[:-1], "cannot reshape"),
        (WHOLE + b"x", "cannot reshape"),
        (
            idx(np.zeros((12, 5, 4), np.uint8)),
            r"its header says \[2051, 12, 5, 4\], expected \[2051, 12, 4, 5\]",
        ),
        (idx(np.zeros(12, np.uint8)), "its header says"),
        (b"\0\0\x0d" + WHOLE[3:], "its header says"),
    ],
    ids=[
        "empty",
        "3 bytes",
        "header alone",
        "a byte short",
        "a byte more",
        "another size",
        "labels",
        "floats",
    ],
)
def test_a_damaged_idx_file_is_named(idx_home, content, fault, suffix):
    idx_home("fashion-mnist", suffix, x_train=content)
    with pytest.raises(
        DataError,
        match=(
            rf"train-images-idx3-ubyte{suffix}: expected an IDX file of 12 x 4 x 5 bytes, .*Get the"
            r" file again"
        ),
    ) as error:
        load_dataset("fashion_mnist")
    assert error.match(fault)


def test_a_gzip_file_that_unpacks_to_much_is_not_unpacked(idx_home, monkeypatch):
    """6 GB of zeros are 6 MB when they are packed."""
    idx_home("fashion-mnist", ".gz", x_train=WHOLE + bytes(10**8))
    tracemalloc.start()
    with pytest.raises(DataError, match="expected an IDX file of 12 x 4 x 5 bytes"):
        load_dataset("fashion_mnist")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10**7


def test_a_pipe_is_no_data_set(idx_home, tmp_path, monkeypatch, fresh_caches):
    monkeypatch.setenv("LTLIB_DATA", str(tmp_path))
    os.mkfifo(tmp_path / "cifar100.npz")
    with pytest.raises(DataError, match=r"cifar100.npz: not readable as an .npz .*not a file"):
        load_dataset("cifar100")


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-9],
        lambda content: b"no gzip",
        lambda content: content[:40] + b"x" * 20,
    ],
)
def test_a_damaged_gzip_file_is_named(idx_home, tmp_path, damage):
    idx_home("fashion-mnist", ".gz")
    path = tmp_path / "fashion-mnist" / "train-images-idx3-ubyte.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(
        DataError, match=r"train-images-idx3-ubyte.gz: expected an IDX file .*Get the file again"
    ):
        load_dataset("fashion_mnist")


def test_labels_beyond_nine_are_refused(idx_home):
    idx_home("fashion-mnist", y_test=idx(np.array([0, 1, 2, 3, 4, 10], np.uint8)))
    with pytest.raises(DataError, match=r"fashion-mnist: expected labels 0 to 9, got 10"):
        load_dataset("fashion_mnist")


@pytest.mark.parametrize(
    "error",
    [
        urllib.error.URLError("no route to host"),
        RuntimeError("Error downloading\nmore lines"),
        OSError(),
    ],
)
@pytest.mark.parametrize(("name", "title"), [("fashion_mnist", "FashionMNIST"), ("mnist", "MNIST")])
def test_a_missing_data_set_without_a_network_says_what_to_put_where(
    idx_home, tmp_path, monkeypatch, name, title, error
):
    def fail(self):
        raise error

    idx_home("fashion-mnist", y_train=None)  # one of four is missing
    monkeypatch.setattr("torchvision.datasets.MNIST.download", fail)
    with pytest.raises(
        DataError,
        match=(
            rf"^{title} is not in .* and could not be downloaded \(.+\)\. Put its four files, train"
        ),
    ) as found:
        load_dataset(name)
    text = str(found.value)
    assert str(tmp_path / ("fashion-mnist" if name == "fashion_mnist" else "mnist")) in text
    assert "LTLIB_DATA" in text
    assert "\n" not in text
    assert ("dataset-fashion-mnist" in text) == (name == "fashion_mnist")


@pytest.mark.parametrize(("name", "title"), [("cifar10", "CIFAR-10"), ("svhn", "SVHN")])
def test_torchvisions_data_sets_without_a_network_say_so(
    tmp_path, monkeypatch, fresh_caches, name, title
):
    def fail(*_, **__):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setenv("LTLIB_DATA", str(tmp_path))
    monkeypatch.setattr(f"torchvision.datasets.{title.replace('-', '')}.download", fail)
    with pytest.raises(
        DataError,
        match=rf"^{title} is not in .*could not be downloaded .*no route to host.*LTLIB_DATA",
    ):
        load_dataset(name)


@needs_fashion_mnist
def test_the_real_fashion_mnist():
    data = load_dataset("fashion_mnist")
    assert data.train_images.shape == (60000, 28, 28, 3)
    assert (np.bincount(data.train_labels) == 6000).all()
    assert (np.bincount(data.test_labels) == 1000).all()
    assert data.class_names[0] == "T-shirt/top"
    share, value = (
        np.bincount(data.train_images[..., 0].ravel()) / (60000 * 28 * 28),
        np.arange(256) / 255,
    )
    mean = share @ value
    assert (mean, np.sqrt(share @ (value - mean) ** 2)) == pytest.approx(
        (0.2860, 0.3530), abs=1e-4
    ), "what images are normalised with"


# one
# against the rest


@pytest.fixture
def small_cifar100(monkeypatch, fresh_caches):
    """40 images of ten of CIFAR-100's classes in its place."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (40, 2, 2, 3), np.uint8)
    small = images_module.image_data(
        "cifar100",
        images,
        np.arange(40, dtype=np.uint8) % 10,
        images[:20],
        np.arange(20, dtype=np.uint8) % 10,
        [f"c{i}" for i in range(100)],
        "here",
    )
    monkeypatch.setattr(load_module, "cifar100", lambda: small)
    return small


def test_one_class_against_the_rest(small_cifar100):
    data = load_dataset("cifar100_class7")
    np.testing.assert_array_equal(data.train_labels, np.arange(40) % 10 == 7)
    np.testing.assert_array_equal(data.test_labels, np.arange(20) % 10 == 7)
    assert data.class_names == ("rest", "c7")
    assert data.train_images is small_cifar100.train_images
    assert data.checksums["x_train"] == small_cifar100.checksums["x_train"]
    assert data.checksums["y_train"] != load_dataset("cifar100_class8").checksums["y_train"]


@pytest.mark.parametrize(
    "name",
    [
        "cifar100_class100",
        "cifar10_class10",
        "cifar100_class",
        "cifar100_class-1",
        "cifar100_class07",
        "digits_class1",
        "fashion_mnist_class1",
    ],
)
def test_a_task_that_there_is_not_is_refused_with_those_that_there_are(name):
    with pytest.raises(
        ConfigError,
        match=(
            rf"dataset = '{name}': expected one of .*cifar100, .*cifar10_class<0 to 9>,"
            r" cifar100_class<0 to"
        ),
    ):
        load_dataset(name)


# digits


@functools.cache
def digits():
    return digit_pairs()


def test_digit_pairs_have_100_classes_of_equal_size():
    data = digits()
    assert data.class_names[7] == "07"
    assert (np.bincount(data.train_labels) == 110).all()
    assert (np.bincount(data.test_labels) == 50).all()
    assert data.train_images.shape == (11000, 32, 32, 3)
    assert data.train_images.dtype == np.uint8


def test_digit_pairs_are_deterministic_and_depend_on_the_seed():
    assert digit_pairs().checksums == digits().checksums
    assert digit_pairs(1).checksums["x_train"] != digits().checksums["x_train"]


@pytest.mark.parametrize("damage", [None, b"not an archive"])
def test_digit_pairs_from_the_cache_are_those_that_were_made(damage, tmp_path, monkeypatch):
    monkeypatch.setenv("LTLIB_OUT", str(tmp_path))
    first = stored_digit_pairs()
    (kept,) = (tmp_path / "build" / "cache").glob("digits-*.npz")
    if damage:
        kept.write_bytes(damage)
    for data in (first, stored_digit_pairs()):
        assert data.checksums == digits().checksums
        assert data.class_names == digits().class_names
        assert data.train_labels.dtype == digits().train_labels.dtype


def test_the_pools_of_handwriting_are_disjoint_and_cover_every_digit(monkeypatch):
    """Ink of a clean pair is a source image: tag each source image by a value of its own and look
    which ones appear."""
    from sklearn.datasets import load_digits

    class Tagged:
        target = load_digits().target
        images = np.broadcast_to((1 + np.arange(1797))[:, None, None] / 1797 * 16, (1797, 8, 8))

    monkeypatch.setattr("sklearn.datasets.load_digits", Tagged)
    seen = {}
    for pool in digits_module._POOLS:
        images, labels = digits_module.pairs(pool, 60, 0, clean=True)
        ink = [
            set(np.unique(images[:, :, half][images[:, :, half] > 0]))
            for half in (slice(0, 16), slice(16, 32))
        ]
        seen[pool] = set().union(*ink)
        assert len(seen[pool]) > 50
        assert set(np.unique(labels)) == set(range(100))
    tags = (Tagged.images[:, 0, 0] / 16 * 255).round().astype(int)
    rng_split = {pool: set() for pool in digits_module._POOLS}
    for digit in range(10):
        writings = np.random.default_rng([0, 10, digit]).permutation(
            np.flatnonzero(Tagged.target == digit)
        )
        for pool, (low, high) in digits_module._POOLS.items():
            rng_split[pool] |= set(writings[int(low * len(writings)) : int(high * len(writings))])
    assert not rng_split["train"] & rng_split["test"]
    assert not rng_split["pretrain"] & (rng_split["train"] | rng_split["test"])
    for pool, members in rng_split.items():
        assert seen[pool] <= {tags[m] for m in members}


def test_pretraining_pairs_are_clean_and_balanced():
    images, labels = digit_pairs_for_pretraining(300)
    assert (np.bincount(labels) == 3).all()
    assert images.min() == 0
    assert (images[..., 0] == images[..., 2]).all()  # white on black


def test_images_cannot_be_changed_by_a_run():
    with pytest.raises(ValueError, match="read-only"):
        digits().train_images[0] = 0


def test_a_registered_data_set_may_be_an_npz(tmp_path, monkeypatch, fresh_caches):
    monkeypatch.setitem(DATASETS, "plankton", DatasetSize(2, 3, 1))
    monkeypatch.setenv("LTLIB_DATA", str(tmp_path))
    x = np.arange(6 * 4 * 5 * 3, dtype=np.uint8).reshape(6, 4, 5, 3)
    arrays = {"x_train": x, "y_train": [0, 0, 0, 1, 1, 1], "x_test": x[:2], "y_test": [0, 1]}
    np.savez(tmp_path / "plankton.npz", **arrays, class_names=["diatom", "copepod"])
    data = load_dataset("plankton")
    assert (data.train_images == x).all()
    assert (data.class_names, data.test_labels.tolist()) == (("diatom", "copepod"), [0, 1])
    (tmp_path / "plankton.npz").unlink()
    load_dataset.cache_clear()
    again = r"plankton.npz: not readable.*Make or copy the file again\.$"
    with pytest.raises(DataError, match=again):
        load_dataset("plankton")
