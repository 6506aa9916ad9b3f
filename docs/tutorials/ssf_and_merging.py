# %% [markdown]
# # SSF and merging, with code
#
# SSF ([Lian et al. 2022](https://arxiv.org/abs/2210.08823)) learns a scale g and a shift s after every operation of a
# frozen network: `y = g * (W x + b) + s`. Because that is again a linear operation, it can be folded into the weights
# afterwards, and the model costs what it cost before.

# %%
import torch
from torch import nn

torch.manual_seed(0)
layer = nn.Linear(4, 3)
g, s = torch.rand(3) + 0.5, torch.randn(3)
folded = nn.Linear(4, 3)
with torch.no_grad():
    folded.weight.copy_(g[:, None] * layer.weight)
    folded.bias.copy_(g * layer.bias + s)

x = torch.randn(5, 4)
torch.testing.assert_close(folded(x), g * layer(x) + s)

# %% [markdown]
# `adapters` does this for a whole network. The backbone keeps its class and the names of its weights, and everything but
# the adapter and the classifier is frozen.

# %%
import timm

import adapters

model = timm.create_model("task2vec_vit_patch4_32", pretrained=True)
adapters.attach(model, adapters.AdapterConfig("ssf", epochs=3), num_classes=2)
total = sum(p.numel() for p in model.parameters())
print(
    f"{adapters.num_adapter_parameters(model):,} trained beside the classifier, of {total:,}"
)

# %% [markdown]
# Tune it for a moment on images that are dark or bright, so that the adapter is no longer the identity that it starts
# from.

# %%
import numpy as np

import task2vec

generator = np.random.default_rng(0)
labels = np.arange(80) % 2
images = (
    generator.uniform(0, 0.6, (80, 32, 32, 3)) + 0.4 * labels[:, None, None, None]
).astype(np.float32)
task = task2vec.Task.from_arrays(images, labels, name="dark or bright")
train, val = task.split(0.25, seed=0)
result = adapters.fit(model, train, val, progress=False)
changed = [
    name
    for name, tensor in adapters.tuned_tensors(model).items()
    if name.endswith("scale") and (tensor != 1).any()
]
assert changed
result.best

# %% [markdown]
# Merged, it is an ordinary timm model: the same names, no adapter, the same answers.

# %%
plain = adapters.merge(model)
x = torch.randn(4, 3, 32, 32)
with torch.no_grad():
    torch.testing.assert_close(
        plain.eval()(x), model.eval()(x), atol=1e-4, rtol=1e-4
    )
assert set(plain.state_dict()) == set(
    timm.create_model("task2vec_vit_patch4_32", num_classes=2).state_dict()
)

# %% [markdown]
# What has a nonlinearity inside, or adds tokens, cannot merge, and says so:

# %%
other = timm.create_model("task2vec_vit_patch4_32", pretrained=True)
adapters.attach(other, adapters.AdapterConfig("adaptformer"), num_classes=2)
try:
    adapters.merge(other)
except adapters.MergeError as error:
    print(error)
