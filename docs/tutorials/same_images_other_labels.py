# %% [markdown]
# # The same images with other labels
#
# Two tasks may have the very same images and ask different questions of them. Features of the images cannot tell such
# tasks apart. The Fisher information can, because it is taken through a classifier that was fitted on the labels.
#
# Here are bright discs on a dark ground. One task asks whether the disc lies left or right, the other whether it is
# large or small.

# %%
import matplotlib.pyplot as plt
import numpy as np

import task2vec

generator = np.random.default_rng(0)
rows, columns = np.mgrid[:32, :32]


def draw(count):
    """Images `(count, 32, 32)` with labels for the side and for the size, each drawn by itself."""
    side, size = generator.integers(0, 2, (2, count))
    x = np.where(
        side == 0, generator.uniform(6, 12, count), generator.uniform(20, 26, count)
    )
    y, radius = generator.uniform(8, 24, count), np.where(size == 0, 2.5, 5.0)
    away = (rows - y[:, None, None]) ** 2 + (columns - x[:, None, None]) ** 2
    discs = (away < radius[:, None, None] ** 2).astype(np.float32)
    return 0.7 * discs + generator.uniform(0, 0.3, discs.shape), side, size


images, side, size = draw(400)
figure, axes = plt.subplots(1, 6, figsize=(9, 1.8))
for place, number in zip(axes, range(6), strict=True):
    place.imshow(images[number], cmap="gray")
    place.set_title(
        f"{'right' if side[number] else 'left'}, {'large' if size[number] else 'small'}",
        fontsize=9,
    )
    place.axis("off")

# %% [markdown]
# Each question is embedded twice, on one half of the images and on the other. If the embedding reads the question, a half
# finds the other half with the same labels, and not the same images with the other labels.

# %%
probe = task2vec.load_probe()
halves = {"first": slice(0, 200), "second": slice(200, 400)}
embeddings = [
    task2vec.embed(
        task2vec.Task.from_arrays(
            images[part], labels[part], name=f"{question}, {half} half"
        ),
        probe,
        progress=False,
    )
    for question, labels in (("side", side), ("size", size))
    for half, part in halves.items()
]
print([e.task for e in embeddings])
print(np.round(task2vec.distance_matrix(embeddings, "log_cosine"), 2))
task2vec.plot_distances(embeddings, "log_cosine")

# %%
matrix = task2vec.distance_matrix(embeddings, "log_cosine")
np.fill_diagonal(matrix, np.inf)
nearest = matrix.argmin(1).tolist()
print({embeddings[i].task: embeddings[j].task for i, j in enumerate(nearest)})

# %% [markdown]
# Mean features do not look at labels at all: for both questions on one half of the images they are the same numbers, so
# their distance is exactly 0, and the nearest task is always the one with the same images.
#
# That the Fisher can see labels does not mean that it always helps to choose an adapter:
# [the evaluation](../evaluation.md) measures that, and says where it does not.
