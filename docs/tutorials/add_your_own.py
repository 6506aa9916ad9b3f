# %% [markdown]
# # Write a method, a distance, a recommender
#
# Methods, rules of placement, distances, estimators and recommenders are kept in registers, one for each family. A file
# enters what it defines beside the definition, and from then on every page, check and command knows it:
# `AdapterConfig("gate")` in Python, `--method gate` on the command line, a `[[config]]` of a grid.
#
# ## A method
#
# A method has three things: its settings, the trainable part at one site, and a function that says which sites get one.
# This one multiplies what every MLP gives by learned factors, one for each feature.

# %%
import dataclasses
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from adapters.methods import SiteAdapter, register_method
from adapters.settings import Targeted, number, rate
from adapters.sites import Site


@dataclasses.dataclass(frozen=True, kw_only=True)
class GateSettings(Targeted):
    """Settings of gated MLPs."""

    strength: float = number(
        1.0, "What the learned factors are multiplied by.", above=0
    )
    learning_rate: float = rate(1e-2, tried=(0.003, 0.03))


class Gate(SiteAdapter):
    """`y * (1 + strength * g)`, which starts at g = 0: the backbone itself."""

    def __init__(self, module: nn.Linear, strength: float) -> None:
        super().__init__()
        self.strength = strength
        self.factors = nn.Parameter(module.weight.new_zeros(module.out_features))

    def forward(self, inputs: Tensor, output: Tensor) -> Tensor:
        """What the layer gives, scaled."""
        return output * (1 + self.strength * self.factors)

    def folded(
        self, module: nn.Module, weight: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """The weights with which the layer computes the same: with this, `adapters.merge` works."""
        factors = 1 + self.strength * self.factors
        return weight * factors[:, None], None if bias is None else bias * factors


@register_method(
    "gate",
    "gated MLPs",
    settings=GateSettings,
    needs="blocks with an MLP",
    trains="a factor for each feature that an MLP gives",
    equal="nothing published",
)
def gate(
    sites: list[Site], settings: GateSettings
) -> Iterator[tuple[Site, SiteAdapter]]:
    """After the last layer of every MLP."""
    for site in sites:
        if site.kind == "linear" and (site.role == "fc2" or settings.targets):
            yield site, Gate(site.module, settings.strength)


# %% [markdown]
# A site (`adapters.sites.Site`) knows its module, its kind and its block. `blocks=` and `targets=` are applied before the
# function is called. What it does not yield is not trained; if it yields nothing, `attach` says that the backbone lacks
# what `needs` names. A method that cannot be folded leaves `folded` out and gives the reason as `cannot_merge=`.

# %%
import timm

import adapters

model = timm.create_model("task2vec_vit_patch4_32")
config = adapters.AdapterConfig("gate", strength=0.5, blocks=(3, 4, 5))
adapters.attach(model, config, num_classes=5)
assert adapters.num_adapter_parameters(model) == 3 * 128
images = torch.randn(2, 3, 32, 32)
model.eval()
torch.testing.assert_close(adapters.merge(model)(images), model(images))

# %% [markdown]
# That it attaches, learns only what it should and folds is not yet that it is any good. Hold it against a linear probe,
# here on scikit-learn's digits:

# %%
from sklearn.datasets import load_digits

import task2vec

digits = load_digits()
task = task2vec.Task.from_arrays(
    digits.images[:320] / 16, digits.target[:320], name="digits"
)
train, val = task.split(0.4, seed=0)
for config in (
    adapters.AdapterConfig("linear"),
    adapters.AdapterConfig("gate", learning_rate=0.03, epochs=8),
):
    torch.manual_seed(0)
    model = timm.create_model(adapters.DEFAULT_BACKBONE, pretrained=True)
    adapters.attach(model, config, num_classes=task.num_classes)
    result = adapters.fit(model, train, val, keep="last", progress=False)
    count = adapters.num_adapter_parameters(model)
    print(
        f"{config.label}: {count:,} parameters, {result.best.accuracy:.1%} on {len(val)} others"
    )

# %% [markdown]
# One training with one learning rate says little. `tried=` in the settings names the rates that belong into a grid, and
# [your own evidence](own_evidence.py) is how to try them on many tasks.
#
# A method whose size may differ from site to site inherits from `Sized`, too, and asks `settings.at(site.name)`; then
# `adapters.allocate` shares a budget of parameters among its sites. How it does is a rule, and a rule can be your own:

# %%
import numpy as np

from adapters.placement import Places, register_rule


@register_rule("middle")
def middle(places: Places) -> np.ndarray:
    """Most in the middle of the network: an adapter's cost times a bell over the depth."""
    return places.cost * np.exp(-8 * (places.depth - 0.5) ** 2)


placed = adapters.allocate(
    adapters.AdapterConfig("lora"),
    None,
    "task2vec_vit_patch4_32",
    parameters=5_000,
    rule="middle",
)
ranks = dict(placed.sizes)
assert ranks["blocks.3.attn.qkv"] > ranks["blocks.0.attn.qkv"]

# %% [markdown]
# ## A distance
#
# A distance takes embeddings as rows, float64 `(n, D)` and `(m, D)`, none of it negative, and gives `(n, m)`. A filter that
# serves nothing has a Fisher of zero, so that a logarithm needs a floor.

# %%
import task2vec
from task2vec.distances.registry import Matrix, Options, register_distance


@register_distance("log_euclidean")
def log_euclidean(a: Matrix, b: Matrix, options: Options) -> Matrix:
    """The Euclidean distance of the logarithms, of what is above a billionth."""
    logs_a, logs_b = (np.log(np.maximum(rows, 1e-9)) for rows in (a, b))
    return np.linalg.norm(logs_a[:, None] - logs_b[None], axis=2)


rows = np.array([[1.0, 2.0], [np.e, 2.0]])
np.testing.assert_allclose(
    task2vec.distance_matrix(rows, "log_euclidean"), [[0, 1], [1, 0]]
)

# %% [markdown]
# What is it worth? The library has several tasks of most sources, such as the same digits with fewer images. A good
# distance finds them: the nearest other task should be of the same source.

# %%
import selection

library = selection.load_library()
stored = {task.name: task.source for task in library.tasks()}
embeddings = library.embeddings(
    task2vec.load_probe().fingerprint, task2vec.DEFAULT_METHOD
)
sources = np.array([stored[embedding.task] for embedding in embeddings])
has_twin = (sources[:, None] == sources).sum(axis=1) > 1
for name in ("log_euclidean", "cosine", "log_cosine"):
    distances = task2vec.distance_matrix(embeddings, name)
    np.fill_diagonal(distances, np.inf)
    found = sources[distances.argmin(axis=0)] == sources
    print(f"{name}: {found[has_twin].mean():.0%} of {has_twin.sum()} tasks")

# %% [markdown]
# A store of more than 50,000 tasks compares them all under a distance it has no estimate of. `register_estimate` of
# `task2vec.distances.sketch` enters one, as `task2vec/distances/asymmetric.py` does for its own.
#
# ## An estimator
#
# An estimator is given the means to measure (`DiagonalFisher`), and says at which labels the gradients are taken: from
# probabilities `(B, C)` and the images' numbers `(B,)` to gradients of the loss by the logits, one backward pass for each.

# %%
from task2vec.fisher.diagonal import DiagonalFisher
from task2vec.fisher.registry import Estimate, Settings, register_estimator


@register_estimator("most_likely")
def most_likely(fisher: DiagonalFisher, settings: Settings) -> Estimate:
    """Gradients at the class that the model finds most likely."""
    return Estimate(
        fisher.mean_squares(
            lambda p, images: iter([fisher.likelihood.score(p, p.argmax(dim=1))])
        )
    )


few = train.subsample(60)
embedding = task2vec.embed(few, task2vec.load_probe(), method="most_likely")
assert (embedding.fisher >= 0).all()
embedding

# %% [markdown]
# ## A recommender
#
# A recommender takes what was tuned on stored tasks, a target and candidates, and gives what it expects of each candidate.

# %%
from collections.abc import Sequence

from adapters import AdapterConfig
from selection.recommendation.recommenders.registry import (
    Prediction,
    TaskFacts,
    TrialTable,
    register_recommender,
)


@register_recommender("thrifty")
def thrifty(
    table: TrialTable, target: TaskFacts, candidates: Sequence[AdapterConfig]
) -> Prediction:
    """The mean score elsewhere, less a point for every tenfold of parameters."""
    column = {config: number for number, config in enumerate(table.configs)}
    numbers = [column[config] for config in candidates]
    cost = 0.01 * np.log10(1 + table.parameters[numbers])
    return Prediction(np.nanmean(table.scores[:, numbers], axis=0) - cost)


own = task2vec.embed(few, task2vec.load_probe())
recommendation = selection.recommend(own, library, recommender="thrifty")
[(c.config.label, f"{c.predicted:.1%}") for c in recommendation.ranking[:5]]

# %% [markdown]
# It expects the same of every target, and knows no spread, so that a recommendation gives no interval. What such a rule
# loses against the shipped recommenders is told by `task2vec evaluate` on a store of yours; [the
# evaluation](../evaluation.md) has their numbers.

# %% [markdown]
# ## As a package of your own
#
# Put the files into a package and name each thing as an entry point; the value is the module that enters it. There are the
# groups `task2vec.methods`, `task2vec.rules`, `task2vec.distances`, `task2vec.estimators`, `task2vec.recommenders` and
# `task2vec.scores`.
#
# ```toml
# [project]
# name = "my-adapters"
# version = "1.0"
# dependencies = ["task2vec-select"]
#
# [project.entry-points."task2vec.methods"]
# gate = "my_adapters.gate"
#
# [project.entry-points."task2vec.distances"]
# log_euclidean = "my_adapters.log_euclidean"
# ```
#
# Whoever has it installed has the method, without importing anything. The modules are imported when a name is looked up
# that is not known yet, or when all are listed. A name that is taken, or a module that fails, costs only itself: a warning
# names it, and everything else works. The register itself is `task2vec_base.Registry`; it lies below `task2vec` and
# `adapters`, which import neither the other.
