import copy
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.layers import DropPath
from torch import nn
from torchvision.datasets import ImageFolder
from torchvision.transforms import RandomHorizontalFlip

import adapters
from adapters import METHODS, AdapterConfig, CheckpointError, ConfigError, TrainingError
from adapters.adapter import tuned_tensors
from adapters.data import Batches, transform_of
from adapters.drop_path import dropping_paths
from adapters.metrics import metrics_of
from adapters.run import batches_of
from tests.adapters.families import attach, backbone, fits

BACKBONE = "task2vec_vit_patch4_32"
SIZE = 20
"""Pixels of a side: fewer than the 32 that the backbone was made for, so that a step takes less time."""
BLACK = torch.zeros(3, SIZE, SIZE)


def stripes(count, seed=0):
    """Tensors with horizontal, vertical or no stripes under noise: quick to learn, not for free."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    wave = torch.sin(torch.arange(float(SIZE)))
    pattern = torch.stack(
        [wave.view(1, SIZE, 1).expand(3, SIZE, SIZE), wave.expand(3, SIZE, SIZE), torch.zeros(3, SIZE, SIZE)]
    )
    pixels = pattern[labels] + torch.randn(count, 3, SIZE, SIZE, generator=generator)
    return [(image, int(label)) for image, label in zip(pixels, labels, strict=True)]


def model_for(config, num_classes=3):
    torch.manual_seed(0)
    return adapters.attach(timm.create_model(BACKBONE, img_size=SIZE), config, num_classes, seed=0)


CONFIG = AdapterConfig("lora", rank=4, epochs=4)


@pytest.mark.parametrize("method", [m for m in METHODS if fits("ViT, average pooling", m)])
def test_every_method_learns_and_its_best_epoch_is_kept(method):
    train, val = stripes(96), stripes(48, seed=1)
    plain = timm.create_model(BACKBONE, pretrained=True, img_size=SIZE)
    model = attach(plain, AdapterConfig(method, epochs=4), 3, seed=0)
    result = adapters.fit(model, train, val, batch_size=16, progress=False)
    accuracies = [record["accuracy"] for record in result.history]
    assert len(accuracies) == 4
    assert result.best.accuracy == max(accuracies) == accuracies[result.best_epoch - 1]
    assert adapters.evaluate(model, val) == result.best
    assert result.best.accuracy > 0.5
    assert result.history[-1]["loss"] < result.history[0]["loss"]


def test_the_backbone_stays_as_it_was_batch_norm_included():
    model = adapters.attach(timm.create_model("resnet10t"), AdapterConfig("ssf", epochs=1), 3, seed=0)
    before = {n: t.clone() for n, t in model.state_dict().items() if not n.startswith(("adapters.", "fc."))}
    adapters.fit(model, stripes(16), batch_size=8, progress=False)
    after = model.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


class Changing(torch.utils.data.Dataset):
    """Images that might be others at the next reading, for all that is known."""

    def __init__(self, items):
        self.items, self.readings = items, 0

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        self.readings += 1
        return self.items[index]


@pytest.mark.parametrize("method", ["linear", "head2toe"])
def test_a_classifier_on_cached_features_equals_one_through_the_whole_network(method):
    train, val = stripes(64), stripes(32, seed=1)
    config = AdapterConfig(method, epochs=3)
    cached, whole = model_for(config), model_for(config)
    adapters.fit(cached, train, val, progress=False)
    images = torch.stack([image for image, _ in train])
    adapters.fit(whole, Changing(train), val, progress=False)  # it might change: no features are kept
    with torch.no_grad():
        torch.testing.assert_close(cached(images), whole(images), atol=1e-4, rtol=1e-4)


class Small(nn.Module):
    """A network whose last linear layer is not the whole of its answer."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer
        self.body = nn.Conv2d(3, 8, 3)
        self.fc = nn.Linear(8, 3)

    def forward(self, images):
        return self.answer(self.fc, self.body(images).relu().mean(dim=(2, 3)))


