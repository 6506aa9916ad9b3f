"""`task2vec predict`, `validate` and `export`: a tuned model in use."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from selection.cli import options as o
from selection.cli.output import print_json, print_table, print_unreadable, share
from selection.errors import SelectionError
from selection.results.lock import refuse_among_images
from selection.results.outputs import refuse_lost, refuse_source
from selection.results.predictions import Predictions
from selection.results.result import load_result
from selection.results.validation import Validation
from task2vec_base import write_atomically

ResultFolder = Annotated[Path, typer.Argument(help="Folder that `task2vec tune` wrote.")]
SHOWN = 50  # rows of a table on the terminal


def predict(
    result: ResultFolder,
    images: Annotated[list[Path], typer.Argument(help="Image files, folders at any depth, or zips.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write a .csv or .json file instead.")] = None,
    checkpoint: o.Checkpoint = None,
    device: o.Device = "auto",
    precision: o.Precision = "auto",
    workers: o.Workers = "auto",
    as_json: o.Json = False,
) -> None:
    """Tell the classes of images."""
    if out is not None and out.suffix not in (".csv", ".json"):
        raise SelectionError(f"{out} is neither a .csv nor a .json file; give one of both")
    if out is not None:
        refuse_lost(out, "table of predictions")
    loaded = load_result(result, checkpoint=checkpoint, compute=o.compute_of(device, precision, workers))
    found = loaded.predict(images)
    print_unreadable(found.unreadable)
    if out is not None:
        _write(found, out)
        typer.echo(f"{len(found)} predictions written to {out}", err=True)
    elif as_json:
        print_json(found.records())
    else:
        likeliest = found.probabilities.max(axis=1)
        rows = zip(found.names[:SHOWN], found.classes[:SHOWN], likeliest[:SHOWN], strict=True)
        more = len(found) - SHOWN
        title = "Predictions" + (f" (the first {SHOWN}; {more} more with --out)" if more > 0 else "")
        print_table(title, ("image", "class", "probability"), ((n, c, f"{p:.1%}") for n, c, p in rows))


def _write(found: Predictions, out: Path) -> None:
    text = found.to_csv() if out.suffix == ".csv" else json.dumps(found.records(), indent=1) + "\n"
    # Names of files that are no text in UTF-8 are written as the bytes that they are.
    written = text.encode("utf-8", "surrogateescape")
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, lambda path: path.write_bytes(written))


def validate(
    result: ResultFolder,
    folder: Annotated[Path, typer.Argument(help="Folder, zip or table of labelled images; its test split if any.")],
    separator: o.Separator = None,
    plot: o.Picture = None,
    checkpoint: o.Checkpoint = None,
    device: o.Device = "auto",
    precision: o.Precision = "auto",
    workers: o.Workers = "auto",
    as_json: o.Json = False,
) -> None:
    """Measure a tuned model on labelled images: accuracy, class by class, and calibration.

    Of a model that tells several labels an image, accuracy is the share of all labels that are right, and mean average
    precision stands in for the calibration.
    """
    refuse_among_images(plot, folder)
    loaded = load_result(result, checkpoint=checkpoint, compute=o.compute_of(device, precision, workers))
    if plot is not None and loaded.description.multi_label:
        raise SelectionError("a model that tells several labels an image has no confusions to draw; leave --plot out")
    found = loaded.validate(folder, separator=separator)
    print_unreadable(found.unreadable)
    if plot is not None and isinstance(found, Validation):
        found.plot().savefig(plot, dpi=110)
    if as_json:
        print_json(found.to_dict())
        return
    rows = (
        (own["class"], str(own["images"]), share(own["recall"]), share(own["precision"]))
        for own in found.to_dict()["classes"]
    )
    print_table("Class by class", ("class", "images", "found", "right when named"), rows)
    typer.echo(str(found))


def export(
    result: ResultFolder,
    out: Annotated[Path, typer.Option("--out", "-o", help="The file to write.")],
    format: Annotated[
        str | None, typer.Option(help="safetensors, onnx or torch; by the file's ending if not given.")
    ] = None,
    checkpoint: o.Checkpoint = None,
    as_json: o.Json = False,
) -> None:
    """Write a tuned model for other programs, checked against the model itself."""
    from selection.results.export import export as write  # torch's exporters take a second to load

    refuse_source(out, checkpoint)
    loaded = load_result(result, checkpoint=checkpoint, compute=o.compute_of("cpu", "none", "0"))
    difference = write(loaded, out, format)  # type: ignore[arg-type]
    facts = {"exported": str(out), "largest_difference": difference, "bytes": out.stat().st_size}
    if as_json:
        print_json(facts)
    else:
        typer.echo(f"Written to {out}; its outputs differ from the model's by at most {difference:.1e} of the largest.")
