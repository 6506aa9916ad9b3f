"""`task2vec embed`: a folder of images becomes a saved embedding, or each of many."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any

import typer

import selection
import task2vec
from selection.cli import options as o
from selection.cli.output import describe_embedding, print_facts, print_json, print_unreadable, short
from selection.errors import SelectionError
from selection.evidence.collection import data_sets_in
from selection.jobs.failures import LOGS
from selection.results.outputs import refuse_lost
from task2vec import DEFAULT_METHOD, Probe, Task2VecError, TaskEmbedding
from task2vec.tasks.files import Files
from task2vec.tasks.splits import read_task
from task2vec_base import write_atomically

SETTINGS = "settings.json"  # how all embeddings in a folder are made
EMBEDDED = "datasets.json"  # by the name of each data set, the digest of the files that were embedded
MATTER = ("split_name", "draws", "from_layer", "max_samples", "seed", "thumbnails")  # settings that change an embedding


def embed(
    images: o.Images,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Where to save: NAME.safetensors if not given; a folder with --each."),
    ] = None,
    each: Annotated[
        bool, typer.Option("--each", help="The folder holds data sets, a folder or zip each; go on where it was.")
    ] = False,
    name: Annotated[str | None, typer.Option(help="What to call the task; the folder's name if not given.")] = None,
    split: o.Split = None,
    separator: o.Separator = None,
    probe: o.ProbeName = o.PROBE,
    probe_weights: o.ProbeWeights = None,
    method: Annotated[str, typer.Option(help=f"One of {', '.join(sorted(task2vec.ESTIMATORS))}.")] = DEFAULT_METHOD,
    draws: Annotated[int, typer.Option(help="Labels or sign combinations drawn for each image.")] = 1,
    from_layer: Annotated[str | None, typer.Option(help="Measure only from this module of the probe on.")] = None,
    device: o.Device = "auto",
    precision: o.Precision = "auto",
    workers: o.Workers = "auto",
    max_samples: Annotated[int, typer.Option(help="At most so many images.")] = 10_000,
    ray: o.OnRay = False,
    ray_address: o.RayAddress = None,
    cpus: Annotated[float, typer.Option("--cpus-per-job", help="CPUs of a data set, or a shard of one, on Ray.")] = 1,
    gpus: Annotated[
        float | None, typer.Option("--gpus-per-job", help="GPUs of it, or a share such as 0.25; 1 if there are any.")
    ] = None,
    logs: o.Logs = Path(LOGS),
    seed: o.Seed = 0,
    thumbnails: o.Thumbnails = False,
    as_json: o.Json = False,
) -> None:
    """Embed a labelled image folder and save the embedding; with --each, every data set in a folder.

    On Ray, many data sets are embedded at once, and a large one in shards. All machines then read the same folders.
    """
    if not each and out is not None and out.is_dir():
        raise SelectionError(f"{out} is a folder; give the file to save to with --out")
    if not each and out is not None and out.suffix != ".safetensors":
        raise SelectionError(f"{out} does not end in .safetensors, as an embedding's file must; give another --out")
    network = task2vec.load_probe(probe, checkpoint=probe_weights)
    settings: dict[str, Any] = {
        "draws": draws, "from_layer": from_layer, "max_samples": max_samples, "seed": seed,
        "thumbnails": thumbnails,
        "compute": o.compute_of(device, precision, workers),
    }  # fmt: skip
    cluster = o.cluster_of(ray, ray_address, cpus, gpus)
    if each:
        if name is not None:
            raise SelectionError(f"--name {name} names one task; leave it out with --each")
        on_cluster = {"cluster": cluster, "logs": logs, "split_name": split}
        if separator is not None:
            raise SelectionError("--separator is of one table; leave it out with --each")
        _embed_each(images, out or Path("embeddings"), network, method, as_json, **settings, **on_cluster)
        return
    task = read_task(images if cluster is None else images.absolute(), split=split, name=name, separator=separator)
    path = out or Path(f"{task.name}.safetensors")
    refuse_lost(path, "embedding")
    if cluster is None:
        embedding = task2vec.embed(task, network, method, **settings, progress=True)
    else:
        (embedding,) = selection.embed_all([task], network, method, **settings, cluster=cluster, logs=logs)
    embedding.save(path)
    print_unreadable(embedding.unreadable)
    facts = describe_embedding(embedding) | {"saved": str(path)}
    if as_json:
        print_json(facts)
        return
    print_facts("Task embedding", facts | {"unreadable images": len(embedding.unreadable)})


def _embed_each(images: Path, out: Path, probe: Probe, method: str, as_json: bool, **settings: Any) -> None:
    """Embed what is not saved yet, and say a line of each as it is finished.

    Raises:
        SelectionError: there are no data sets, two would be saved under one name, the folder holds embeddings made
            otherwise, or some failed.
    """
    found = data_sets_in(images)
    places = {name: out / f"{name}.safetensors" for name in found}
    out.mkdir(parents=True, exist_ok=True)
    _same_settings(out, {"probe": probe.fingerprint, "method": method} | {n: settings[n] for n in MATTER})
    digests, embedded = {name: _digest_of(path) for name, path in found.items()}, _embedded(out)
    missing = [
        path
        for name, path in found.items()
        if not digests[name] or embedded.get(name) != digests[name] or not _is_whole(places[name], probe, method)
    ]
    typer.echo(f"{len(found) - len(missing)} of {len(found)} data sets are embedded in {out} already", err=True)
    for embedding in selection.embed_all(missing, probe, method, **settings):
        place = places[embedding.task]
        embedding.save(place)
        embedded[embedding.task] = digests[embedding.task]
        write_atomically(out / EMBEDDED, lambda path: path.write_text(json.dumps(embedded, indent=2) + "\n"))
        print_unreadable(embedding.unreadable)
        counts = f"{embedding.num_samples:,} images, {len(embedding.classes)} classes, norm {short(embedding.norm)}"
        facts = describe_embedding(embedding) | {"saved": str(place)}
        typer.echo(json.dumps(facts) if as_json else f"{embedding.task}: {counts}, saved in {place}")


def _same_settings(out: Path, settings: dict[str, Any]) -> None:
    """Note how the embeddings in a folder are made, or compare with what was noted.

    Raises:
        SelectionError: those in the folder were made otherwise, or nobody knows how, so that they could not be compared
            with new ones.
    """
    note = out / SETTINGS
    if not any(out.glob("*.safetensors")):
        write_atomically(note, lambda path: path.write_text(json.dumps(settings, indent=2) + "\n"))
        return
    if not note.exists():
        raise SelectionError(f"{out} holds files that --each did not make; give another folder with --out")
    try:
        noted = json.loads(note.read_text())
        odd = [f"{name} {noted.get(name)}, not {value}" for name, value in settings.items() if noted.get(name) != value]
    except (ValueError, AttributeError) as error:
        raise SelectionError(f"{note} is damaged ({error}); remove it, or give another folder with --out") from error
    if odd:
        raise SelectionError(f"the embeddings in {out} are made with {'; '.join(odd)}; give another folder with --out")


def _embedded(out: Path) -> dict[str, str]:
    """What the embeddings in a folder are of: digests by names; empty if nobody noted them."""
    try:
        noted = json.loads((out / EMBEDDED).read_text())
    except (OSError, ValueError):
        return {}
    return noted if isinstance(noted, dict) else {}


def _is_whole(place: Path, probe: Probe, method: str) -> bool:
    """Whether an embedding by this probe and method lies there, undamaged."""
    try:
        embedding = TaskEmbedding.load(place)
    except Task2VecError:
        return False
    return (embedding.probe, embedding.method) == (probe.fingerprint, method)


def _digest_of(images: Path) -> str:
    """What tells a data set from what it was before: names, sizes and times of its files, none of which is opened.

    Empty where they cannot be listed, which embedding it will say better.
    """
    digest = hashlib.sha256()
    try:
        for name in [""] if images.is_file() else Files(images).names().files:
            status = (images / name).stat()
            digest.update(repr((name, status.st_size, status.st_mtime_ns)).encode())
    except OSError:
        return ""
    return digest.hexdigest()