@pytest.mark.parametrize(
    "answer",
    [
        lambda fc, features: -fc(features),
        lambda fc, features: fc(features) + features[:, :3],
        lambda fc, features: fc(features) + fc(features.flip(-1)),
        lambda fc, features: nn.functional.linear(fc(features), torch.eye(3)[[1, 2, 0]]),
    ],
)
@pytest.mark.parametrize("wrap", [lambda fc: fc, nn.utils.parametrizations.weight_norm])
def test_a_classifier_that_is_not_the_models_answer_learns_through_the_whole_network(answer, wrap):
    train, config = stripes(24), AdapterConfig("linear", epochs=2)
    torch.manual_seed(0)
    cached = Small(answer)
    wrap(cached.fc)
    whole = copy.deepcopy(cached)
    for model, data in ((cached, train), (whole, Changing(train))):
        adapters.fit(adapters.attach(model, config, seed=0), data, batch_size=8, workers=0, progress=False)
    for name, tensor in _tensors(whole).items():
        torch.testing.assert_close(_tensors(cached)[name], tensor)


def test_a_linear_probe_reads_each_image_once_however_many_epochs_it_has():
    read = []

    class Counting(list):
        def __getitem__(self, index):
            read.append(index)
            return super().__getitem__(index)

    adapters.fit(model_for(AdapterConfig("linear", epochs=5)), Counting(stripes(12)), batch_size=4, progress=False)
    assert sorted(read) == list(range(12))


class Interrupting(list):
    """A dataset that fails once it has been read so many times."""

    def __init__(self, items, reads):
        super().__init__(items)
        self.reads = reads

    def __getitem__(self, index):
        self.reads -= 1
        if self.reads < 0:
            raise KeyboardInterrupt
        return super().__getitem__(index)


@pytest.mark.parametrize(
    "config", [CONFIG, AdapterConfig("adaptformer", bottleneck=4, epochs=4), AdapterConfig("linear", epochs=4)]
)
def test_a_training_interrupted_in_mid_epoch_ends_with_the_very_weights_of_an_uninterrupted_one(config, tmp_path):
    train, val = stripes(48), stripes(24, seed=1)
    settings = {"val": val, "batch_size": 16, "progress": False}
    whole = model_for(config)
    expected = adapters.fit(whole, train, **settings)

    def stop(model, record):  # a linear probe reads each image only once
        if config.method == "linear" and record["epoch"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        adapters.fit(model_for(config), Interrupting(train, 168), out=tmp_path, on_epoch=stop, **settings)
    assert 1 <= len((tmp_path / "metrics.jsonl").read_text().splitlines()) < 4
    resumed = model_for(config)
    found = adapters.fit(resumed, train, out=tmp_path, **settings)
    assert [r["loss"] for r in found.history] == [r["loss"] for r in expected.history]
    for name, parameter in adapters.tuned_parameters(whole).items():
        torch.testing.assert_close(adapters.tuned_parameters(resumed)[name], parameter, atol=0, rtol=0)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3, 4]


@pytest.mark.slow
def test_a_killed_process_ends_after_resuming_with_the_weights_of_an_uninterrupted_one(tmp_path):
    code = f"""
import torch
from PIL import Image
from tests.adapters.test_fit import *
torch.set_num_threads({torch.get_num_threads()})
adapters.fit(model_for(CONFIG), stripes(240), stripes(24, seed=1), batch_size=16, out={str(tmp_path)!r}, progress=False)
"""
    process = subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(Path.cwd())})
    deadline = time.time() + 120
    while not (tmp_path / "metrics.jsonl").exists():
        assert process.poll() is None
        assert time.time() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    resumed, whole = model_for(CONFIG), model_for(CONFIG)
    for model, out in ((resumed, tmp_path), (whole, None)):
        adapters.fit(model, stripes(240), stripes(24, seed=1), batch_size=16, out=out, progress=False)
    for name, parameter in adapters.tuned_parameters(whole).items():
        torch.testing.assert_close(adapters.tuned_parameters(resumed)[name], parameter, atol=0, rtol=0)


