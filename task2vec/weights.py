"""timm models with their weights: pretrained ones from the cache or the hub, or those of a local file."""

from __future__ import annotations

import re
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import load_model_config_from_hf
from torch import nn

from task2vec.errors import WeightsError

REACH_SECONDS = 3.0  # that the hub may take to answer at all
SHOWN = 3  # mismatches of a checkpoint that are named
CACHED = ("model.safetensors", "pytorch_model.bin")  # under which timm's models lie on the hub
HUB = "hf-hub:"


def is_known(name: str) -> bool:
    """Whether it is a name of timm, its tag included, or one of a model on the hub, such as
    `hf-hub:timm/resnet18.a1_in1k`.
    """
    if name.startswith((HUB, "local-dir:")):
        return True
    try:
        return bool(timm.is_model(name)) and (timm.get_pretrained_cfg(name) is not None or "." not in name)
    except RuntimeError:  # a tag that the architecture has not
        return False


def timm_model(name: str, checkpoint: str | Path | None = None, *, image_size: int | None = None) -> nn.Module:
    """timm's model of a name with its pretrained weights, or with those of a local file.

    Weights that are at hand are taken without asking the network. Where they are not, and the hub does not answer, it
    is said within five seconds.

    Args:
        name: A name of timm, with or without a tag, or `hf-hub:` and a repository.
        checkpoint: Local weights, read as timm reads pretrained ones: what depends on the images' size is resampled.
        image_size: Side of the images that it is to take, in pixels; its own size if not given.

    Raises:
        WeightsError: the name is unknown, the weights cannot be had or do not fit, or the architecture takes no images
            of this size.
    """
    if not is_known(name):
        raise WeightsError(f"timm knows no model {name!r}; timm.list_models() names those it has")
    if checkpoint is not None:
        return _with_checkpoint(name, Path(checkpoint), image_size)
    repository = _repository(name)
    at_hand = weights_at_hand(name)
    if not at_hand and repository is not None:
        _check_hub(name)
    with _offline(at_hand and repository is not None):
        settings = _checked_size(name, image_size)
        try:
            model: nn.Module = timm.create_model(name, pretrained=True, **settings)
        except Exception as error:  # downloads and files fail in many ways, all with the same remedy
            raise WeightsError(
                f"cannot load the pretrained weights of {name}{_at(image_size)} ({why(error)}); check the name, or "
                "give local weights of this model with --checkpoint (checkpoint= in Python)"
            ) from error
    return model


def sized(name: str, image_size: int | None) -> dict[str, Any]:
    """What timm makes a model with for square images of another size than its own: nothing for None."""
    if image_size is None:
        return {}
    config = _config(name)
    size = {"pretrained_cfg_overlay": {"input_size": (config["input_size"][0], image_size, image_size)}}
    return size | ({"img_size": image_size} if config.get("fixed_input_size") else {})


def weights_at_hand(name: str) -> bool:
    """Whether timm's pretrained weights of that name can be had without a network."""
    repository = _repository(name)
    if repository is None:
        config = None if name.startswith((HUB, "local-dir:")) else timm.get_pretrained_cfg(name)
        return name.startswith("local-dir:") or bool(config is not None and config.file)
    from huggingface_hub import try_to_load_from_cache

    identity, _, revision = repository.partition("@")
    files = (try_to_load_from_cache(identity, file, revision=revision or None) for file in CACHED)
    return any(isinstance(file, str) for file in files)


