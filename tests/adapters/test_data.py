"""Reading: the same batches whoever reads them, and clear words for what cannot be read."""

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch.utils.data import DataLoader, Subset, TensorDataset

import adapters
from adapters import AdapterConfig, TrainingError
from adapters.augmentation import augmentation_of
from adapters.data import Batches, Reader, drawn_from, transform_of
from task2vec import Task
from task2vec_base.pictures import to_rgb
from tests.adapters.test_fit import BACKBONE, CONFIG, Changing, Flipped, model_for, stripes
from tests.task2vec.tasks.folders import damage, photographs


@pytest.fixture(scope="module")
def model():
    return timm.create_model(BACKBONE)


def read(batches, workers, epoch, **settings):
    reader = Reader(batches, workers=workers, **settings)
    order = torch.tensor([5, 0, 3, 3, 1, 4, 2]).split(3)
    return torch.cat([batch.images for batch in reader.read(order, epoch)])


@pytest.mark.parametrize("augment", ["light", "timm"])
@pytest.mark.parametrize("kind", ["pictures", "task"])
def test_augmented_images_follow_from_seed_epoch_and_number_with_any_number_of_workers(tmp_path, model, augment, kind):
    task = Task.from_folder(photographs(tmp_path / "pets", per_class=3))
    batches = Batches(task if kind == "task" else [task[i] for i in range(len(task))], transform_of(model))
    drawn = {"augment": augmentation_of(model, augment), "seed": 1}
    expected = read(batches, 0, 2, **drawn)
    assert torch.equal(read(batches, 2, 2, **drawn), expected)
    assert torch.equal(expected[2], expected[3])  # image 3 twice
    assert not torch.equal(read(batches, 0, 3, **drawn), expected)
    assert not torch.equal(read(batches, 0, 2, **drawn | {"seed": 2}), expected)
    plain = torch.stack([transform_of(model)(task[i][0]) for i in (5, 0, 3, 3, 1, 4, 2)])
    assert torch.equal(read(batches, 2, 2), plain)
    assert not torch.equal(expected, plain)


def test_what_a_dataset_draws_by_itself_follows_from_them_too():
    batches = Batches(Flipped(stripes(6)), lambda image: image)
    epochs = [read(batches, 2, epoch, seed=4) for epoch in (1, 1, 2, 3, 4)]
    assert torch.equal(epochs[0], epochs[1])
    assert torch.equal(epochs[0], read(batches, 0, 1, seed=4))
    assert any(not torch.equal(epochs[0], other) for other in epochs[2:])


def test_what_is_drawn_for_an_image_leaves_the_callers_generators_alone():
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002
    expected = torch.rand(2), np.random.rand()  # noqa: NPY002
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002
    with drawn_from(1, 2, 3):
        torch.rand(5)
        np.random.rand()  # noqa: NPY002
    assert torch.equal(torch.rand(2), expected[0])
    assert np.random.rand() == expected[1]  # noqa: NPY002


def test_workers_change_no_weight_and_stay_over_the_epochs(tmp_path):
    task = Task.from_folder(photographs(tmp_path / "pets", per_class=8))
    tuned = []
    for workers in (0, 2):
        model = model_for(AdapterConfig("lora", rank=2, epochs=2), num_classes=2)
        adapters.fit(model, task, batch_size=4, augment="timm", workers=workers, progress=False)
        tuned.append(adapters.tuned_parameters(model))
    for name, parameter in tuned[0].items():
        assert torch.equal(parameter, tuned[1][name])


def test_an_augmented_training_that_was_interrupted_ends_as_an_uninterrupted_one(tmp_path):
    task = Task.from_folder(photographs(tmp_path / "pets", per_class=9))
    config = AdapterConfig("lora", rank=2, epochs=3)
    settings = {"batch_size": 4, "augment": "timm", "label_smoothing": 0.1, "progress": False}

    def stop(model, record):
        if record["epoch"] == 2:
            raise KeyboardInterrupt

    whole, resumed = model_for(config, 2), model_for(config, 2)
    adapters.fit(whole, task, **settings)
    with pytest.raises(KeyboardInterrupt):
        adapters.fit(model_for(config, 2), task, out=tmp_path / "out", on_epoch=stop, **settings)
    adapters.fit(resumed, task, out=tmp_path / "out", workers=2, **settings)
    for name, parameter in adapters.tuned_parameters(whole).items():
        assert torch.equal(parameter, adapters.tuned_parameters(resumed)[name])
    with pytest.raises(adapters.CheckpointError, match="other images, backbone or settings"):
        adapters.fit(model_for(config, 2), task, out=tmp_path / "out", **settings | {"augment": "light"})


def test_unreadable_images_of_a_task_are_left_out_and_named_on_the_result(tmp_path):
    folder = photographs(tmp_path / "pets", per_class=10)
    damage(folder / "cat" / "3.jpg")
    task = Task.from_folder(folder)
    result = adapters.fit(model_for(AdapterConfig("linear", epochs=1), 2), task, progress=False)
    assert len(result.unreadable) == 1
    assert "cat/3.jpg" in result.unreadable[0]
    train, val = task.decoded().split(0.3)
    again = adapters.fit(model_for(AdapterConfig("linear", epochs=1), 2), train, val, progress=False)
    assert again.unreadable == result.unreadable


