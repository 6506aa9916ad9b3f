"""Train the two bundled backbones from an ImageFolder zip.

    python examples/train_backbones.py cnn tin_base.zip --out runs
    python examples/train_backbones.py vit tin_base.zip --out runs

The CNN learns from the labels; the Vision Transformer, which learns little from 45,000 images alone, also from the
CNN's predictions on the same augmented images (Beyer et al. 2022, "Knowledge distillation: A good teacher is patient
and consistent", https://arxiv.org/abs/2106.05237). Both runs resume where they stopped after being killed, and leave
half-precision weights and a model card in `--out`. Copy those beside the model's definition to ship them.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
import time
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import timm
import torch
import typer
from PIL import Image
from rich.progress import Progress, TimeRemainingColumn, track
from safetensors.torch import load_file, save_file
from timm.optim import create_optimizer_v2
from torch import Tensor, nn
from torch.nn import functional as F

import adapters
import task2vec
from task2vec_base import write_atomically

IMAGE_SIZE = 32
HELD_OUT_PER_CLASS = 10  # of the training images, to watch progress without the test split


@dataclasses.dataclass(frozen=True)
class Phase:
    """A stretch of training with a learning rate that warms up and then falls to zero along half a cosine."""

    epochs: int
    learning_rate: float
    warmup_epochs: int
    sharpness: tuple[float, float] = (0.0, 0.0)  # range of the factor by which an image's detail is changed


# Pictures reach 32 px by many ways of shrinking, some of which leave much sharper edges than others. A network that saw
# one way only loses a sixth of its accuracy on another; training on a range of sharpness mends that.
ANY_SHARPNESS = (-0.5, 1.5)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Everything that shapes the weights, apart from the images."""

    model: str
    phases: tuple[Phase, ...]
    optimiser: str
    weight_decay: float
    batch_size: int = 128
    label_smoothing: float = 0.1
    crop_padding: int = 4
    teacher: str | None = None
    teacher_weight: float = 0.0  # share of the loss that comes from the teacher
    temperature: float = 1.0
    seed: int = 0


RECIPES = {
    "cnn": Recipe(
        model=task2vec.DEFAULT_PROBE,
        phases=(Phase(28, 0.2, warmup_epochs=2), Phase(12, 0.08, warmup_epochs=1, sharpness=ANY_SHARPNESS)),
        optimiser="sgd",
        weight_decay=5e-4,
    ),
    "vit": Recipe(
        model=adapters.DEFAULT_BACKBONE,
        phases=(Phase(16, 1.5e-3, warmup_epochs=2, sharpness=ANY_SHARPNESS),),
        optimiser="adamw",
        weight_decay=0.05,
        teacher=task2vec.DEFAULT_PROBE,
        teacher_weight=0.8,
        temperature=2.0,
    ),
}


@dataclasses.dataclass(frozen=True)
class Images:
    """Pixels `(N, 3, H, W)` uint8 and labels `(N,)` int64."""

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


def read_split(archive: Path, split: str, cache: Path) -> Images:
    """Decode `NAME/split/CLASS/*` of a zip once and keep the pixels in `cache`."""
    cached = cache / f"{archive.stem}_{split}.safetensors"
    if not cached.exists():
        task = task2vec.Task.from_folder(archive, split=split)
        pixels = np.empty((len(task), IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
        for i in track(range(len(task)), f"Reading {split}"):
            pixels[i] = np.asarray(task[i][0].resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BILINEAR))
        labels = torch.from_numpy(task.labels)
        tensors = {"pixels": torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), "labels": labels}
        cache.mkdir(parents=True, exist_ok=True)
        write_atomically(cached, partial(save_file, tensors))
    tensors = load_file(cached)
    return Images(tensors["pixels"], tensors["labels"])


def hold_out(images: Images, per_class: int, seed: int) -> tuple[Images, Images]:
    """Split off `per_class` images of every class: (kept, held out)."""
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    rank = torch.zeros(len(images), dtype=torch.long)
    for label in images.labels.unique():
        members = order[images.labels[order] == label]
        rank[members] = torch.arange(len(members))
    held = rank < per_class
    return Images(images.pixels[~held], images.labels[~held]), Images(images.pixels[held], images.labels[held])


def normalise(pixels: Tensor, config: dict[str, Any]) -> Tensor:
    """uint8 pixels to the float input that the model's timm config asks for."""
    mean = torch.tensor(config["mean"], device=pixels.device).view(1, 3, 1, 1)
    std = torch.tensor(config["std"], device=pixels.device).view(1, 3, 1, 1)
    return ((pixels.float() / 255 - mean) / std).contiguous(memory_format=torch.channels_last)


