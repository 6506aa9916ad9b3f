"""The recipe of the bundled backbones, on a few striped images."""

import pytest
import torch

from examples.train_backbones import Images, Phase, Recipe, change_sharpness, hold_out, phase_at, train

RECIPE = Recipe(
    model="task2vec_resnet_32",
    phases=(Phase(2, 0.05, warmup_epochs=1), Phase(1, 0.02, warmup_epochs=0, sharpness=(-0.5, 1.5))),
    optimiser="sgd",
    weight_decay=5e-4,
    batch_size=16,
)


def striped_images(count=64):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 2
    wave = (torch.arange(32) // 4 % 2 * 120).view(1, 1, 32)
    pixels = torch.stack([(wave if label else wave.mT).expand(3, 32, 32) for label in labels])
    noise = torch.randint(0, 130, pixels.shape, generator=generator)
    return Images((pixels + noise).to(torch.uint8), labels)


@pytest.mark.slow
def test_a_resumed_training_ends_with_the_weights_of_an_uninterrupted_one(tmp_path):
    images, held_out = hold_out(striped_images(), 4, seed=0)
    device = torch.device("cpu")
    whole = train(RECIPE, images, held_out, tmp_path / "whole", device)
    part = Recipe(**{**vars(RECIPE), "phases": (Phase(2, 0.05, warmup_epochs=1),)})
    train(part, images, held_out, tmp_path / "part", device)
    resumed = train(RECIPE, images, held_out, tmp_path / "part", device)
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], tensor, atol=0, rtol=0)
    assert len((tmp_path / "part" / "task2vec_resnet_32.metrics.jsonl").read_text().splitlines()) == 3


def test_the_held_out_images_are_balanced_and_not_trained_on():
    images = striped_images()
    kept, held_out = hold_out(images, 4, seed=0)
    assert held_out.labels.bincount().tolist() == [4, 4]
    assert len(kept) + len(held_out) == len(images)
    seen = {pixels.numpy().tobytes() for pixels in kept.pixels}
    assert not any(pixels.numpy().tobytes() in seen for pixels in held_out.pixels)


def test_each_phase_warms_up_to_its_learning_rate_and_ends_at_zero():
    rates = [phase_at(RECIPE.phases, epoch)[1] for epoch in (0.5, 1.0, 1.5, 2.0, 2.001, 3.0)]
    assert rates == pytest.approx([0.025, 0.05, 0.025, 0.0, 0.02, 0.0], abs=1e-4)


def test_sharpness_changes_detail_only():
    pixels = striped_images(8).pixels
    flat = torch.full_like(pixels, 90)
    generator = torch.Generator().manual_seed(0)
    torch.testing.assert_close(change_sharpness(flat, (1.0, 1.0), generator), flat)
    blurred, sharpened = (change_sharpness(pixels, (a, a), generator).float() for a in (-0.5, 0.5))
    detail = [(p[..., 1:] - p[..., :-1]).abs().mean() for p in (blurred, pixels.float(), sharpened)]
    assert detail[0] < detail[1] < detail[2]
