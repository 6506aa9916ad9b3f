"""The Fisher by brute force: autograd, one image and one label at a time."""

from itertools import product

import numpy as np
import torch
from torch.nn import functional as F


def logits_of(task, probe, classifier, index):
    dtype = next(iter(probe.layers.values())).weight.dtype
    weight, bias = (torch.tensor(v, dtype=dtype) for v in (classifier.weight, classifier.bias))
    with probe.feature_tap() as features:
        return F.linear(features(probe.transform(task[index][0])[None].to(dtype)), weight, bias)


def loss_of(logits, label):
    if np.ndim(label):
        return F.binary_cross_entropy_with_logits(logits[0], torch.tensor(label, dtype=logits.dtype), reduction="sum")
    return F.cross_entropy(logits, torch.tensor([label]))


def brute_force(task, probe, classifier, weighted_labels, names=None):
    """Mean of the weighted squared gradients, one image and one label at a time, averaged inside each filter.

    `weighted_labels(n, logits)` gives the labels of image n, each with what its squared gradient counts for. Layers
    that no gradient reaches have no rows. `names` keeps to some of the layers.
    """
    layers = [probe.layers[name] for name in (probe.layers if names is None else names)]
    weights = [layer.weight.requires_grad_(True) for layer in layers]
    totals = [torch.zeros(len(w), dtype=torch.float64) for w in weights]
    reached = set()
    for n in range(len(task)):
        logits = logits_of(task, probe, classifier, n)
        for label, count in weighted_labels(n, logits[0].detach().double()):
            gradients = torch.autograd.grad(loss_of(logits, label), weights, allow_unused=True, retain_graph=True)
            for number, (total, gradient) in enumerate(zip(totals, gradients, strict=True)):
                if gradient is not None:
                    reached.add(number)
                    total += count * gradient.double().square().flatten(1).mean(1) / len(task)
    for w in weights:
        w.requires_grad_(False)
    return torch.cat([totals[number] for number in sorted(reached)]).numpy()


def all_labels(n, logits):
    return [(c, float(p)) for c, p in enumerate(logits.softmax(0))]


def all_label_sets(n, logits):
    p = logits.sigmoid().numpy()
    return [(np.array(y), float(np.prod(np.where(y, p, 1 - p)))) for y in product((0, 1), repeat=len(p))]


def relative_error(found, expected):
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)
