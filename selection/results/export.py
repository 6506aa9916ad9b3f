"""A result for other programs: plain weights, ONNX, or a program of torch's.

Every export is read back by the program that it is for and compared with the model on the same images before it counts.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from selection.errors import SelectionError
from selection.results.folder import save_merged
from selection.results.outputs import refuse_lost
from selection.results.result import MERGED, Result, plain_model
from task2vec_base import write_atomically

Format = Literal["safetensors", "onnx", "torch"]

KINDS = {"safetensors": "file of weights", "onnx": "ONNX file", "torch": "program of torch's"}
COMPARED = 3  # images that an export is compared on; another number than the batch it was traced with
TOLERANCE = 1e-3  # of the largest output; other programs add in another order


def export(result: Result, path: str | Path, format: Format | None = None) -> float:
    """Write a result in a format for other programs.

    Args:
        result: What `load_result` gave.
        path: The file to write; its ending tells the format if none is given.
        format: `safetensors`: a plain timm model's weights, for adapters that merge; `onnx`: a graph, checked with
            onnxruntime; `torch`: a program of `torch.export`, to be read by `torch.export.load`. The last two take any
            number of images, and any adapter.

    Returns:
        The largest difference between the outputs of the export and of the model, as a share of the largest output.

    Raises:
        SelectionError: the format is unknown, the adapter does not merge, a package is missing, the export differs, or
            what lies at `path` is no earlier export.
    """
    path = Path(path)
    chosen = format or {".safetensors": "safetensors", ".onnx": "onnx", ".pt2": "torch"}.get(path.suffix)
    if chosen not in WRITERS:
        raise SelectionError(
            f"{path.name} is of no known format; give safetensors, onnx or torch, or a file ending in .safetensors, "
            ".onnx or .pt2"
        )
    refuse_lost(path, KINDS[chosen])
    model = copy.deepcopy(result.model).cpu().float().eval()
    size = result.description.preprocessing["input_size"]
    images = torch.rand(COMPARED, *size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    path.parent.mkdir(parents=True, exist_ok=True)
    unchecked = path.with_name(f".{path.stem}.unchecked{path.suffix}")  # an earlier export stays until this one counts
    try:
        with torch.no_grad():
            expected = model(images)
            found = WRITERS[chosen](result, model, unchecked, images)
        difference = float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-12))
        if not difference <= TOLERANCE:
            raise SelectionError(
                f"the {chosen} export differs from the model by {difference:.1e} of its largest output; nothing was "
                "written"
            )
        unchecked.replace(path)
    finally:
        unchecked.unlink(missing_ok=True)
    return difference


def _write_safetensors(result: Result, model: nn.Module, path: Path, images: Tensor) -> Tensor:
    if not (result.folder / MERGED).exists():
        method = result.description.config["method"]
        raise SelectionError(f"{method} does not merge into plain weights; export to onnx or torch instead")
    save_merged(model, path)
    outputs: Tensor = plain_model(result.description, path).eval()(images)
    return outputs


def _write_onnx(result: Result, model: nn.Module, path: Path, images: Tensor) -> Tensor:
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  torch's exporter needs it
    except ImportError as error:
        raise SelectionError(f"{error.name} is not installed; pip install 'task2vec-select[onnx]'") from error
    program = torch.onnx.export(
        model,
        (images[:2],),
        input_names=["images"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    program.model.metadata_props["class_names"] = "\n".join(result.description.class_names)
    write_atomically(path, lambda temporary: program.save(str(temporary), external_data=False))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


def _write_torch(result: Result, model: nn.Module, path: Path, images: Tensor) -> Tensor:
    program = torch.export.export(model, (images[:2],), dynamic_shapes=({0: torch.export.Dim("batch")},))
    names = "\n".join(result.description.class_names)
    write_atomically(path, lambda temporary: torch.export.save(program, temporary, extra_files={"class_names": names}))
    outputs: Tensor = torch.export.load(path).module()(images)
    return outputs


WRITERS: dict[str, Callable[[Result, nn.Module, Path, Tensor], Tensor]] = {
    "safetensors": _write_safetensors,
    "onnx": _write_onnx,
    "torch": _write_torch,
}
"""Each writes a file and gives what is read back from it for some images."""
