"""AdaLoRA through PEFT, trained as `adapters.fit` trains: ranks that training itself shares among the layers."""

from __future__ import annotations

import math
from typing import Any

import torch
from timm.scheduler import CosineLRScheduler
from torch import Tensor, nn
from torch.nn import functional as F

import adapters
from adapters.data import Batches


def adalora(
    model: nn.Module,
    learning: Batches,
    validation: Batches,
    rank: int,
    *,
    learning_rate: float,
    epochs: int,
    batch_size: int,
    seed: int,
    autocast: torch.dtype | None,
) -> tuple[nn.Module, int, list[float]]:
    """PEFT's AdaLoRA: singular values are pruned while it trains, from half as many more down to the budget.

    Zhang et al. 2023, https://arxiv.org/abs/2303.10512. Schedule, batches and clipping are those of `adapters.fit`.

    Args:
        model: The backbone.
        learning: Training images.
        validation: Validation images, to watch.
        rank: The mean rank of the packed query-key-value layers at the end.
        learning_rate: The highest of the schedule.
        epochs: Passes over the training images.
        batch_size: Images a step.
        seed: Fixes the initial weights and the order of the images.
        autocast: What it computes in, if not float32.

    Returns:
        The model, the parameters of the singular values that are left, and the validation accuracy of each epoch.
    """
    import peft

    torch.manual_seed(seed)
    model.reset_classifier(learning.num_classes)  # type: ignore[operator]
    steps = math.ceil(len(learning) / batch_size)
    total = epochs * steps
    settings = peft.AdaLoraConfig(
        init_r=math.ceil(1.5 * rank), target_r=rank, tinit=2 * steps, tfinal=5 * steps, deltaT=5,
        total_step=total, lora_alpha=math.ceil(1.5 * rank), target_modules=["qkv"], modules_to_save=["head"],
    )  # fmt: skip
    tuned: Any = peft.get_peft_model(model, settings)
    trained = [p for p in tuned.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=learning_rate, weight_decay=1e-4)
    schedule = CosineLRScheduler(
        optimiser, t_initial=total, warmup_t=round(0.1 * total), warmup_prefix=True, t_in_epochs=False
    )
    step, curve = 0, []
    for epoch in range(epochs):
        tuned.train()
        order = torch.randperm(len(learning), generator=torch.Generator().manual_seed(seed * 100_003 + epoch))
        for numbers in order.split(batch_size):
            step += 1
            schedule.step_update(step)
            images, labels = learning.take(numbers)
            with torch.autocast("cpu", autocast, enabled=autocast is not None):
                logits = tuned.base_model.model(images)
            optimiser.zero_grad()
            penalty = tuned.peft_config["default"].orth_reg_weight * _orthogonality(tuned)
            (F.cross_entropy(logits.float(), labels) + penalty).backward()
            nn.utils.clip_grad_norm_(trained, 1.0)
            optimiser.step()
            tuned.base_model.update_and_allocate(step)
        curve.append(round(adapters.evaluate(tuned.base_model.model, validation, autocast=autocast).accuracy, 4))
    left = 0
    for name, values in tuned.named_parameters():
        if "lora_E" in name:
            layer = tuned.get_submodule(name.split(".lora_E")[0]).base_layer
            left += int((values != 0).sum()) * (layer.in_features + layer.out_features + 1)
    return tuned.base_model.model, left, curve


def _orthogonality(model: nn.Module) -> Tensor:
    """Mean of |P'P - I| and |QQ' - I|, Frobenius norms, over the layers: AdaLoRA's penalty (its equation 4)."""
    norms = []
    for name, factor in model.named_parameters():
        if "lora_A" in name or "lora_B" in name:
            gram = factor @ factor.T if "lora_A" in name else factor.T @ factor
            norms.append((gram - torch.eye(len(gram))).norm())
    return torch.stack(norms).mean()
