"""docs/adapters.md and README's table of methods, from the register of the methods, the tests' table of methods and
backbones, and the shipped library's trials.

python benchmarks/adapters_page.py
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import timm
import torch
import typer
from library import is_whole
from page import DOCS, table

import selection
from adapters import METHODS, RULES, AdapterConfig, AdapterError, all_settings, attach, num_adapter_parameters
from adapters.settings import SHARED, Setting

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.adapters import families

BUNDLED = {
    "adaptformer": {}, "bitfit": {}, "fact": {"learning_rate": 0.005}, "full": {"learning_rate": 0.001},
    "houlsby": {}, "linear": {"epochs": 30}, "lora": {}, "norm": {}, "pfeiffer": {},
    "pixel_prompt": {"learning_rate": 0.01, "epochs": 20, "resized": True}, "repadapter": {"learning_rate": 0.005},
    "ssf": {}, "vpt_deep": {"learning_rate": 0.01}, "vpt_shallow": {"epochs": 20},
}  # fmt: skip
"""What differs from today's defaults in the recipes of the bundled backbone, beside epochs, batches and decay."""

CONFIGS = [
    AdapterConfig(method, **{"epochs": 10, "batch_size": 64, "weight_decay": 1e-4} | changes)
    for method, changes in BUNDLED.items()
]

# The sizes at which papers count parameters on ViT-B/16.
PUBLISHED = {
    "ssf": (AdapterConfig("ssf"), "0.21"),
    "lora": (AdapterConfig("lora", rank=8), "0.29"),
    "pfeiffer": (AdapterConfig("pfeiffer", bottleneck=8), "0.16"),
    "adaptformer": (AdapterConfig("adaptformer", bottleneck=8), "0.16"),
    "bitfit": (AdapterConfig("bitfit"), "0.10"),
    "vpt_shallow": (AdapterConfig("vpt_shallow", prompts=100), "0.08"),
}


README = Path(__file__).parents[1] / "README.md"
README_FAMILIES = {
    "ViT, DeiT": ("ViT", "DeiT"),
    "BEiT, EVA-02": ("BEiT", "EVA-02"),
    "Swin": ("Swin", "SwinV2"),
    "MLP-Mixer": ("MLP-Mixer",),
    "ConvNeXt": ("ConvNeXt", "ConvNeXt, 1 x 1"),
    "MobileViT": ("MobileViT",),
    "ResNet, MobileNet, EfficientNet": ("ResNet, basic", "ResNet, bottleneck", "MobileNetV3", "EfficientNet"),
}
"""README's columns, and the tested families that they stand for."""

BEGIN, END = "<!-- methods: python benchmarks/adapters_page.py -->", "<!-- end -->"


def readme_table() -> str:
    """What each method trains, how much at its defaults, whether it merges, and where it fits."""
    head = ["method", "trained beside the classifier", "parameters on ViT-B/16", "merges into a plain model"]
    rows = []
    for name, method in sorted(METHODS.items()):
        paper = f"[{method.title}]({method.paper})" if method.paper else method.title
        size = f", {method.size} {method.defaults[method.size]}" if method.size else ""
        rows.append(
            [
                f"`{name}`",
                f"{method.trains} ({paper}{size})",
                _millions(AdapterConfig(name)),
                "no" if method.cannot_merge else "yes",
                *("yes" if all(families.fits(f, name) for f in some) else "-" for some in README_FAMILIES.values()),
            ]
        )
    return table([*head, *README_FAMILIES], rows)


def official_table() -> str:
    """Each method beside its published form."""
    rows = [
        [f"[`{name}`]({m.paper})" if m.paper else f"`{name}`", m.official.equal, m.official.different or "nothing"]
        for name, m in sorted(METHODS.items())
    ]
    return table(["method", "equal to", "deliberately different"], rows)


def settings_table() -> str:
    """Every setting: the methods' own, then those that most of them share, whose defaults differ."""
    rows = []
    for name, method in sorted(METHODS.items()):
        own = ((key, setting) for key, setting in method.settings.declared().items() if key not in SHARED)
        rows += [[f"`{name}`", f"`{key}`", _shown(s, s.default), s.range, s.doc] for key, s in own]
    for key in SHARED:
        setting, methods = all_settings()[key]
        methods = tuple(sorted(methods))
        usual = Counter(_shown(setting, METHODS[m].defaults[key]) for m in methods).most_common()
        others = [
            f"{value} ({', '.join(f'`{m}`' for m in methods if _shown(setting, METHODS[m].defaults[key]) == value)})"
            for value, _ in usual[1:]
        ]
        where = "all" if len(methods) == len(METHODS) else f"all but {_listed(set(METHODS) - set(methods))}"
        rows.append([where, f"`{key}`", "; ".join([usual[0][0], *others]), setting.range, setting.doc])
    return table(["method", "setting", "default", "must be", "what it does"], rows)


def rules_table() -> str:
    """The rules of placement, each with its formula."""
    rows = [[f"`{name}`", " ".join((rule.__doc__ or "").split("\n\n")[0].split())] for name, rule in RULES.items()]
    symbols = (
        "m: the scores summed over all weights of the place's layers, n: these weights, c: trainable parameters of an "
        "adapter of size 1 there."
    )
    return f"{table(['rule', 'weight w of a place'], rows)}\n\n{symbols}"


def _shown(setting: Setting, value: object) -> str:
    return "-" if value is None else setting.shown(value)


def _listed(names: set[str]) -> str:
    return ", ".join(f"`{name}`" for name in sorted(names))