@pytest.mark.parametrize(
    "change",
    [
        {"train": stripes(51)},
        {"config": AdapterConfig("lora", rank=4, epochs=4, learning_rate=1e-3)},
        {"seed": 1},
    ],
)
def test_a_directory_of_another_training_is_not_resumed(change, tmp_path):
    adapters.fit(model_for(CONFIG), stripes(48), out=tmp_path, progress=False)
    settings = {"config": CONFIG, "train": stripes(48), "seed": 0} | change
    with pytest.raises(CheckpointError, match="other images, backbone or settings"):
        adapters.fit(
            model_for(settings["config"]), settings["train"], out=tmp_path, seed=settings["seed"], progress=False
        )


def test_a_damaged_state_is_named(tmp_path):
    (tmp_path / "training.pt").write_bytes(b"nonsense")
    with pytest.raises(CheckpointError, match=r"cannot resume from .*training\.pt"):
        adapters.fit(model_for(CONFIG), stripes(12), out=tmp_path, progress=False)


def test_metrics_of_something_else_are_not_written_over(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("mine\n")
    with pytest.raises(CheckpointError, match=r"holds metrics\.jsonl of something else"):
        adapters.fit(model_for(CONFIG), stripes(12), out=tmp_path, progress=False)
    assert (tmp_path / "metrics.jsonl").read_text() == "mine\n"


def test_a_malicious_state_is_not_executed(tmp_path):
    import pickle

    class Malice:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "owned"),))

    (tmp_path / "training.pt").write_bytes(pickle.dumps(Malice()))
    with pytest.raises(CheckpointError):
        adapters.fit(model_for(CONFIG), stripes(12), out=tmp_path, progress=False)
    assert not (tmp_path / "owned").exists()


class Poisoning(Interrupting):
    """A dataset whose images turn into NaN once it has been read so many times."""

    def __getitem__(self, index):
        self.reads -= 1
        image, label = list.__getitem__(self, index)
        return (image if self.reads >= 0 else image * float("nan")), label


def test_a_loss_that_is_not_a_number_stops_training_and_keeps_the_best_epoch(tmp_path):
    model = model_for(AdapterConfig("lora", rank=4, epochs=3))
    images = Poisoning(stripes(48), 132)  # read once to know them again, once for the first epoch
    with pytest.raises(TrainingError, match=r"the loss became nan at step 6 \(epoch 2\)"):
        adapters.fit(model, images, stripes(24, seed=1), batch_size=16, out=tmp_path, progress=False)
    best = torch.load(tmp_path / "training.pt", weights_only=True)["best"]
    for name, parameter in adapters.tuned_tensors(model).items():
        torch.testing.assert_close(parameter, best[name], atol=0, rtol=0)


@pytest.mark.parametrize(
    ("train", "val", "message"),
    [
        ([], None, "holds no images"),
        ([(BLACK, 0.5)] * 4, None, "label 0.5 of image 0"),
        ([(BLACK, 3)] * 4, None, "training label 3 exceeds the classifier's 3 classes"),
        ([(BLACK, 0)] * 4, [(BLACK, 1)], "class 1 is in the validation images"),
    ],
)
def test_data_that_cannot_be_learned_is_refused_with_the_value(train, val, message):
    with pytest.raises(TrainingError, match=message):
        adapters.fit(model_for(CONFIG), train, val, progress=False)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_backbone_of_another_type_than_the_images_is_refused(dtype):
    images = [(BLACK, i % 3) for i in range(6)]
    model = model_for(CONFIG).to(dtype)
    uses = [lambda: adapters.evaluate(model, images)]
    if dtype is not torch.float16:  # cannot be tuned on any images
        uses.append(lambda: adapters.fit(model, images, progress=False))
    for use in uses:
        with pytest.raises(
            TrainingError, match=r"the images are float32, and VisionTransformer is .*; tune model.float"
        ):
            use()


def test_a_backbone_of_other_channels_than_the_images_is_refused():
    model = adapters.attach(timm.create_model("resnet10t", in_chans=1), CONFIG, 3)
    with pytest.raises(TrainingError, match="the images have 3 channels, and ResNet takes 1"):
        adapters.fit(model, [(BLACK, i % 3) for i in range(6)], progress=False)