@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_that_another_dataset_cannot_read_is_named(workers):
    class Broken(Changing):
        def __getitem__(self, index):
            if index == 7:
                raise OSError("truncated")
            return super().__getitem__(index)

    with pytest.raises(TrainingError, match=r"cannot read image 7 \(OSError: truncated\); replace or remove it"):
        adapters.fit(model_for(CONFIG), Broken(stripes(12)), batch_size=4, workers=workers, progress=False)


@pytest.mark.parametrize("augment", ["none", "light", "timm"])
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16"])
def test_pictures_of_any_colours_are_learned_from(mode, augment):
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32), dtype=np.uint8)
    picture = Image.fromarray(pixels if mode != "I;16" else pixels.astype(np.uint16) << 8)
    picture = picture if mode == "I;16" else picture.convert(mode)
    data, model = [(picture, i % 2) for i in range(4)], model_for(AdapterConfig("bitfit", epochs=1), 2)
    adapters.fit(model, data, augment=augment, progress=False)
    found = Batches(data, transform_of(model))[0][0]
    assert torch.equal(found, transform_of(model)(to_rgb(picture)))


def test_pictures_are_learned_from_upright():
    picture = Image.fromarray(np.arange(32 * 16 * 3, dtype=np.uint8).reshape(32, 16, 3))
    turned = picture.transpose(Image.Transpose.ROTATE_90)
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.info["exif"] = exif.tobytes()
    model = model_for(CONFIG)
    images = [Batches([(image, 0)], transform_of(model))[0][0] for image in (picture, turned)]
    assert torch.equal(*images)


def test_pictures_of_no_known_range_are_refused():
    data = [(Image.fromarray(np.full((32, 32), -5, np.float32)), i) for i in range(2)]
    with pytest.raises(TrainingError, match=r"cannot read image 0 .*outside of 0 to 65535"):
        adapters.fit(model_for(CONFIG), data, progress=False)


class Rows(list):
    """A stand-in with the interface of a Hugging Face dataset: items are mappings."""

    column_names = ("image", "label")


def test_items_with_columns_are_learned_from_as_pairs_are():
    pairs = stripes(12)
    rows = Rows({"image": image, "label": label} for image, label in pairs)
    models = [model_for(AdapterConfig("lora", rank=2, epochs=1)) for _ in range(2)]
    for model, data in zip(models, (pairs, rows), strict=True):
        adapters.fit(model, data, batch_size=4, progress=False)
    for one, other in zip(*(adapters.tuned_parameters(model).values() for model in models), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (DataLoader(stripes(12), batch_size=4), r"give its dataset instead, as in loader.dataset with batch_size=4"),
        (iter(stripes(12)), "has no length or no items by number"),
        ({"train": stripes(12)}, r"a dict of splits; give one, such as dataset\['train'\]"),
        ([{"picture": 1}], "items have the columns picture; name them 'image' and 'label'"),
        ([(torch.zeros(3, 32, 32), 0), (torch.zeros(3, 16, 16), 1)], r"shapes \(3, 16, 16\), \(3, 32, 32\)"),
    ],
)
def test_data_that_cannot_be_read_is_refused_with_what_to_give(data, message):
    with pytest.raises(TrainingError, match=message):
        adapters.fit(model_for(CONFIG), data, progress=False)


def test_settings_of_reading_that_do_not_fit_are_refused():
    with pytest.raises(TrainingError, match="tensors cannot be augmented"):
        adapters.fit(model_for(CONFIG), stripes(12), augment="light", progress=False)
    with pytest.raises(adapters.ConfigError, match="augment='strong' is unknown; choose from none, light, timm"):
        adapters.fit(model_for(CONFIG), stripes(12), augment="strong", progress=False)
    with pytest.raises(TrainingError, match="workers=-1 cannot read images"):
        adapters.fit(model_for(CONFIG), stripes(12), workers=-1, progress=False)


def test_evaluating_through_what_is_kept_gives_the_tensors_of_the_files(tmp_path, model):
    task = Task.from_folder(photographs(tmp_path / "pets"))
    transform = transform_of(model)
    direct = torch.stack([transform(task[i][0]) for i in range(len(task))])
    for data in (task, task.decoded(), task.decoded(transform), Subset(task, range(len(task)))):
        images, labels = Batches(data, transform).take(torch.arange(len(task)))
        assert torch.equal(images, direct)
        assert labels.tolist() == task.labels.tolist()


def test_tensors_in_memory_are_taken_a_batch_at_a_time():
    images, labels = torch.randn(7, 3, 8, 8), torch.arange(7) % 3
    batches = Batches(TensorDataset(images, labels), lambda image: image)
    assert torch.equal(read(batches, 0, 1), images[[5, 0, 3, 3, 1, 4, 2]])
    assert batches.num_classes == 3