def change_sharpness(pixels: Tensor, bounds: tuple[float, float], generator: torch.Generator) -> Tensor:
    """Add to each image a random multiple of its detail, the difference to its blurred self."""
    if bounds == (0.0, 0.0):
        return pixels
    n, channels = pixels.shape[:2]
    kernel = torch.tensor([1.0, 2.0, 1.0]) / 4
    blur = torch.outer(kernel, kernel).expand(channels, 1, 3, 3)
    values = pixels.float()
    detail = values - F.conv2d(F.pad(values, (1, 1, 1, 1), mode="reflect"), blur, groups=channels)
    factor = bounds[0] + (bounds[1] - bounds[0]) * torch.rand(n, 1, 1, 1, generator=generator)
    return (values + factor * detail).clamp(0, 255).to(torch.uint8)


def augment(pixels: Tensor, padding: int, generator: torch.Generator) -> Tensor:
    """Random horizontal flips and random crops of the reflected-padded image, drawn per image."""
    n, _, height, width = pixels.shape
    flip = torch.rand(n, generator=generator) < 0.5
    pixels = torch.where(flip.view(n, 1, 1, 1), pixels.flip(-1), pixels)
    padded = F.pad(pixels.float(), (padding,) * 4, mode="reflect").to(pixels.dtype)
    top, left = torch.randint(0, 2 * padding + 1, (2, n), generator=generator)
    rows = top.view(n, 1, 1) + torch.arange(height).view(1, height, 1)
    columns = left.view(n, 1, 1) + torch.arange(width).view(1, 1, width)
    return padded[torch.arange(n).view(n, 1, 1), :, rows, columns].permute(0, 3, 1, 2)


def phase_at(phases: tuple[Phase, ...], epoch: float) -> tuple[Phase, float]:
    """The phase that a (fractional) epoch lies in, and its learning rate there."""
    for phase in phases:
        if epoch <= phase.epochs:
            break
        epoch -= phase.epochs
    if epoch < phase.warmup_epochs:
        return phase, phase.learning_rate * epoch / phase.warmup_epochs
    share = (epoch - phase.warmup_epochs) / (phase.epochs - phase.warmup_epochs)
    return phase, phase.learning_rate * 0.5 * (1 + math.cos(math.pi * share))


def loss_of(logits: Tensor, labels: Tensor, teacher_logits: Tensor | None, recipe: Recipe) -> Tensor:
    """Label-smoothed cross-entropy, mixed with the teacher's softened predictions (Hinton et al. 2015)."""
    hard = F.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
    if teacher_logits is None:
        return hard
    t = recipe.temperature
    soft = F.kl_div(
        F.log_softmax(logits / t, dim=1),
        F.log_softmax(teacher_logits / t, dim=1),
        log_target=True,
        reduction="batchmean",
    )
    return (1 - recipe.teacher_weight) * hard + recipe.teacher_weight * t * t * soft


@torch.no_grad()
def accuracy(model: nn.Module, images: Images, config: dict[str, Any], device: torch.device) -> float:
    """Top-1 accuracy in float32."""
    model.eval()
    correct = 0
    for start in range(0, len(images), 256):
        logits = model(normalise(images.pixels[start : start + 256].to(device), config))
        correct += int((logits.argmax(1).cpu() == images.labels[start : start + 256]).sum())
    return correct / len(images)


