# %% [markdown]
# # Embed and compare your datasets
#
# Three tasks on scikit-learn's handwritten digits, and one on generated shapes. Which of them are alike? Everything here
# works on folders of images as well: write `task2vec.Task.from_folder("flowers/train")` where arrays stand below.

# %%
import matplotlib.pyplot  # noqa: F401  shows figures below their cells
import numpy as np
from sklearn.datasets import load_digits

import task2vec

digits = load_digits()
images, numbers = digits.images / 16, digits.target
small, large = numbers < 5, numbers >= 5

# %% [markdown]
# The shapes are bright squares and bright crosses somewhere on a dark ground.

# %%
generator = np.random.default_rng(0)
shapes, kinds = np.zeros((250, 8, 8)), np.arange(250) % 2
for image, kind in zip(shapes, kinds, strict=True):
    x, y = generator.integers(0, 5, 2)
    image[y : y + 3, x : x + 3] = (
        1 if kind == 0 else np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]])
    )
    image += generator.uniform(0, 0.3, image.shape)

tasks = [
    task2vec.Task.from_arrays(
        images[small][:250], numbers[small][:250], name="digits 0 to 4"
    ),
    task2vec.Task.from_arrays(
        images[small][250:500],
        numbers[small][250:500],
        name="other images of 0 to 4",
    ),
    task2vec.Task.from_arrays(
        images[large][:250], numbers[large][:250], name="digits 5 to 9"
    ),
    task2vec.Task.from_arrays(
        shapes / shapes.max(), kinds, name="squares and crosses"
    ),
]
tasks

# %% [markdown]
# A probe is a frozen network. `load_probe()` gives the one that comes with the package; it is small and works offline.

# %%
probe = task2vec.load_probe()
embeddings = [task2vec.embed(task, probe, seed=0, progress=False) for task in tasks]
embeddings[0]

# %% [markdown]
# An embedding is one positive number for each filter of the probe: how much the predictions would change if that filter's
# weights did. It knows its layers, its classes and the classifier that was fitted.

# %%
{layer.name: layer.num_filters for layer in embeddings[0].layers}

# %% [markdown]
# Distances compare the pattern of these numbers. `log_cosine` is the default for finding neighbours.

# %%
print(np.round(task2vec.distance_matrix(embeddings, "log_cosine"), 2))
task2vec.plot_distances(embeddings, "log_cosine")

# %% [markdown]
# The nearest to the digits from 0 to 4 should be other images of the same digits, and it is checked here:

# %%
matrix = task2vec.distance_matrix(embeddings, "log_cosine")
np.fill_diagonal(matrix, np.inf)
assert matrix[0].argmin() == 1
tasks[matrix[0].argmin()].name

# %% [markdown]
# Embeddings are kept as safetensors files and can be compared on the command line: `task2vec distance a.safetensors
# b.safetensors`. Only embeddings of one probe can be compared; others are refused.
