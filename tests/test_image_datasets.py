"""MNIST's and CIFAR's files and image folders, written small, read by the real loaders."""

from __future__ import annotations

import gzip
import os
import pickle
import socket

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets as torchvision_datasets

from explorer.data import folders, images
from explorer.data.datasets import download_dataset, load_test_set, load_training_set
from explorer.data.folders import Crops, FolderTraining
from explorer.errors import CheckpointError, DataError, UnknownNameError, UsageError
from explorer.inventory.store import data_folder, fetch
from tests.dataset_files import (
    idx,
    md5,
    serving,
    write_cifar,
    write_folder,
    write_mnist,
)

CPU = torch.device("cpu")
MNIST_KINDS = [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST")]
CIFAR_KINDS = [("cifar10", "CIFAR10"), ("cifar100", "CIFAR100")]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with serving() as about:
        yield about


def files_below(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


# --- MNIST -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "kind"), MNIST_KINDS)
def test_idx_files_are_read_as_torchvision_reads_them(tmp_path, monkeypatch, name, kind):
    arrays = write_mnist(tmp_path / kind / "raw", monkeypatch, kind)
    examples = load_test_set(name, tmp_path)
    training = arrays["train-images-idx3-ubyte"].astype(np.float64)
    expected = (arrays["t10k-images-idx3-ubyte"] - training.mean()) / training.std()
    assert examples.inputs.shape == (12, 1, 28, 28)
    np.testing.assert_allclose(examples.inputs[:, 0].numpy(), expected, rtol=1e-5, atol=1e-6)
    theirs = getattr(torchvision_datasets, kind)(tmp_path, train=False)
    assert examples.labels.tolist() == theirs.targets.tolist()
    assert np.array_equal(theirs.data.numpy(), arrays["t10k-images-idx3-ubyte"])
    assert examples.name == name
    assert len(examples.content_hash) == 64
    # torchvision writes MNIST's as "0 - zero"
    assert examples.class_names == tuple(c.split(" - ")[0] for c in theirs.classes)


def test_mnist_trains_without_augmentation(tmp_path, monkeypatch):
    arrays = write_mnist(tmp_path / "MNIST" / "raw", monkeypatch)
    training = load_training_set("mnist", folder=tmp_path)
    [(inputs, labels)] = training.batches(100, generator(4), CPU)
    order = torch.randperm(30, generator=generator(4))
    assert torch.equal(inputs, training.evaluation().inputs[order])
    assert labels.tolist() == arrays["train-labels-idx1-ubyte"][order].tolist()


def test_a_damaged_archive_is_refused_before_it_is_read(tmp_path, monkeypatch):
    raw = tmp_path / "MNIST" / "raw"
    write_mnist(raw, monkeypatch)
    content = bytearray((raw / "train-images-idx3-ubyte.gz").read_bytes())
    content[100] ^= 1
    (raw / "train-images-idx3-ubyte.gz").write_bytes(content)
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte.gz damaged \(another md5"):
        load_test_set("mnist", tmp_path)
    assert not (raw / "train-images-idx3-ubyte").exists()


def test_an_unpacked_file_that_was_altered_or_cut_is_unpacked_anew(tmp_path, monkeypatch):
    raw = tmp_path / "MNIST" / "raw"
    arrays = write_mnist(raw, monkeypatch)
    expected = load_test_set("mnist", tmp_path).content_hash
    unpacked = raw / "t10k-images-idx3-ubyte"
    for content in (idx(arrays[unpacked.name] // 2), b"", idx(arrays[unpacked.name])[:-1]):
        unpacked.write_bytes(content)
        assert load_test_set("mnist", tmp_path).content_hash == expected


# --- CIFAR -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "kind"), CIFAR_KINDS)
def test_pickled_batches_are_read_as_torchvision_reads_them(tmp_path, monkeypatch, name, kind):
    write_cifar(tmp_path, monkeypatch, kind)
    examples = load_test_set(name, tmp_path)
    theirs = getattr(torchvision_datasets, kind)(tmp_path, train=False)
    training = getattr(torchvision_datasets, kind)(tmp_path, train=True).data.astype(np.float64)
    expected = (theirs.data - training.mean()) / training.std()
    shown = examples.inputs.permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(shown, expected, rtol=1e-5, atol=1e-6)
    assert examples.labels.tolist() == theirs.targets
    assert images.IMAGE_SETS[name].classes == len(theirs.classes)
    assert examples.class_names == tuple(theirs.classes)


def test_cifar_trains_with_the_papers_crop_and_flip_unless_told_otherwise(tmp_path, monkeypatch):
    write_cifar(tmp_path, monkeypatch)
    training = load_training_set("cifar10", folder=tmp_path)
    assert (training.augmentation.pad, training.augmentation.flip) == (4, True)
    plain = load_training_set("cifar10", folder=tmp_path, augment=False)
    [(inputs, _)] = plain.batches(100, generator(), CPU)
    assert torch.equal(inputs, plain.evaluation().inputs[torch.randperm(40, generator=generator())])


def test_label_noise_stays_over_epochs_and_in_the_training_error(tmp_path, monkeypatch):
    write_cifar(tmp_path, monkeypatch, "CIFAR100")
    training = load_training_set("cifar100", folder=tmp_path, label_noise=1.0, seed=3)
    true = load_training_set("cifar100", folder=tmp_path).labels
    assert (training.labels != true).float().mean() > 0.8
    assert torch.equal(training.evaluation().labels, training.labels)
    for seed in (0, 1):
        [(_, labels)] = training.batches(200, generator(seed), CPU)
        assert sorted(labels.tolist()) == sorted(training.labels.tolist())


class Trap:
    """Unpickled, it makes a folder."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("file", ["data_batch_3", "batches.meta"])
def test_an_altered_batch_is_refused_before_it_is_unpickled(tmp_path, monkeypatch, file):
    write_cifar(tmp_path, monkeypatch)
    (tmp_path / "cifar-10-python.tar.gz").unlink()
    sprung = tmp_path / "sprung"
    (tmp_path / "cifar-10-batches-py" / file).write_bytes(pickle.dumps(Trap(sprung)))
    with pytest.raises(DataError, match=f"{file} damaged"):
        load_test_set("cifar10", tmp_path)
    files = images.IMAGE_SETS["cifar10"].files
    with pytest.raises(DataError, match="torchvision does not accept"):
        files.read(tmp_path, train=True)
    assert not sprung.exists()


def test_batches_are_taken_from_an_archive_that_somebody_put_there(tmp_path, monkeypatch):
    write_cifar(tmp_path, monkeypatch)
    expected = load_test_set("cifar10", tmp_path).content_hash
    before = files_below(tmp_path)
    (tmp_path / "cifar-10-batches-py" / "data_batch_1").unlink()
    (tmp_path / "cifar-10-batches-py" / "test_batch").write_bytes(b"broken")
    assert load_test_set("cifar10", tmp_path).content_hash == expected
    assert files_below(tmp_path) == before


def test_a_damaged_archive_of_batches_is_not_opened(tmp_path, monkeypatch):
    write_cifar(tmp_path, monkeypatch)
    (tmp_path / "cifar-10-batches-py" / "data_batch_1").unlink()
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(b"not an archive")
    with pytest.raises(DataError, match=r"cifar-10-python.tar.gz damaged"):
        load_test_set("cifar10", tmp_path)


# --- missing ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", images.IMAGE_SETS)
@pytest.mark.parametrize("load", [load_test_set, load_training_set])
def test_a_missing_set_says_which_files_where_and_how_to_get_them(tmp_path, name, load):
    match = (
        r"not complete in (.|\n)*missing(.|\n)*Needed there: (.|\n)*"
        rf"explorer data {name} --download(.|\n)*EXPLORER_DATA"
    )
    with pytest.raises(DataError, match=match) as caught:
        load(name, folder=tmp_path)
    assert str(tmp_path) in caught.value.came


def test_the_data_folder_is_the_given_the_named_or_the_cache(tmp_path, monkeypatch):
    monkeypatch.delenv("EXPLORER_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert data_folder() == tmp_path / "cache" / "layer-explorer" / "data"
    monkeypatch.setenv("EXPLORER_DATA", str(tmp_path / "named"))
    assert data_folder() == tmp_path / "named"
    assert data_folder(tmp_path / "given") == tmp_path / "given"
    with pytest.raises(DataError, match="not complete") as caught:
        load_test_set("mnist")
    assert str(tmp_path / "named") in caught.value.came


# --- download --------------------------------------------------------------------------------


@pytest.fixture
def offered(tmp_path, monkeypatch, server):
    """A server that offers MNIST and CIFAR-10, and an empty folder."""
    source = tmp_path / "source"
    write_mnist(source / "mnist", monkeypatch)
    write_cifar(source, monkeypatch)
    for file in [*(source / "mnist").iterdir(), source / "cifar-10-python.tar.gz"]:
        server.files[f"/{file.name}"] = file.read_bytes()
    monkeypatch.setattr(torchvision_datasets.MNIST, "mirrors", [server.address])
    address = f"{server.address}cifar-10-python.tar.gz"
    monkeypatch.setattr(torchvision_datasets.CIFAR10, "url", address)
    target = tmp_path / "target"
    target.mkdir()
    return target


@pytest.mark.parametrize(("name", "requests"), [("mnist", 4), ("cifar10", 1)])
def test_a_set_is_downloaded_once_and_then_opens(offered, server, name, requests):
    assert download_dataset(name, offered, progress=False) == offered
    assert len(load_test_set(name, offered)) > 0
    assert len(load_training_set(name, folder=offered)) > 0
    download_dataset(name, offered, progress=False)
    assert len(server.asked) == requests


def test_an_archive_whose_batches_are_there_is_not_downloaded_again(offered, server):
    download_dataset("cifar10", offered, progress=False)
    (offered / "cifar-10-python.tar.gz").unlink()
    download_dataset("cifar10", offered, progress=False)
    assert len(server.asked) == 1


def test_loading_never_downloads(offered, server):
    with pytest.raises(DataError, match="missing"):
        load_test_set("cifar10", offered)
    assert server.asked == []


FILE = {"mnist": "/t10k-images-idx3-ubyte.gz", "cifar10": "/cifar-10-python.tar.gz"}


@pytest.mark.parametrize("name", FILE)
def test_a_wrong_file_is_refused_and_not_left_in_place(offered, server, name):
    server.files[FILE[name]] = gzip.compress(b"something else")
    with pytest.raises(DataError, match=r"sent another file, with md5(.|\n)*original file"):
        download_dataset(name, offered, progress=False)
    assert not any(FILE[name][1:] in file for file in files_below(offered))


@pytest.mark.parametrize("name", FILE)
def test_a_truncated_file_is_refused_and_not_left_in_place(offered, server, name):
    server.cut.add(FILE[name])
    size = len(server.files[FILE[name]])
    with pytest.raises(DataError, match=rf"stopped after {size // 2} of {size} bytes"):
        download_dataset(name, offered, progress=False)
    assert not any(FILE[name][1:] in file for file in files_below(offered))


def test_a_file_that_is_not_there_is_reported_with_its_address(offered, server):
    del server.files["/cifar-10-python.tar.gz"]
    with pytest.raises(DataError, match=r"127.0.0.1:\d+/cifar-10-python.tar.gz failed: .*404"):
        download_dataset("cifar10", offered, progress=False)
    assert files_below(offered) == []


def test_the_next_mirror_is_tried_when_one_fails(offered, server, monkeypatch):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{unused.getsockname()[1]}/"
    monkeypatch.setattr(torchvision_datasets.MNIST, "mirrors", [dead, server.address])
    download_dataset("mnist", offered, progress=False)
    assert len(load_test_set("mnist", offered)) == 12


def test_an_older_file_stays_until_the_right_one_has_arrived(server, tmp_path):
    target = tmp_path / "a.bin"
    target.write_bytes(b"old")
    server.files["/a.bin"] = b"new"
    with pytest.raises(DataError, match="another file"):
        fetch([f"{server.address}a.bin"], target, md5(b"other"), progress=False)
    assert target.read_bytes() == b"old"
    fetch([f"{server.address}a.bin"], target, md5(b"new"), progress=False)
    assert target.read_bytes() == b"new"
    assert files_below(tmp_path) == ["a.bin"]


@pytest.mark.parametrize("progress", [True, False])
def test_what_has_arrived_is_shown_where_that_is_asked_for(server, tmp_path, capsys, progress):
    server.files["/a.bin"] = b"new"
    fetch([f"{server.address}a.bin"], tmp_path / "a.bin", md5(b"new"), progress=progress)
    assert ("100%" in capsys.readouterr().err) == progress


def test_a_folder_that_cannot_be_written_to_is_no_fault_of_the_network(server, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    server.files["/a.bin"] = b"new"
    with pytest.raises(CheckpointError, match="could not be written"):
        fetch([f"{server.address}a.bin"], tmp_path / "file" / "a.bin", md5(b"new"), progress=False)


@pytest.mark.parametrize("name", ["digits", "pydoc-text", "folder:here", "text:here"])
def test_what_is_not_downloaded_says_so(name):
    with pytest.raises(UsageError, match=r"is not downloaded(.|\n)*mnist, fashion-mnist, cifar10"):
        download_dataset(name)


def test_an_unknown_name_is_not_downloaded():
    with pytest.raises(UnknownNameError, match=r"no dataset 'cifar11'(.|\n)*'cifar10'"):
        download_dataset("cifar11")


# --- image folders ---------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    """Images of 40×32: the shorter side is what a crop of 28 is cut from."""
    write_folder(tmp_path)
    return tmp_path


def opened(path):
    return np.asarray(Image.open(path).convert("RGB"), dtype=np.float64)


def test_a_test_folder_gives_centre_crops_scaled_by_the_training_pixels(folder):
    examples = load_test_set(f"folder:{folder},side=28")
    assert examples.inputs.shape == (8, 3, 28, 28)
    assert examples.labels.tolist() == [0] * 4 + [1] * 4
    assert examples.class_names == ("cat", "dog")
    training = [opened(p)[2:30, 6:34] for p in sorted((folder / "train").rglob("*.*"))]
    mean, deviation = np.mean(training), np.std(training)
    for number, path in enumerate(sorted((folder / "val").rglob("*.*"))):
        expected = ((opened(path)[2:30, 6:34] - mean) / deviation).transpose(2, 0, 1)
        np.testing.assert_allclose(examples.inputs[number].numpy(), expected, rtol=1e-4, atol=1e-5)


def test_images_of_any_size_and_shape_become_crops_of_224(tmp_path):
    write_folder(tmp_path, each=1, size=(50, 300))
    examples = load_test_set(f"folder:{tmp_path}")
    assert examples.inputs.shape == (4, 3, 224, 224)


def test_training_crops_lie_anywhere_in_the_image_and_are_new_every_epoch(folder):
    training = load_training_set(f"folder:{folder},side=28,scale=half")
    whole = {}
    for number, (path, _) in enumerate(training.samples):
        whole[number] = opened(path).transpose(2, 0, 1)
    corners = set()
    for seed in range(12):
        for inputs, _ in training.batches(3, generator(seed), CPU):
            for image in inputs:
                pixels = (image.numpy() * 127.5 + 127.5).round()
                corners |= {
                    (row, column)
                    for picture in whole.values()
                    for row in range(5)
                    for column in range(13)
                    if np.array_equal(picture[:, row : row + 28, column : column + 28], pixels)
                }
    assert {row for row, _ in corners} == set(range(5))
    assert {0, 12} < {column for _, column in corners}


def test_workers_change_nothing_about_an_epoch(folder):
    training = load_training_set(f"folder:{folder},side=28")
    here = FolderTraining(training.form, training.samples, training.scale, workers=0)
    helped = FolderTraining(training.form, training.samples, training.scale, workers=2)
    before = torch.random.get_rng_state()
    epochs = [list(one.batches(3, generator(7), CPU)) for one in (here, helped, here)]
    assert torch.equal(torch.random.get_rng_state(), before)
    for a, b, c in zip(*epochs, strict=True):
        assert torch.equal(a[0], b[0])
        assert torch.equal(a[1], b[1])
        assert torch.equal(a[0], c[0])
    other = list(here.batches(3, generator(8), CPU))
    assert not torch.equal(torch.cat([x for x, _ in other]), torch.cat([x for x, _ in epochs[0]]))


def test_an_epoch_over_a_folder_shows_every_image_once_with_its_label(folder):
    training = load_training_set(f"folder:{folder},side=28", augment=False)
    plain = training.evaluation()
    expected = {
        x.numpy().tobytes(): int(y) for x, y in zip(plain.inputs, plain.labels, strict=True)
    }
    seen = {}
    for inputs, labels in training.batches(3, generator(), CPU):
        for image, label in zip(inputs, labels, strict=True):
            seen[image.numpy().tobytes()] = int(label)
    assert len(seen) == 8
    assert seen == expected


def test_the_order_of_an_epoch_over_a_folder_is_drawn_after_the_seed_of_its_crops(folder):
    training = load_training_set(f"folder:{folder},side=28", augment=False)
    stream = generator(5)
    torch.randint(2**48, (1,), generator=stream)
    order = torch.randperm(8, generator=stream)
    seen = torch.cat([x for x, _ in training.batches(3, generator(5), CPU)])
    assert torch.equal(seen, training.evaluation().inputs[order])


def test_a_limited_part_of_a_folder_shows_the_images_of_its_labels(folder, monkeypatch):
    training = load_training_set(f"folder:{folder},side=28")
    plain = training.evaluation()
    monkeypatch.setattr(folders, "READ_AT_ONCE", 3)
    assert torch.equal(training.evaluation().inputs, plain.inputs)
    some = training.evaluation(limit=4)
    assert torch.equal(some.inputs, plain.inputs[::2])
    assert torch.equal(some.labels, plain.labels[::2])


def test_label_noise_in_a_folder_changes_labels_only(folder):
    true = load_training_set(f"folder:{folder},side=28")
    noisy = load_training_set(f"folder:{folder},side=28", label_noise=1.0, seed=1)
    assert [path for path, _ in noisy.samples] == [path for path, _ in true.samples]
    assert [label for _, label in noisy.samples] != [label for _, label in true.samples]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_truncated_image_is_named_whoever_reads_it(folder, workers):
    path = folder / "train" / "cat" / "3.JPEG"
    path.write_bytes(path.read_bytes()[:200])
    training = load_training_set(f"folder:{folder},side=28,scale=half")
    training = FolderTraining(training.form, training.samples, training.scale, workers=workers)
    with pytest.raises(DataError, match=r"3\.JPEG is not a readable image(.|\n)*Restore the file"):
        list(training.batches(3, generator(), CPU))


def test_a_test_folder_that_would_not_fit_names_the_limit_that_does(folder, monkeypatch):
    monkeypatch.setattr(folders, "MEMORY_BUDGET", 5 * 3 * 28 * 28 * 4)
    name = f"folder:{folder},side=28"
    with pytest.raises(DataError, match=r"8 test images of 28×28(.|\n)*Up to 5(.|\n)*,limit=5'"):
        load_test_set(name)
    examples = load_test_set(f"{name},limit=4")
    assert examples.labels.tolist() == [0, 0, 1, 1]
    assert len(load_training_set(name).evaluation()) == 5


def test_a_folder_with_val_only_serves_for_testing_with_a_published_scale(folder):
    for path in sorted((folder / "train").rglob("*.*")):
        path.unlink()
    for path in (folder / "train" / "cat", folder / "train" / "dog", folder / "train"):
        path.rmdir()
    examples = load_test_set(f"folder:{folder},side=28,scale=imagenet")
    pixels = opened(folder / "val" / "cat" / "0.png")[2:30, 6:34].transpose(2, 0, 1) / 255
    mean = np.array([0.485, 0.456, 0.406])[:, None, None]
    deviation = np.array([0.229, 0.224, 0.225])[:, None, None]
    expected = (pixels - mean) / deviation
    np.testing.assert_allclose(examples.inputs[0].numpy(), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(DataError, match=r"train is not a folder of classes"):
        load_training_set(f"folder:{folder},scale=half")


def test_parts_with_different_classes_are_refused(folder):
    (folder / "val" / "dog").rename(folder / "val" / "wolf")
    with pytest.raises(DataError, match=r"differ in the classes dog, wolf"):
        load_test_set(f"folder:{folder},side=28")


def test_a_folder_that_is_not_there_says_what_is_expected(tmp_path):
    with pytest.raises(DataError, match=r"val is not a folder of classes(.|\n)*train/CLASS/"):
        load_test_set(f"folder:{tmp_path}/nowhere")


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ("side=0", UsageError, r"side=0 in .* is not a number above 0"),
        ("side=x", UsageError, r"side=x in .* is not a number above 0"),
        ("length=3", UsageError, r"option 'length'(.|\n)*side, limit, scale"),
        ("scale=imagnet", UnknownNameError, r"no scale 'imagnet'(.|\n)*'imagenet'"),
    ],
)
def test_options_of_a_folder_are_checked(folder, options, error, match):
    with pytest.raises(error, match=match):
        load_test_set(f"folder:{folder},{options}")


def test_a_comma_in_a_path_is_part_of_it(tmp_path):
    write_folder(tmp_path / "a,b", each=1)
    assert len(load_test_set(f"folder:{tmp_path / 'a,b'},side=28")) == 4


def test_a_crop_depends_on_its_seed_and_image_only(folder):
    path = str(folder / "train" / "cat" / "0.png")
    crops = Crops([(path, 0), (path, 0)], 28, seed=5)
    assert torch.equal(crops[0][0], crops[0][0])
    assert not torch.equal(crops[0][0], crops[1][0])
