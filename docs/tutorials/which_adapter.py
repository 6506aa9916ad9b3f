# %% [markdown]
# # Which adapter for these images?
#
# From images to a tuned model: embed, ask the library that comes with the package, tune what it recommends, and check
# the result on images that were not tuned on.

# %%
import textwrap
from pathlib import Path
from tempfile import mkdtemp

from sklearn.datasets import load_digits

import adapters
import selection
import task2vec
from adapters.data import Batches, transform_of

digits = load_digits()
task = task2vec.Task.from_arrays(
    digits.images[:320] / 16, digits.target[:320], name="digits"
)
train, test = task.split(0.4, seed=0)
embedding = task2vec.embed(train, task2vec.load_probe(), seed=0, progress=False)

# %% [markdown]
# The library holds tasks that were tuned before. These are nearest:

# %%
library = selection.load_library()
[(near.name, round(near.distance, 3)) for near in library.nearest(embedding, k=5)]

# %% [markdown]
# A recommendation ranks the configurations that were tried on them and keeps to your limits. It says what it expects, how
# sure it is, and why. Here nothing may have more than 50,000 trained parameters, it must merge into a plain model, and of
# all that is expected within a point of the best, the quickest is wanted.

# %%
recommendation = selection.recommend(
    embedding, library, max_params=50_000, mergeable_only=True, within=0.01
)
print(textwrap.fill(recommendation.explain(), 88))

# %%
[
    (
        c.config.label,
        f"{c.predicted:.1%}",
        tuple(f"{end:.0%}" for end in c.interval),
    )
    for c in recommendation.ranking[:5]
]

# %% [markdown]
# Tune it, and a linear probe beside it, which is what every recommendation should be held against.

# %%
out = Path(mkdtemp())
config = recommendation.config
tuned = selection.tune(
    train,
    selection.load_backbone(adapters.DEFAULT_BACKBONE),
    config,
    out=out,
    progress=False,
)
probe = selection.tune(
    train,
    selection.load_backbone(adapters.DEFAULT_BACKBONE),
    adapters.AdapterConfig("linear"),
    out=out / "linear",
    progress=False,
)
scored = Batches(test, transform_of(tuned.model))
for name, model in ((config.label, tuned.model), ("linear probe", probe.model)):
    print(
        f"{name}: {adapters.evaluate(model, scored).accuracy:.1%} on {len(test)} other digits"
    )

# %% [markdown]
# The merged model is a plain timm model with the same answers.

# %%
difference = abs(
    adapters.evaluate(tuned.merged, scored).accuracy
    - adapters.evaluate(tuned.model, scored).accuracy
)
assert difference < 0.01
type(tuned.merged).__name__

# %% [markdown]
# To look around in the evidence, or to send it to a colleague, write it as a page that works offline:
#
# ```sh
# task2vec atlas -o atlas.html --target digits.safetensors
# task2vec recommend digits.safetensors --report report.html
# ```