def train(recipe: Recipe, images: Images, held_out: Images, out: Path, device: torch.device) -> nn.Module:
    """Train to the end of the recipe, resuming from the last finished epoch in `out`."""
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(recipe.seed)
    num_classes = int(images.labels.max()) + 1
    # Separate matrix products train small attention maps on a CPU twice as fast as the fused kernel.
    timm.layers.set_fused_attn(device.type != "cpu")
    model = timm.create_model(recipe.model, num_classes=num_classes).to(device, memory_format=torch.channels_last)
    config = model.pretrained_cfg
    teacher = None
    if recipe.teacher is not None:
        teacher = timm.create_model(recipe.teacher, num_classes=num_classes)
        teacher.load_state_dict({k: v.float() for k, v in load_file(out / f"{recipe.teacher}.safetensors").items()})
        teacher.eval().to(device, memory_format=torch.channels_last)
    optimiser = create_optimizer_v2(
        model, opt=recipe.optimiser, lr=recipe.phases[0].learning_rate, weight_decay=recipe.weight_decay
    )
    checkpoint = out / f"{recipe.model}.checkpoint.pt"
    first_epoch = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=device, weights_only=True)
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        first_epoch = state["epoch"]
    epochs = sum(phase.epochs for phase in recipe.phases)
    steps_per_epoch = len(images) // recipe.batch_size
    compiled = torch.compile(model) if recipe.teacher else model
    with Progress(*Progress.get_default_columns()[:-1], TimeRemainingColumn(elapsed_when_finished=True)) as progress:
        bar = progress.add_task(recipe.model, total=epochs * steps_per_epoch)
        progress.update(bar, completed=first_epoch * steps_per_epoch)
        for epoch in range(first_epoch, epochs):
            start, total_loss = time.time(), 0.0
            # One generator per epoch: a resumed run sees the images that an uninterrupted one would have seen.
            generator = torch.Generator().manual_seed(recipe.seed * 100_003 + epoch)
            torch.manual_seed(recipe.seed * 100_003 + epoch)
            order = torch.randperm(len(images), generator=generator)
            model.train()
            for i in range(steps_per_epoch):
                phase, learning_rate = phase_at(recipe.phases, epoch + (i + 1) / steps_per_epoch)
                for group in optimiser.param_groups:
                    group["lr"] = learning_rate
                batch = order[i * recipe.batch_size : (i + 1) * recipe.batch_size]
                pixels = augment(images.pixels[batch], recipe.crop_padding, generator)
                pixels = change_sharpness(pixels, phase.sharpness, generator)
                labels = images.labels[batch].to(device)
                inputs = normalise(pixels.to(device), config)
                with torch.autocast(device.type, torch.bfloat16):
                    teacher_logits = None
                    if teacher is not None:
                        with torch.no_grad():
                            teacher_logits = teacher(inputs).float()
                    logits = compiled(inputs)
                loss = loss_of(logits.float(), labels, teacher_logits, recipe)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                total_loss += loss.item()
                progress.advance(bar)
            state = {"model": model.state_dict(), "optimiser": optimiser.state_dict(), "epoch": epoch + 1}
            write_atomically(checkpoint, partial(torch.save, state))
            record = {
                "epoch": epoch + 1,
                "loss": total_loss / steps_per_epoch,
                "held_out_accuracy": accuracy(model, held_out, config, device),
                "seconds": time.time() - start,
            }
            with (out / f"{recipe.model}.metrics.jsonl").open("a") as log:
                log.write(json.dumps(record) + "\n")
            progress.console.print(record)
    return model


def main(
    which: Annotated[str, typer.Argument(help="cnn or vit; the vit needs the cnn's weights in --out")],
    archive: Annotated[Path, typer.Argument(help="ImageFolder zip with NAME/train/CLASS/* and NAME/test/CLASS/*")],
    out: Annotated[Path, typer.Option(help="where weights, card, metrics and checkpoints go")] = Path("runs"),
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
) -> None:
    """Train one bundled backbone and write its weights and model card."""
    recipe = RECIPES[which]
    training, held_out = hold_out(read_split(archive, "train", out), HELD_OUT_PER_CLASS, recipe.seed)
    test = read_split(archive, "test", out)
    model = train(recipe, training, held_out, out, torch.device(device))
    # Half precision halves the package; the card's accuracy is that of the rounded weights.
    half = {k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    model.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in half.items()})
    weights = {k: v.contiguous() for k, v in half.items()}
    write_atomically(out / f"{recipe.model}.safetensors", partial(save_file, weights))
    history = [json.loads(line) for line in (out / f"{recipe.model}.metrics.jsonl").read_text().splitlines()]
    card = {
        "model": recipe.model,
        "parameters": sum(p.numel() for p in model.parameters()),
        "data": archive.stem,
        "training_images": len(training),
        "classes": int(training.labels.max()) + 1,
        "recipe": dataclasses.asdict(recipe),
        "device": device,
        "training_seconds": round(sum(r["seconds"] for r in history)),
        "held_out_accuracy": accuracy(model, held_out, model.pretrained_cfg, torch.device(device)),
        "test_accuracy": accuracy(model, test, model.pretrained_cfg, torch.device(device)),
        "date": datetime.date.today().isoformat(),
    }
    (out / f"{recipe.model}.json").write_text(json.dumps(card, indent=2) + "\n")
    print(json.dumps(card, indent=2))


if __name__ == "__main__":
    typer.run(main)