def test_tensors_of_another_size_than_a_backbone_of_fixed_size_takes_are_refused():
    images = [(torch.zeros(3, 2 * SIZE, SIZE), i % 3) for i in range(6)]
    with pytest.raises(TrainingError, match="the images have 40 x 20 pixels, and VisionTransformer takes 20 x 20"):
        adapters.fit(model_for(CONFIG), images, progress=False)


@pytest.mark.parametrize(
    "name",
    [
        BACKBONE,
        "test_vit",
        "vit_tiny_r_s16_p8_224",
        "xcit_nano_12_p16_224",
        "pit_ti_224",
        "visformer_tiny",
        "efficientvit_m0",
    ],
)
def test_pictures_get_the_size_that_a_backbone_was_made_for(name):
    model = timm.create_model(name, img_size=96, num_classes=2).eval()
    tensor = transform_of(model)(Image.new("RGB", (50, 40)))
    assert tensor.shape == (3, 96, 96)
    with torch.inference_mode():
        assert model(tensor[None]).shape == (1, 2)


def test_pil_images_go_through_the_backbones_own_preprocessing():
    pixels = np.random.default_rng(0).integers(0, 255, (SIZE, SIZE, 3), np.uint8)
    model = model_for(CONFIG)
    image, _ = Batches([(Image.fromarray(pixels), 0)], transform_of(model))[0]
    expected = (torch.from_numpy(pixels).permute(2, 0, 1) / 255 - 0.5) / 0.25
    torch.testing.assert_close(image, expected)


def imbalanced(count):
    return [item for i, item in enumerate(stripes(count)) if item[1] == 0 or i % 8 == 0]


def test_metrics_are_those_of_scikit_learn_and_of_a_confusion_matrix():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(5, (200,), generator=generator) // 2  # 0 and 1 twice as often as 2
    predicted = torch.where(
        torch.rand(200, generator=generator) < 0.6, labels, torch.randint(4, (200,), generator=generator)
    )
    confusion = torch.zeros(4, 4).index_put((labels, predicted), torch.ones(200), accumulate=True)
    recall = confusion.diag()[:3] / confusion.sum(1)[:3]
    precision = confusion.diag()[:3] / confusion.sum(0)[:3]
    found = metrics_of(predicted, labels)
    assert found.accuracy == pytest.approx(float(confusion.diag().sum() / 200))
    assert found.mean_class_accuracy == pytest.approx(float(recall.mean()))
    assert found.macro_f1 == pytest.approx(float((2 * precision * recall / (precision + recall)).mean()))


@pytest.mark.parametrize("monitor", ["accuracy", "mean_class_accuracy", "macro_f1"])
def test_the_best_epoch_is_that_of_the_monitored_metric(monitor):
    model = model_for(AdapterConfig("lora", rank=4, epochs=5))
    result = adapters.fit(model, imbalanced(96), stripes(24, seed=1), batch_size=16, monitor=monitor, progress=False)
    values = [record[monitor] for record in result.history]
    assert result.best_epoch == values.index(max(values)) + 1
    assert adapters.evaluate(model, stripes(24, seed=1)) == result.best


def test_training_stops_after_as_many_epochs_without_a_better_one_as_patience_says(tmp_path):
    config = AdapterConfig("linear", epochs=40, learning_rate=1e-12)  # never gets better
    result = adapters.fit(model_for(config), stripes(24), stripes(12, seed=1), patience=3, out=tmp_path, progress=False)
    assert len(result.history) == 4
    again = adapters.fit(model_for(config), stripes(24), stripes(12, seed=1), patience=3, out=tmp_path, progress=False)
    assert again.history == result.history


def test_dropped_paths_change_training_only_and_only_while_it_lasts():
    model, other = model_for(CONFIG), model_for(CONFIG)
    modules = list(model.modules())
    adapters.fit(model, stripes(24), batch_size=8, drop_path=0.5, progress=False)
    adapters.fit(other, stripes(24), batch_size=8, progress=False)
    assert [type(m) for m in model.modules()] == [type(m) for m in modules]
    assert not torch.equal(model.head.weight, other.head.weight)
    drops = []
    from adapters.drop_path import dropping_paths

    with dropping_paths(model, 0.5):
        drops = [block.drop_path1.drop_prob for block in model.blocks]
    assert drops == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5])


