"""One portable file of a whole store: a zip with a manifest of checksums.

    manifest.json                 format version, the files below with their SHA-256, counts
    tasks.jsonl                   a task a line, with its trials
    embeddings/NUMBER.safetensors the tensors of one embedding, its facts in the header
    adapters/DIGEST/...           the files of one adapter
    thumbnails/NUMBER.webp        a small picture of one of a task's images

An archive may come from a stranger. Nothing in it chooses where anything is written, names of entries are matched
against the patterns above, sizes are limited, checksums compared, and everything is read by the same functions
that check what a user gives. Nothing is unpickled, and pictures are decoded before they are taken.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import stat
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.numpy import load as from_bytes
from safetensors.numpy import save as to_bytes

from selection.errors import StoreError
from selection.store.facts import BackboneFacts
from selection.store.files import NAMES, digest_of
from selection.store.rows import long_name, same_classes
from selection.store.schema import NAME_LENGTH, is_text, plain
from selection.store.store import StoredTask, TaskStore
from selection.store.trial import Trial, config_of_version_0_1
from task2vec import EmbeddingError, TaskEmbedding, Thumbnail
from task2vec.embedding import embedding_from, embedding_parts
from task2vec.thumbnails import COUNT, LARGEST, check_thumbnails
from task2vec_base import write_atomically

FORMAT_VERSION = 4
READ_VERSIONS = (1, 2, 3, 4)  # before 3, configs left out what there was no choice of yet
LARGEST_ENTRY = 2**31  # bytes of one file in an archive
LARGEST_TOTAL = 2**36  # bytes of all of them
LARGEST_RATIO = 1000  # of a file to what it takes in the archive
ENTRY = re.compile(
    r"manifest\.json|tasks\.jsonl|embeddings/\d{1,9}\.safetensors|thumbnails/\d{1,9}\.webp|"
    rf"adapters/[0-9a-f]{{32}}/({'|'.join(map(re.escape, NAMES))})"
)


@dataclasses.dataclass(frozen=True)
class ImportReport:
    """What an import or a merge did.

    Attributes:
        added: Tasks that were new.
        extended: Tasks that were there and got more embeddings, trials, thumbnails or an adapter.
        conflicts: What both sides have and is not the same, a sentence each; the store kept its own.
    """

    added: tuple[str, ...]
    extended: tuple[str, ...]
    conflicts: tuple[str, ...]


def export_store(store: TaskStore, path: str | Path) -> None:
    """Write everything in a store to one file.

    Raises:
        StoreError: something in the store is damaged, or the file cannot be written, is the store's own, or is
            something else than an archive.
    """
    path = Path(path)
    if store.is_part(path):
        raise StoreError(f"{path} belongs to the store itself, which would be lost; give another file to write")
    if path.is_file() and path.stat().st_size and not _is_archive(path):
        raise StoreError(f"{path} is there and is no store's archive; it would be lost, give another file to write")

    def write(temporary: Path) -> None:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
            _write_entries(store, archive)

    try:
        write_atomically(path, write)
    except OSError as error:
        raise StoreError(f"{path} cannot be written ({error.strerror}); give another place") from error


def import_archive(store: TaskStore, path: str | Path) -> ImportReport:
    """Add everything in an archive to a store. What the store has stays; differences are reported.

    The whole archive is checked before anything is stored.

    Raises:
        StoreError: the file is no archive, is damaged, or tries what an archive must not.
    """
    path = Path(path)
    with tempfile.TemporaryDirectory() as folder:
        try:
            with zipfile.ZipFile(path) as archive:
                entries = list(_read_entries(archive, path, Path(folder)))
        except FileNotFoundError as error:
            raise StoreError(f"there is no archive at {path}; check the path") from error
        except (zipfile.BadZipFile, OSError, EOFError, RuntimeError, NotImplementedError) as error:
            raise StoreError(f"{path} is not a store's archive ({error}); export the store again") from error
        return _add(store, entries)


def _is_archive(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return {"manifest.json", "tasks.jsonl"} <= set(archive.namelist())
    except (zipfile.BadZipFile, OSError):
        return False


def merge_stores(store: TaskStore, other: TaskStore) -> ImportReport:
    """Add everything in another store. What `store` has stays; differences are reported.

    Raises:
        StoreError: something in the other store is damaged.
    """
    return _add(
        store,
        [
            _Entry(task, other.embeddings(name=task.name), task.adapter, other.thumbnails(task.name))
            for task in other.tasks()
        ],
    )


@dataclasses.dataclass(frozen=True)
class _Entry:
    task: StoredTask
    embeddings: list[TaskEmbedding]
    adapter: Path | None
    thumbnails: tuple[Thumbnail, ...]


def _write_entries(store: TaskStore, archive: zipfile.ZipFile) -> None:
    files: dict[str, str] = {}

    def put(name: str, content: bytes) -> None:
        if name not in files:
            files[name] = hashlib.sha256(content).hexdigest()
            archive.writestr(name, content)

    lines, number, pictures = [], 0, 0
    for task in store.tasks():
        embeddings = store.embeddings(name=task.name)
        numbers = range(number, number + len(embeddings))
        number += len(embeddings)
        for i, embedding in zip(numbers, embeddings, strict=True):
            tensors, metadata = embedding_parts(embedding)
            put(f"embeddings/{i}.safetensors", to_bytes(tensors, metadata={"task2vec": json.dumps(metadata)}))
        digest = None if task.adapter is None else digest_of(task.adapter)
        if digest is not None and task.adapter is not None:
            for name in NAMES:
                put(f"adapters/{digest}/{name}", (task.adapter / name).read_bytes())
        labels = []
        for label, webp in store.thumbnails(task.name):
            labels.append((pictures, label))
            put(f"thumbnails/{pictures}.webp", webp)
            pictures += 1
        record = {
            "name": task.name,
            "tags": [*map(plain, task.tags)],
            "source": plain(task.source),
            "adapter": digest,
            "embeddings": list(numbers),
            "trials": [trial.to_dict() for trial in task.trials],
            "facts": [facts.to_dict() for facts in task.facts],
            "thumbnails": labels,
        }
        lines.append(json.dumps(record))
    put("tasks.jsonl", "".join(f"{line}\n" for line in lines).encode())
    manifest = {"format_version": FORMAT_VERSION, "tasks": len(lines), "embeddings": number, "files": files}
    archive.writestr("manifest.json", json.dumps(manifest, indent=1))


def _read_entries(archive: zipfile.ZipFile, path: Path, folder: Path) -> Iterator[_Entry]:
    """The tasks of an archive, adapters laid out under `folder`."""
    infos = {info.filename: info for info in archive.infolist()}
    _refuse_hostile(archive.infolist(), path)

    def read(name: str) -> bytes:
        if name not in infos:
            raise StoreError(f"{path} lacks {name}; export the store again")
        return archive.read(infos[name])

    try:
        manifest = json.loads(read("manifest.json"))
        version, checksums = manifest["format_version"], dict(manifest["files"])
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path} has a damaged manifest ({error}); export the store again") from error
    if version not in READ_VERSIONS:
        raise StoreError(f"{path} has format version {version}, this package reads {FORMAT_VERSION}; upgrade it")
    if set(checksums) != set(infos) - {"manifest.json"}:
        odd = sorted(set(checksums) ^ (set(infos) - {"manifest.json"}))[0]
        raise StoreError(f"{path} does not agree with its manifest on {odd}; export the store again")

    def checked(name: str) -> bytes:
        content = read(name)
        if hashlib.sha256(content).hexdigest() != checksums[name]:
            raise StoreError(f"{path} has a damaged {name} (its checksum differs); export the store again")
        return content

    for number, line in enumerate(checked("tasks.jsonl").decode("utf-8", "replace").splitlines(), 1):
        try:
            record = json.loads(line)
            if version < 3:
                record["trials"] = [
                    trial | {"config": config_of_version_0_1(trial["config"])} for trial in record["trials"]
                ]
            yield _entry(record, checked, folder)
        except (ValueError, KeyError, TypeError, AttributeError, SafetensorError, EmbeddingError) as error:
            raise StoreError(f"line {number} of tasks.jsonl in {path} is no task ({error}); export it again") from error


def _refuse_hostile(infos: list[zipfile.ZipInfo], path: Path) -> None:
    total, seen = 0, set()
    for info in infos:
        total += info.file_size
        if not ENTRY.fullmatch(info.filename) or info.filename in seen or stat.S_ISLNK(info.external_attr >> 16):
            raise StoreError(f"{path} holds {info.filename[:100]!r}, which no store's archive has; nothing was read")
        largest = LARGEST if info.filename.startswith("thumbnails/") else LARGEST_ENTRY
        if info.file_size > min(largest, LARGEST_RATIO * max(info.compress_size, 1)) or total > LARGEST_TOTAL:
            raise StoreError(f"{path} unpacks {info.filename} to {info.file_size:,} bytes, too many; nothing was read")
        seen.add(info.filename)


def _entry(record: dict[str, Any], checked: Callable[[str], bytes], folder: Path) -> _Entry:
    embeddings = []
    for number in record["embeddings"]:
        content = checked(f"embeddings/{int(number)}.safetensors")
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        own = json.loads(header["__metadata__"]["task2vec"])
        embedding = embedding_from(from_bytes(content), own, f"embedding {number}")
        embeddings.append(dataclasses.replace(embedding, task=str(record["name"])))
    if not embeddings:
        raise ValueError("it has no embedding")
    if not 0 < len(record["name"]) <= NAME_LENGTH:
        raise ValueError(f"its name has {len(record['name'])} characters, not 1 to {NAME_LENGTH}")
    labels = [(int(number), label) for number, label in record.get("thumbnails", ())][: COUNT + 1]
    texts = (record["name"], record["source"], *record["tags"], *(label for _, label in labels))
    odd = next((text for text in texts if not is_text(text)), None)
    if odd is not None:
        raise ValueError(f"{str(odd)[:100]!r} is no name, source, tag or label")
    pictures = tuple(Thumbnail(label, checked(f"thumbnails/{number}.webp")) for number, label in labels)
    check_thumbnails(pictures)
    trials = tuple(Trial.from_dict(trial) for trial in record["trials"])
    problem = long_name(embeddings, trials)
    if problem:
        raise ValueError(problem)
    adapter = None
    if record["adapter"] is not None:
        adapter = folder / re.fullmatch(r"[0-9a-f]{32}", record["adapter"]).group()  # type: ignore[union-attr]
        adapter.mkdir(exist_ok=True)
        for name in NAMES:
            (adapter / name).write_bytes(checked(f"adapters/{adapter.name}/{name}"))
    task = StoredTask(
        name=str(record["name"]),
        num_images=embeddings[0].num_samples,
        classes=embeddings[0].classes,
        trials=trials,
        adapter=adapter,
        tags=tuple(map(str, record["tags"])),
        source=str(record["source"]),
        facts=tuple(BackboneFacts.from_dict(found) for found in record.get("facts", ())),
    )
    return _Entry(task, embeddings, adapter, pictures)


def _add(store: TaskStore, entries: list[_Entry]) -> ImportReport:
    added, extended, conflicts = [], [], []
    for entry in entries:
        name, pictures = entry.task.name, entry.thumbnails
        if name in store and not same_classes(store.task(name).classes, entry.task.classes):
            conflicts.append(f"{name!r} has other classes there; rename one of the two tasks")
            continue
        if name not in store:
            own, trials, adapter = None, list(entry.task.trials), entry.adapter
            embeddings, odd = _comparable(store, name, entry.embeddings)
            conflicts += odd
            if not embeddings:
                continue
            added.append(name)
        else:
            own = store.task(name)
            trials, odd = _new_trials(own, entry.task)
            new, more = _new_embeddings(store.embeddings(name=name), entry.embeddings)
            embeddings, apart = _comparable(store, name, new)
            more += apart
            adapter = entry.adapter if own.adapter is None else None
            if (
                own.adapter is not None
                and entry.adapter is not None
                and digest_of(own.adapter) != digest_of(entry.adapter)
            ):
                more.append(f"{name!r} has another adapter there")
            conflicts += [*odd, *more]
            pictures = () if store.thumbnails(name) else pictures
            if trials or embeddings or adapter or pictures:
                extended.append(name)
        # Whatever of its own is stored again must describe the task as it is described.
        first = embeddings[0] if embeddings else _describing(own, store.embeddings(name=name))
        first = dataclasses.replace(first, thumbnails=pictures)
        source = "" if own is not None and own.source else plain(entry.task.source)
        tags = [*map(plain, entry.task.tags)]
        known = [] if own is None else [found.backbone.fingerprint for found in own.facts]
        looks = [found for found in entry.task.facts if found.backbone.fingerprint not in known]
        store.add(first, name=name, trials=trials, adapter=adapter, tags=tags, source=source, facts=looks)
        for embedding in embeddings[1:]:
            store.add(embedding, name=name)
    return ImportReport(tuple(added), tuple(extended), tuple(conflicts))


def _comparable(
    store: TaskStore, name: str, embeddings: Sequence[TaskEmbedding]
) -> tuple[list[TaskEmbedding], list[str]]:
    """The embeddings that can be compared with those in the store, and what is wrong with the others."""
    found, odd = [], []
    for embedding in embeddings:
        try:
            store.check_layers(name, embedding)
            found.append(embedding)
        except StoreError as error:
            odd.append(str(error))
    return found, odd


def _describing(task: StoredTask | None, embeddings: list[TaskEmbedding]) -> TaskEmbedding:
    """The embedding that a task's number of images is from."""
    return next((e for e in embeddings if task and e.num_samples == task.num_images), embeddings[0])


def _new_trials(own: StoredTask, other: StoredTask) -> tuple[list[Trial], list[str]]:
    """The other side's trials that are new, and those that contradict."""
    known = {trial.key: trial for trial in own.trials}
    new = [trial for trial in other.trials if trial.key not in known]
    odd = [
        f"{own.name!r} has {trial.config.label} with seed {trial.seed} at {_shown(known[trial.key].score)} here "
        f"and {_shown(trial.score)} there"
        for trial in other.trials
        if trial.key in known and known[trial.key].score != trial.score
    ]
    return new, odd


def _shown(score: float | None) -> str:
    return "no score" if score is None else f"{score:.3f}"


def _new_embeddings(own: list[TaskEmbedding], other: list[TaskEmbedding]) -> tuple[list[TaskEmbedding], list[str]]:
    """The other side's embeddings that are new, and those that contradict."""
    known = {(e.probe, e.method): e for e in own}
    new = [e for e in other if (e.probe, e.method) not in known]
    odd = [
        f"{e.task!r} has another {e.method} embedding under probe {e.probe_name} there"
        for e in other
        if (e.probe, e.method) in known and known[e.probe, e.method].fisher.tobytes() != e.fisher.tobytes()
    ]
    return new, odd