def _millions(config: AdapterConfig) -> str:
    with torch.device("meta"):
        try:
            model = attach(timm.create_model("vit_base_patch16_224"), config, 100)
        except AdapterError:
            return "-"
    return f"{num_adapter_parameters(model) / 1e6:.2f} M"


def write_readme() -> None:
    """Put the table between README's marks."""
    before, rest = README.read_text().split(BEGIN)
    README.write_text(f"{before}{BEGIN}\n{readme_table()}\n{END}{rest.split(END, 1)[1]}")


def main() -> None:
    """Write docs/adapters.md and README's table."""
    write_readme()
    whole = [task for task in selection.load_library().tasks() if is_whole(task.name)]
    scores = {task.name: {trial.config: trial.score for trial in task.trials if trial.seed == 0} for task in whole}
    tried = [c for c in CONFIGS if any(c in found for found in scores.values())]
    complete = {task: found for task, found in sorted(scores.items()) if all(config in found for config in tried)}
    means = {c: sum(found[c] for found in complete.values()) / len(complete) for c in tried}
    order = sorted(tried, key=lambda c: -means[c])
    rows = [[task, *(_percent(found[c], found.values()) for c in order)] for task, found in complete.items()]
    rows.append(["**mean**", *(f"{100 * means[c]:.1f}" for c in order)])
    linear = next(c for c in CONFIGS if c.method == "linear")
    above = [c.method for c in order if means[c] > means[linear]]
    below = [c.method for c in order if means[c] < means[linear]]
    (DOCS / "adapters.md").write_text(
        PAGE.format(
            pairs=families.table(),
            official=official_table(),
            sizes=table(["method", "on ViT-B/16, millions", "published"], _sizes()),
            settings=settings_table(),
            rules=rules_table(),
            tasks=len(complete),
            scores=table(["task", *(f"`{c.method}`" for c in order)], rows),
            above=len(above),
            below=f" Below it: {', '.join(f'`{name}`' for name in below)}." if below else "",
        )
    )


def _percent(score: float, row: object) -> str:
    text = f"{100 * score:.1f}"
    return f"**{text}**" if score == max(row) else text  # type: ignore[call-overload]


def _sizes() -> list[list[str]]:
    """Trainable parameters beside the classifier's, at the published sizes."""
    rows = []
    for config, published in PUBLISHED.values():
        with torch.device("meta"):
            model = attach(timm.create_model("vit_base_patch16_224"), config, 100)
        rows.append([f"`{config.label}`", f"{num_adapter_parameters(model) / 1e6:.2f}", published])
    return rows


PAGE = """# Adapters

This page is written by `python benchmarks/adapters_page.py`.

## Which method fits which backbone

Every `yes` is tested (`tests/adapters`): only what is tuned gets gradients, saving and loading give the same outputs,
and where the method merges, the plain timm model computes the same to 1e-10 in double precision. Every `-` raises an
error that names both and lists what would work.

{pairs}

On other networks the same sites are found by the types of their layers, and `targets=` names them where that does not
suffice.

## Methods and their published forms

The formulas are tested on single layers (`tests/adapters/test_methods.py`), LoRA against the PEFT package.

{official}

## Settings

What each method takes, as declared in its file. `AdapterConfig(method)` stands for the defaults; a value out of its
range is refused with one sentence.

{settings}

## Where the parameters go

Sizes may differ from place to place. `adapters.allocate` fills a budget of trainable parameters by a rule, from how
much each layer matters on the task (`task2vec.sensitivity`, the Fisher of the backbone that will be tuned, from one
pass):

```python
found = task2vec.sensitivity(task, model)
config = adapters.allocate(adapters.AdapterConfig("lora"), found.mass, model, parameters=50_000, rule="mass")
adapters.attach(model, config, num_classes=5)
```

`AdapterConfig("lora", rank=8, placement="mass")` leaves this to the tuning: `selection.tune`, grids of trials and the
recommendation take it as one configuration for all tasks, and each task's images decide where the parameters of rank 8
go (`task2vec tune FOLDER --method lora --set placement=mass`). A hundred images are read for that, or two of each
class.

[What each rule is worth](placement.md) was measured; `mass` is the default. The budget is never exceeded, and filled
until no place can be one size larger. Methods with `sizes` get a size for each
site, the others the `blocks` that carry them. A place gets parameters in proportion to

{rules}

`gps` and `fish` tune single weights. Which ones, their scores on the task say, and these travel with the saved adapter:

```python
batches = torch.utils.data.DataLoader(train, batch_size=64, shuffle=True)
scores = adapters.gradient_scores(model, batches)  # for fish: adapters.fisher_scores, with a fitted classifier
adapters.attach(model, adapters.AdapterConfig("gps", connections=2), num_classes=5, scores=scores)
```

## Parameters

Trainable ones beside the classifier's.

{sizes}

## Accuracy of every method on every task

Test accuracy in percent of each method at its recipe for the bundled backbone at 32 px, {tasks} tasks, the best of a
row in bold. A fifth of the training images chose the epoch, the test images only gave the score. One seed: with 1,000
test images an accuracy has a standard error of about 1.5 points, and the mean one of about 0.3. Learning rates and
epochs were chosen on the validation images of cifar10 and gtsrb.

```bash
task2vec trials run benchmarks/grid_1000.toml --store evidence.db
```

{scores}

The trials of VPT started from prompts of the bound sqrt(6 / 2d), those of today from the authors' bound.

{above} of the methods are above the linear probe on average.{below} Residual adapters and Conv-Adapter need
convolutions inside blocks, which this backbone has none of.
"""


if __name__ == "__main__":
    typer.run(main)