@pytest.mark.parametrize("method", ["ssf", "lora", "adaptformer"])
def test_layers_below_the_first_tuned_one_run_without_autograd(method):
    model = adapters.attach(backbone("ViT"), AdapterConfig(method, blocks=(2,)), 3)
    recorded = {}
    for i, block in enumerate(model.blocks):
        block.register_forward_hook(lambda _, args, output, i=i: recorded.update({i: output.requires_grad}))
    model(torch.zeros(1, 3, 64, 64))
    assert recorded == {0: False, 1: False, 2: True}


def test_training_in_bfloat16_learns_as_well():
    short = CONFIG.replace(epochs=2)
    exact = adapters.fit(model_for(short), stripes(48), stripes(16, seed=1), batch_size=8, progress=False)
    model = model_for(short)
    settings = {"autocast": torch.bfloat16, "batch_size": 8, "progress": False}
    rounded = adapters.fit(model, stripes(48), stripes(16, seed=1), **settings)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert all(getattr(m, "fused_attn", True) for m in model.modules())
    for one, other in zip(exact.history, rounded.history, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=0.1)


def test_a_loss_that_is_not_a_number_in_the_first_epoch_leaves_the_model_as_it_was():
    model = model_for(CONFIG)
    before = {name: p.detach().clone() for name, p in adapters.tuned_parameters(model).items()}
    images = [(image * (float("nan") if i == 40 else 1), label) for i, (image, label) in enumerate(stripes(48))]
    with pytest.raises(TrainingError, match=r"the loss became nan at step \d \(epoch 1\)"):
        adapters.fit(model, images, batch_size=8, progress=False)
    for name, parameter in adapters.tuned_parameters(model).items():
        torch.testing.assert_close(parameter, before[name], atol=0, rtol=0)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        *(({"batch_size": wrong}, "must be a whole number of at least 1") for wrong in (0, -1, 2.5)),
        *(({"patience": wrong}, "must be a whole number of at least 1") for wrong in (0, 1.5)),
        *(
            ({name: wrong}, f"{name}={wrong} must be a number of at least 0 and below 1")
            for name in ("label_smoothing", "drop_path")
            for wrong in (-0.5, 2.0, float("nan"))
        ),
        ({"patience": 2, "val": None}, "patience=2 waits for a better epoch on val, but val is missing"),
        ({"keep": "first"}, "keep='first' is no epoch; choose from best, last"),
    ],
)
def test_settings_out_of_range_are_refused_with_the_value(setting, message):
    settings = {"val": stripes(12), "progress": False} | setting
    with pytest.raises(ConfigError, match=message):
        adapters.fit(model_for(CONFIG), stripes(12), **settings)


def test_a_batch_of_no_images_is_not_evaluated():
    with pytest.raises(ConfigError, match="batch_size=0 must be a whole number of at least 1"):
        adapters.evaluate(model_for(CONFIG), stripes(12), batch_size=0)


def test_a_metric_that_is_not_measured_is_refused():
    with pytest.raises(ConfigError, match="monitor='f1' is not measured; choose from accuracy, mean_class"):
        adapters.fit(model_for(CONFIG), stripes(12), monitor="f1", progress=False)


def test_training_starts_from_another_tasks_adapter_but_not_from_its_classifier(tmp_path):
    other = model_for(CONFIG, num_classes=5)
    adapters.fit(other, [(image, label + 2) for image, label in stripes(48)], batch_size=16, progress=False)
    adapters.save(other, tmp_path / "other")
    model, plain = model_for(dataclasses.replace(CONFIG, epochs=1)), model_for(CONFIG)
    fitting = {"batch_size": 16, "progress": False}
    started = []
    handle = model.register_forward_pre_hook(lambda *_: started.append(_tensors(model)))
    adapters.fit(model, stripes(48), init_from=tmp_path / "other", **fitting)
    handle.remove()
    theirs, fresh = _tensors(other), _tensors(plain)
    for name, tensor in started[0].items():
        expected = fresh if name.startswith("head/") else theirs
        torch.testing.assert_close(tensor, expected[name])
    assert any(not torch.equal(theirs[name], fresh[name]) for name in theirs if not name.startswith("head/"))