def hub_answers() -> bool:
    """Whether the hub can be reached, within a few seconds; False at once in offline mode."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    answered = threading.Event()
    thread = threading.Thread(target=_ask, args=(constants.ENDPOINT, answered), daemon=True)
    thread.start()
    thread.join(REACH_SECONDS)  # looking up the name of the hub knows no limit of its own
    return answered.is_set()


def why(error: Exception) -> str:
    """A short reason: of a checkpoint that does not fit the first mismatches, otherwise the first line."""
    found = mismatches(str(error))
    if not found:
        lines = str(error).strip().splitlines()
        return (lines[0].rstrip(".;: ") if lines else "") or type(error).__name__
    more = f", and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return ", ".join(found[:SHOWN]) + more


def mismatches(message: str) -> list[str]:
    """What torch finds wrong with a state dict, a few words each."""
    sizes = re.findall(r"size mismatch for (\S+): .*?Size\(\[(.*?)\]\).*?Size\(\[(.*?)\]\)", message)
    found = [f"{name} is ({there}) there and ({here}) in the model" for name, there, here in sizes]
    for kind, word in (("Missing", "missing"), ("Unexpected", "not of this model")):
        listed = re.search(rf"{kind} key\(s\) in state_dict: (.*)", message)
        found += [f"{name} is {word}" for name in re.findall(r'"([^"]+)"', listed.group(1) if listed else "")]
    return found


def _checked_size(name: str, image_size: int | None) -> dict[str, Any]:
    """What `sized` gives, tried with one image: not every architecture says that it takes no other size.

    Raises:
        WeightsError: there is no such model, or it takes no images of this size.
    """
    if image_size is None:
        return {}
    try:
        settings = sized(name, image_size)
        model = timm.create_model(name, **settings).eval()
        with torch.no_grad():
            model(torch.zeros(1, *settings["pretrained_cfg_overlay"]["input_size"]))
    except Exception as error:  # architectures refuse in many ways
        raise WeightsError(
            f"{name} takes no images of {image_size} x {image_size} pixels ({why(error)}); give another size, or none "
            "for its own"
        ) from error
    return settings


def _at(image_size: int | None) -> str:
    return "" if image_size is None else f" for images of {image_size} x {image_size} pixels"


def _config(name: str) -> dict[str, Any]:
    """What timm knows of a model's weights: the size of its images, among others."""
    if name.startswith(HUB):
        found: dict[str, Any] = load_model_config_from_hf(name.removeprefix(HUB))[0]
        return found
    if name.startswith("local-dir:"):
        own: dict[str, Any] = timm.create_model(name).pretrained_cfg
        return own
    config = timm.get_pretrained_cfg(name)
    assert config is not None  # the name is one of timm's
    return config.to_dict()


def _with_checkpoint(name: str, checkpoint: Path, image_size: int | None) -> nn.Module:
    settings = _checked_size(name, image_size)
    try:
        weights = timm.models.load_state_dict(str(checkpoint), weights_only=True)
        settings["pretrained_cfg_overlay"] = settings.get("pretrained_cfg_overlay", {}) | {"state_dict": weights}
        model: nn.Module = timm.create_model(name, pretrained=True, **settings)
        del model.pretrained_cfg["state_dict"]  # type: ignore[operator, union-attr]
    except Exception as error:  # files fail in many ways, all with the same remedy
        raise WeightsError(
            f"cannot load weights from {checkpoint} into {name}{_at(image_size)} ({why(error)}); give weights of this "
            "very model"
        ) from error
    return model


def _repository(name: str) -> str | None:
    """Where on the hub its weights lie; None for weights that come with a package or lie in a local folder."""
    if name.startswith(HUB):
        return name.removeprefix(HUB)
    if name.startswith("local-dir:"):
        return None
    config = timm.get_pretrained_cfg(name)
    return None if config is None or config.file or not config.hf_hub_id else str(config.hf_hub_id)


def _check_hub(name: str) -> None:
    """Refuse what would have to be downloaded and cannot be.

    Raises:
        WeightsError: the hub does not answer.
    """
    if not hub_answers():
        from huggingface_hub import constants

        reason = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else f"{constants.ENDPOINT} does not answer"
        raise WeightsError(
            f"the pretrained weights of {name} are not at hand and {reason}; give local weights of this model with "
            "--checkpoint (checkpoint= in Python)"
        )


def _ask(address: str, answered: threading.Event) -> None:
    try:
        with urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=REACH_SECONDS):
            answered.set()
    except urllib.error.HTTPError:
        answered.set()  # it answers, if only to refuse this question
    except urllib.error.URLError as error:
        if isinstance(error.reason, ssl.SSLError):
            answered.set()  # the download has its own certificates
    except (OSError, ValueError):
        pass


@contextmanager
def _offline(wanted: bool) -> Iterator[None]:
    """Inside the context, the hub's client does not ask the network whether cached weights are the latest."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = wanted or before
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
