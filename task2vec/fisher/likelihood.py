"""What the classifier's logits say of the labels: one class for an image, or any number of them.

Indices: n image, c class. p_nc are probabilities, y the labels.

A likelihood gives the score, the gradient of -log p(y|x) by the logits, and factors v_k of the Fisher by the logits,
`sum_k v_k v_k' = E_y[score score']`. Squared gradients are sums of squares of what scores or factors pull back to the
weights, so this is all that estimators need to know of the labels.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F


class Likelihood(Protocol):
    """The contract; all tensors are float64 `(N, C)` unless said otherwise."""

    def probabilities(self, logits: Tensor) -> Tensor:
        """Probabilities of the classes."""
        ...

    def score(self, probabilities: Tensor, labels: Tensor) -> Tensor:
        """Gradient of -log p(labels | x) by the logits."""
        ...

    def sample(self, probabilities: Tensor, uniform: Tensor) -> Tensor:
        """Labels drawn from the probabilities by numbers from [0, 1), of the shape `uniform_shape`."""
        ...

    def uniform_shape(self, num_images: int, num_classes: int) -> tuple[int, ...]:
        """How many numbers `sample` needs."""
        ...

    def factors(self, probabilities: Tensor) -> Iterator[Tensor]:
        """Vectors whose outer products sum to the expectation of the score's."""
        ...

    def combined(self, probabilities: Tensor, signs: Tensor) -> Tensor:
        """The sum of the factors, each times its sign, without laying them out; a last sign may be left over."""
        ...


class Categorical:
    """One class for each image: labels int64 `(N,)`, softmax."""

    def probabilities(self, logits: Tensor) -> Tensor:
        """Softmax of the logits."""
        return logits.softmax(dim=1)

    def score(self, probabilities: Tensor, labels: Tensor) -> Tensor:
        """`p - onehot(y)`."""
        return probabilities - F.one_hot(labels, probabilities.shape[1])

    def sample(self, probabilities: Tensor, uniform: Tensor) -> Tensor:
        """The class in whose share of the unit interval the number falls."""
        cumulative = probabilities.cumsum(dim=1)
        return (uniform[:, None] * cumulative[:, -1:] >= cumulative).sum(dim=1)

    def uniform_shape(self, num_images: int, num_classes: int) -> tuple[int, ...]:
        """One number for each image."""
        return (num_images,)

    def factors(self, probabilities: Tensor) -> Iterator[Tensor]:
        """The columns of the Cholesky factor of diag(p) - p p', of which there are C - 1 (Tanabe & Sagae 1992).

        With s_k the sum of p_k and all later ones, column k holds sqrt(p_k s_(k+1) / s_k) at k and
        -p_j sqrt(p_k / (s_k s_(k+1))) at every later j.
        """
        remaining = self._remaining(probabilities)
        for k in range(probabilities.shape[1] - 1):
            share = (probabilities[:, k] / remaining[:, k]).sqrt()
            column = torch.zeros_like(probabilities)
            column[:, k] = share * remaining[:, k + 1].sqrt()
            column[:, k + 1 :] = -(share / remaining[:, k + 1].sqrt())[:, None] * probabilities[:, k + 1 :]
            yield column

    def combined(self, probabilities: Tensor, signs: Tensor) -> Tensor:
        """With signs r_k, `r_j sqrt(p_j s_(j+1) / s_j) - p_j sum_(k<j) r_k sqrt(p_k / (s_k s_(k+1)))` at j."""
        remaining = self._remaining(probabilities)
        after = remaining[:, 1:].sqrt()
        shares = signs[:, :-1] * (probabilities / remaining)[:, :-1].sqrt()
        own, earlier = F.pad(shares * after, (0, 1)), F.pad((shares / after).cumsum(dim=1), (1, 0))
        return own - probabilities * earlier

    @staticmethod
    def _remaining(probabilities: Tensor) -> Tensor:
        """s_k, of which divisions ask that it is not 0."""
        return probabilities.flip(1).cumsum(dim=1).flip(1).clamp_min(torch.finfo(probabilities.dtype).tiny)


class Bernoulli:
    """Each class present or absent by itself: labels `(N, C)` of 0 and 1, sigmoid."""

    def probabilities(self, logits: Tensor) -> Tensor:
        """Sigmoid of the logits."""
        return logits.sigmoid()

    def score(self, probabilities: Tensor, labels: Tensor) -> Tensor:
        """`p - y`."""
        return probabilities - labels.to(probabilities)

    def sample(self, probabilities: Tensor, uniform: Tensor) -> Tensor:
        """Each class by itself."""
        return (uniform < probabilities).to(torch.int64)

    def uniform_shape(self, num_images: int, num_classes: int) -> tuple[int, ...]:
        """One number for each image and class."""
        return num_images, num_classes

    def factors(self, probabilities: Tensor) -> Iterator[Tensor]:
        """`sqrt(p_c (1 - p_c))` at c, for each class: the classes are independent."""
        deviations = (probabilities * (1 - probabilities)).sqrt()
        for c in range(probabilities.shape[1]):
            column = torch.zeros_like(probabilities)
            column[:, c] = deviations[:, c]
            yield column

    def combined(self, probabilities: Tensor, signs: Tensor) -> Tensor:
        """`r_c sqrt(p_c (1 - p_c))` at c."""
        return signs * (probabilities * (1 - probabilities)).sqrt()


def likelihood_of(labels: Tensor) -> Likelihood:
    """The likelihood that fits labels `(N,)` or `(N, C)`."""
    return Categorical() if labels.ndim == 1 else Bernoulli()