def test_an_adapter_of_other_sizes_is_no_start(tmp_path):
    adapters.save(model_for(AdapterConfig("lora", rank=2)), tmp_path / "other")
    model = model_for(CONFIG)
    before = _tensors(model)
    with pytest.raises(CheckpointError, match="does not fit the model at"):
        adapters.fit(model, stripes(16), init_from=tmp_path / "other", progress=False)
    with pytest.raises(CheckpointError, match="no adapter is saved in"):
        adapters.fit(model, stripes(16), init_from=tmp_path / "nowhere", progress=False)
    for name, tensor in _tensors(model).items():
        torch.testing.assert_close(tensor, before[name])


def test_evaluation_in_bfloat16_is_that_in_float32_but_for_close_calls():
    model = model_for(CONFIG)
    adapters.fit(model, stripes(96), batch_size=16, progress=False)
    exact, rounded = (adapters.evaluate(model, stripes(96, seed=2), autocast=t) for t in (None, torch.bfloat16))
    assert rounded.accuracy == pytest.approx(exact.accuracy, abs=0.05)


@pytest.mark.parametrize("labels", [[3, 0], [[0, 1, 0, 1], [1, 0, 0, 0]]])
def test_evaluation_refuses_labels_that_the_model_does_not_know(labels):
    with pytest.raises(TrainingError, match="an image's label"):
        adapters.evaluate(model_for(CONFIG), [(BLACK, label) for label in labels])


def _tensors(model):
    return {name: tensor.detach().clone() for name, tensor in tuned_tensors(model).items()}


class Flipped(torch.utils.data.Dataset):
    """Images that are mirrored at random by the dataset itself, as torchvision's transforms do it."""

    def __init__(self, data):
        self.data, self.readings = data, 0

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        self.readings += 1
        image, label = self.data[index]
        return (image.flip(-1) if torch.rand(()) < 0.5 else image), label


def test_what_a_dataset_draws_at_random_is_drawn_again_for_every_epoch():
    data = Flipped(stripes(24))
    model = model_for(AdapterConfig("bitfit", epochs=3))
    adapters.fit(model, data, batch_size=8, workers=0, progress=False)  # workers would count for themselves
    assert data.readings >= 3 * 24
    batches = Batches(data, transform_of(model_for(CONFIG)))
    first, second = (batches.take(torch.arange(24)).images for _ in range(2))
    assert not torch.equal(first, second)


def test_only_what_never_changes_is_taken_for_the_same_at_every_reading():
    class Augmenting(Flipped):
        def __init__(self, data):
            super().__init__(data)
            self.dataset = data  # what it reads never changes, what it gives does

    def steady(data):
        return Batches(data, lambda image: image).cacheable

    assert steady(stripes(24))
    assert steady(torch.utils.data.Subset(stripes(24), range(9)))
    assert not steady(Flipped(stripes(24)))
    assert not steady(Augmenting(stripes(24)))


def test_a_training_with_other_validation_images_is_not_resumed(tmp_path):
    adapters.fit(model_for(CONFIG), stripes(48), stripes(12, seed=1), out=tmp_path, progress=False)
    with pytest.raises(CheckpointError, match="other images, backbone or settings"):
        adapters.fit(model_for(CONFIG), stripes(48), stripes(12, seed=2), out=tmp_path, progress=False)


