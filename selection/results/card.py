"""The model card of a result: a `README.md` in the format that the Hugging Face hub reads."""

from __future__ import annotations

import re
from typing import Any

import timm
import yaml

from selection.results.description import Description, Measured
from task2vec.weights import sized

SHOWN = 5  # rows of the ranking
CLASSES_SHOWN = 50
MEAN_AVERAGE_PRECISION = "mean_average_precision"  # among the others of what was measured on several labels an image
BAR = 20  # characters of the longest one
COMPLETE = ("timm", "task2vec", "adapters", "selection")  # packages whose import registers all their backbones
SCRIPT = "__main__"  # what Python calls the module of a script or a notebook, which nobody can import


def card(description: Description, *, merged: bool) -> str:
    """The text of the card, with the numbers of the result.

    Args:
        description: What the result is.
        merged: Whether a plain model lies beside the adapter.
    """
    parts = [_header(description), _intro(description, merged), _accuracy(description)]
    if description.test_by_class:
        parts.append(_by_class(description))
    if "sizes" in description.config:
        parts.append(_places(description))
    parts.append(_use(description, merged))
    if description.recommendation:
        parts.append(_why(description))
    return "\n\n".join(parts) + "\n"


def _header(own: Description) -> str:
    facts: dict[str, Any] = {
        "library_name": "timm",
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "timm", "task2vec", str(own.config["method"])],
        "base_model": f"timm/{own.backbone}" if "." in own.backbone else own.backbone,
    }
    if own.test is not None:
        mean = own.test.others.get(MEAN_AVERAGE_PRECISION)
        values = {"accuracy": own.test.accuracy} | ({} if mean is None else {MEAN_AVERAGE_PRECISION: mean})
        metrics = [{"type": kind, "value": round(value, 4)} for kind, value in values.items()]
        dataset = {"name": own.task, "type": "imagefolder", "split": "test"}
        result = {"task": {"type": "image-classification"}, "dataset": dataset, "metrics": metrics}
        facts["model-index"] = [{"name": own.task, "results": [result]}]
    return f"---\n{yaml.safe_dump(facts, sort_keys=False)}---"


def _intro(own: Description, merged: bool) -> str:
    settings = ", ".join(f"{name} {value}" for name, value in own.config.items() if name not in ("method", "sizes"))
    counts = ", ".join(f"{count} for {split}" for split, count in own.num_images.items())
    plain = " It is merged into a plain timm model." if merged else ""
    return f"""# {own.task}

`{own.backbone}` tuned with {own.config["method"]} ({settings}): {own.parameters:,} trained parameters beside the
classifier, {own.seconds:.0f} s of training.{plain}

{len(own.class_names)} classes: {", ".join(own.class_names)}. Images: {counts}."""


def _accuracy(own: Description) -> str:
    rows = [
        _row("test images, which played no part in training", own.test),
        _row(_role_of_validation(own.num_tries), own.validation, is_fair=own.num_tries == 1),
    ]
    beside = "mean average precision" if own.multi_label else "95% interval"
    lines = [f"| accuracy on | | {beside} | images |", "| --- | ---: | ---: | ---: |", *filter(None, rows)]
    text = "## How good it is\n\n" + "\n".join(lines)
    if not own.multi_label:
        return text
    return f"""{text}

An image may be of several classes or none. Accuracy is the share of right answers to whether an image is of a class,
over all images and all {len(own.class_names)} classes: where images are of few classes each, a model that names none
has a high one too."""


def _by_class(own: Description) -> str:
    """What share of each class's test images is found, and of those named so is right."""
    rows = [
        f"| {row['class']} | {row['images']:,} | {_share(row['recall'])} | {_share(row['precision'])} |"
        for row in own.test_by_class[:CLASSES_SHOWN]
    ]
    left = len(own.test_by_class) - len(rows)
    rows += [f"| {left} more in result.json | | | |"] if left else []
    return "\n".join(["| class | test images | found | right when named |", "| --- | ---: | ---: | ---: |", *rows])


def _places(own: Description) -> str:
    """The adapter's size at each site, as bars in the order of the network."""
    sizes = sorted(own.config["sizes"].items(), key=lambda pair: [int(part) for part in re.findall(r"\d+", pair[0])])
    longest = max(size for _, size in sizes)
    rows = [f"| {site} | {size} | {'█' * round(BAR * size / longest)} |" for site, size in sizes]
    return "\n".join(["## Where its parameters are", "", "| site | size | |", "| --- | ---: | --- |", *rows])


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _role_of_validation(num_tries: int) -> str:
    if num_tries == 1:
        return "validation images, which watched over the training and chose nothing"
    return f"validation images, by which it was chosen among {num_tries} tries: expect somewhat less"


def _row(what: str, measured: Measured | None, *, is_fair: bool = True) -> str:
    if measured is None:
        return ""
    beside = _share(measured.others.get(MEAN_AVERAGE_PRECISION))  # there is none where an image has one label
    if is_fair and measured.interval is not None:
        beside = "{:.1%} to {:.1%}".format(*measured.interval)
    return f"| {what} | {measured.accuracy:.1%} | {beside} | {measured.num_images:,} |"


def _use(own: Description, merged: bool) -> str:
    arguments = sized(own.backbone.split(".")[0], own.image_size)
    size = f", img_size={own.image_size}" if "img_size" in arguments else ""  # others take any
    module = _registered_by(own.backbone) if merged else "timm"
    first, how, more = "", " alone", ""
    if module == SCRIPT:
        how, first = ", once the code that registers the backbone has run", "# run what registers the backbone first\n"
    elif module != "timm":
        how, more = f", once {module} has made the backbone known to it", f", {module}"
    plain = f"""

The merged weights load with timm{how}:

```python
{first}import json, timm{more}
from safetensors.torch import load_file

about = json.load(open("result.json"))
model = timm.create_model(about["backbone"].split(".")[0], num_classes=len(about["class_names"]){size})
model.load_state_dict(load_file("merged.safetensors"))
```"""
    return f"""## Use

```python
import selection

result = selection.load_result(".")
print(result.predict(["image.jpg"]).classes)
```{plain if merged else ""}"""


def _registered_by(backbone: str) -> str:
    """The module whose import makes a backbone one of timm's models; of some packages, their own import does."""
    module = timm.model_entrypoint(backbone.split(".")[0]).__module__
    package = module.split(".")[0]
    return package if package in COMPLETE else module


def _why(own: Description) -> str:
    ranking = own.recommendation.get("ranking", ())[:SHOWN]
    expected = ["-" if row["predicted"] is None else f"{row['predicted']:.1%}" for row in ranking]
    lines = [
        f"| {row['label']} | {text} | {row['parameters']:,} |" for row, text in zip(ranking, expected, strict=True)
    ]
    head = ["| configuration | expected accuracy | parameters |", "| --- | ---: | ---: |"]
    return f"## Why this configuration\n\n{own.recommendation['explanation']}\n\n" + "\n".join([*head, *lines])
