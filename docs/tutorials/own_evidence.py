# %% [markdown]
# # Your own evidence
#
# The library that comes with the package was tuned on a small backbone at 32 pixels. For your backbone, trials of your own
# say more. A store keeps them; it is one file, or a PostgreSQL database for a team.

# %%
import textwrap
from pathlib import Path
from tempfile import mkdtemp

from sklearn.datasets import load_digits

import adapters
import selection
import task2vec

digits = load_digits()
probe = task2vec.load_probe()
store = selection.TaskStore(Path(mkdtemp()) / "ours.db")
backbone = adapters.DEFAULT_BACKBONE  # any timm model; this one works offline

# %% [markdown]
# Each task is embedded, tuned in a few ways, and stored with what came out. `source` says where its images come from:
# tasks of one source are not independent, and no evaluation asks one about another.

# %%
configs = [
    adapters.AdapterConfig(method, epochs=3)
    for method in ("linear", "ssf", "bitfit")
]


def try_out(name, kept):
    images, numbers = digits.images[kept][:130] / 16, digits.target[kept][:130]
    task = task2vec.Task.from_arrays(images, numbers, name=name)
    train, test = task.split(0.4, seed=0)
    trials = []
    for config in configs:
        splits = task2vec.Splits(train, test=test)
        tuned = selection.tune(splits, backbone, config, progress=False)
        trials.append(
            selection.Trial(
                config,
                adapters.BackboneId.of_model(tuned.model),
                score=tuned.test.accuracy,
                validation=tuned.fit.best.accuracy,
                parameters=adapters.num_adapter_parameters(tuned.model),
                seconds=tuned.fit.seconds,
                seed=0,
                num_images=len(train),
            )
        )
    store.add(
        task2vec.embed(train, probe, progress=False),
        name=name,
        trials=trials,
        source=name,
    )


for name, kept in {
    "0 to 4": digits.target < 5,
    "5 to 9": digits.target >= 5,
}.items():
    try_out(name, kept)
store

# %%
for task in store.tasks():
    print(
        task.name,
        {trial.config.label: round(trial.score, 3) for trial in task.trials},
    )

# %% [markdown]
# A new task now rests on these trials.

# %%
odd = digits.target % 2 == 1
new = task2vec.Task.from_arrays(
    digits.images[odd][:130] / 16, digits.target[odd][:130], name="odd"
)
recommendation = selection.recommend(
    task2vec.embed(new, probe, progress=False), store, backbone
)
assert {evidence.task for evidence in recommendation.evidence} <= set(store.names())
print(textwrap.fill(recommendation.explain(), 88))

# %% [markdown]
# Two tasks and three configurations are an example and no evidence: how much a recommendation from your store is worth
# is measured by `task2vec evaluate --store ours.db`, which leaves out each source in turn. Whole grids are run from a
# file, `task2vec trials run grid.toml --store ours.db`, and go on where they were stopped.