def folder_of_noise(path, count=12):
    """Half of the pictures in each of two folders; flipped at random when read."""
    for i in range(count):
        pixels = np.random.default_rng(i).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
        (path / f"c{i % 2}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path / f"c{i % 2}" / f"{i:02}.png")
    return ImageFolder(path, RandomHorizontalFlip())


class OwnNoise(Changing):
    """What it draws comes from a generator of its own, which no seed of ours reaches."""

    def __getitem__(self, index):
        image, label = super().__getitem__(index)
        return image + torch.from_numpy(np.random.default_rng().normal(size=image.shape)).float(), label


@pytest.mark.parametrize("kind", ["folder", "own noise in a folder", "flipped", "table"])
def test_images_that_are_drawn_at_random_are_resumed_with_themselves_and_with_no_others(kind, tmp_path):
    class Table(OwnNoise):
        _fingerprint = "abc"

    folder = folder_of_noise(tmp_path / "pictures")
    if kind == "own noise in a folder":
        folder.loader = lambda path: Image.effect_noise((SIZE, SIZE), 50).convert("RGB")
    kinds = {"flipped": Flipped(stripes(12)), "table": Table(stripes(12))}
    data = kinds.get(kind, folder)
    fold, other = torch.utils.data.Subset(data, range(8)), torch.utils.data.Subset(data, [*range(7), 8])
    config, settings = AdapterConfig("bitfit", epochs=2), {"out": tmp_path / "out", "workers": 0, "progress": False}
    first = adapters.fit(model_for(config), fold, **settings)
    assert adapters.fit(model_for(config), fold, **settings).history == first.history
    for others in (other, torch.utils.data.ConcatDataset([torch.utils.data.Subset(data, range(7)), other][::-1])):
        with pytest.raises(CheckpointError, match="other images, backbone or settings"):
            adapters.fit(model_for(config), others, **settings)


def test_images_that_nothing_tells_from_others_are_not_resumed(tmp_path):
    config, settings = AdapterConfig("bitfit", epochs=1), {"out": tmp_path, "workers": 0, "progress": False}
    adapters.fit(model_for(config), OwnNoise(stripes(12)), **settings)
    with pytest.raises(CheckpointError, match="the images change with every reading"):
        adapters.fit(model_for(config), OwnNoise(stripes(12)), **settings)


def test_training_and_validation_of_other_class_names_are_refused():
    class Named(list):
        class_names = ()

    train, val = Named(stripes(12)), Named(stripes(12))
    train.class_names, val.class_names = ("a", "b", "c"), ("b", "c")
    with pytest.raises(TrainingError, match="the classes of the validation images, b, c, are not those of"):
        adapters.fit(model_for(CONFIG), train, val, progress=False)


def test_class_names_are_compared_wherever_a_dataset_keeps_them(tmp_path):
    def folder(name, *classes):
        for label in classes:
            (tmp_path / name / label).mkdir(parents=True)
            Image.new("RGB", (SIZE, SIZE)).save(tmp_path / name / label / "0.png")
        return ImageFolder(tmp_path / name, RandomHorizontalFlip())

    class Label:
        def __init__(self, *names):
            self.names = names

    class Table(list):
        def __init__(self, *names):
            super().__init__({"image": BLACK, "label": number} for number in range(len(names)))
            self.features = {"image": None, "label": Label(*names)}

    train, val = folder("train", "a", "b", "c"), folder("val", "b", "c")
    parts = torch.utils.data.Subset(train, [0, 1, 2]), torch.utils.data.Subset(val, [0, 1])
    one, other = (torch.utils.data.ConcatDataset([part]) for part in parts)
    for known, others in ((train, val), parts, (one, other), (Table("a", "b", "c"), Table("b", "c"))):
        with pytest.raises(TrainingError, match="the classes of the validation images, b, c, are not those of"):
            adapters.fit(model_for(CONFIG), known, others, workers=0, progress=False)
    with pytest.raises(TrainingError, match="of a dataset in a ConcatDataset, b, c, are not those of another one in"):
        adapters.fit(model_for(CONFIG), torch.utils.data.ConcatDataset([train, val]), workers=0, progress=False)
    first = folder("first", "a", "b")  # the same numbers as far as they go
    val.target_transform = lambda label: label + 1  # to the numbers that these classes have in training
    for others in (first, val):
        adapters.fit(model_for(CONFIG.replace(epochs=1)), train, others, workers=0, progress=False)


def test_labels_of_images_that_are_not_kept_are_checked_too():
    data = Flipped([(image, label + 1) for image, label in stripes(12)])
    with pytest.raises(TrainingError, match="training label 3 exceeds the classifier's 3 classes"):
        adapters.fit(model_for(CONFIG), data, progress=False)


def test_an_adapter_of_another_backbone_is_no_start(tmp_path):
    adapters.save(model_for(CONFIG), tmp_path)
    torch.manual_seed(1)
    other = adapters.attach(timm.create_model(BACKBONE, img_size=SIZE), CONFIG, 3)
    with pytest.raises(CheckpointError, match="was tuned on task2vec_vit_patch4_32"):
        adapters.fit(other, stripes(12), init_from=tmp_path, progress=False)


def test_the_last_epoch_is_kept_where_that_is_asked_for():
    model = model_for(CONFIG)
    seen = []
    result = adapters.fit(
        model,
        stripes(48),
        stripes(24, seed=1),
        keep="last",
        on_epoch=lambda tuned, record: seen.append((record["epoch"], tuned is model)),
        progress=False,
    )
    assert result.best_epoch == CONFIG.epochs
    assert (
        result.best.accuracy == result.history[-1]["accuracy"] == adapters.evaluate(model, stripes(24, seed=1)).accuracy
    )
    assert [accuracy for accuracy, _ in result.curve] == [round(r["accuracy"], 4) for r in result.history]
    assert seen == [(epoch, True) for epoch in range(1, 5)]
    with pytest.raises(ConfigError, match="give one of both"):
        adapters.fit(model_for(CONFIG), stripes(12), keep="last", patience=2, progress=False)


def test_paths_of_numbered_blocks_are_dropped_whatever_the_number_begins_with_and_no_path_is_an_error():
    for name, blocks in (("regnetx_002", 13), ("resnet10t", 4)):  # ResNets hold None where nothing is dropped
        model = adapters.attach(timm.create_model(name), AdapterConfig("linear"), 3)
        with dropping_paths(model, 0.5):
            assert sum(isinstance(module, DropPath) for module in model.modules()) == blocks
        assert not any(isinstance(module, DropPath) for module in model.modules())
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    model = adapters.attach(plain, AdapterConfig("linear"), 3)
    with pytest.raises(ConfigError, match=r"drop_path=0.5 finds no path to drop in Sequential"):
        adapters.fit(model, stripes(6), drop_path=0.5, progress=False)


@pytest.mark.parametrize("autocast", [None, torch.float16])
def test_weights_of_float16_are_not_tuned(autocast):
    with pytest.raises(ConfigError, match=r"too coarse to learn; tune model.float"):
        adapters.fit(model_for(CONFIG).half(), [(BLACK.half(), i % 3) for i in range(6)], autocast=autocast)


def test_outputs_that_are_nan_are_no_answers():
    """The largest of NaN is the first class, of which there may be many images."""
    model = model_for(CONFIG)
    with torch.no_grad():
        model.head.weight[0, 0] = torch.nan
    for labels in (lambda i: i % 3, lambda i: torch.eye(3)[i % 3]):
        with pytest.raises(TrainingError, match="the model's outputs are NaN for 6 of 6 images"):
            adapters.evaluate(model, [(BLACK, labels(i)) for i in range(6)])


def test_a_last_image_is_not_alone_in_its_batch():
    """A batch norm learns nothing from one; each image is still learned from once in an epoch."""
    order = torch.randperm(33)
    batches = batches_of(order, 16)
    assert [len(batch) for batch in batches] == [16, 17]
    assert torch.equal(torch.cat(batches), order)
    assert [len(batch) for batch in batches_of(order[:1], 16)] == [1]
    assert [len(batch) for batch in batches_of(order, 8)] == [8, 8, 8, 9]
    plain = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.BatchNorm1d(12), nn.Linear(12, 3))
    model = adapters.attach(plain, AdapterConfig("full", epochs=1), 3)
    result = adapters.fit(model, stripes(9), batch_size=4, progress=False)
    assert np.isfinite(result.history[0]["loss"])
