"""How tasks, embeddings and trials become rows of the store's tables, and come back."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import sqlalchemy as sql
from safetensors import SafetensorError
from safetensors.numpy import load as from_bytes
from safetensors.numpy import save as to_bytes
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from adapters import AdapterConfig, BackboneId, ConfigError
from selection.errors import StoreError
from selection.store.facts import BackboneFacts
from selection.store.schema import (
    BYTES,
    NAME_LENGTH,
    TRIAL_KEY,
    EmbeddingRow,
    FactsRow,
    TaskRow,
    ThumbnailRow,
    TrialRow,
    checksum_of,
    config_digest_of,
    is_text,
)
from selection.store.trial import LARGEST, Trial, is_point
from task2vec import EmbeddingError, TaskEmbedding, Thumbnail
from task2vec.embedding import embedding_from, embedding_parts
from task2vec.tasks.labels import spelled
from task2vec.thumbnails import check_thumbnails

REVISION = "task2vec_revision"  # under which a session that writes knows the number of its change
UPSERTS: dict[str, Callable[..., Any]] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}


def get_task(session: Session, name: str) -> TaskRow | None:
    """The task of that name, if there is one."""
    return session.scalar(sql.select(TaskRow).where(TaskRow.name == name))


def long_name(embeddings: Iterable[TaskEmbedding], trials: Iterable[Trial] = ()) -> str:
    """What is wrong with a name that is too long for its column; empty if none is.

    SQLite would take any length, PostgreSQL refuses it with a message that names no culprit.
    """
    names = [("an estimator", e.method) for e in embeddings] + [("a backbone", str(t.backbone)) for t in trials]
    return next(
        (
            f"the name of {what} must have at most {NAME_LENGTH} characters, not {len(name)} as {name[:50]!r}... does"
            for what, name in names
            if len(name) > NAME_LENGTH
        ),
        "",
    )


def _columns(embedding: TaskEmbedding) -> dict[str, str | bytes]:
    parts, facts = embedding_parts(embedding)
    fisher = parts.pop("fisher").astype("<f4").tobytes()
    tensors, text = to_bytes(parts), json.dumps(facts)
    checksum = checksum_of(fisher, tensors, text)
    return {"fisher": fisher, "tensors": tensors, "facts": text, "checksum": checksum}


def put_embedding(session: Session, row: TaskRow, embedding: TaskEmbedding) -> None:
    """Add an embedding to a task, in place of one of the same probe and estimator."""
    found = next((e for e in row.embeddings if (e.probe, e.method) == (embedding.probe, embedding.method)), None)
    if found is None:
        found = EmbeddingRow(probe=embedding.probe, method=embedding.method)
        row.embeddings.append(found)
    found.revision = session.info[REVISION]
    for column, value in _columns(embedding).items():
        setattr(found, column, value)


def describe(row: TaskRow, embedding: TaskEmbedding) -> None:
    """Give a task the classes and the number of images of an embedding."""
    row.num_images, row.classes = embedding.num_samples, json.dumps(embedding.classes)


def describe_again(row: TaskRow, embedding: TaskEmbedding) -> None:
    """The same where the embedding takes the place of the one that the task was described by; another one beside it may
    be of some of its images only.
    """
    former = next((e for e in row.embeddings if (e.probe, e.method) == (embedding.probe, embedding.method)), None)
    if former is not None and json.loads(former.facts)["num_samples"] == row.num_images:
        describe(row, embedding)


def words_of(tags: Iterable[str], source: str) -> list[str]:
    """The tags of a task, if they and its source can be kept, exported and found again.

    Raises:
        StoreError: a tag, all tags or the source is no text, or holds control characters.
    """
    if isinstance(tags, str):
        raise StoreError(f"tags={tags!r} must be several words; give ({tags!r},)")
    words = list(tags)
    odd = next((text for text in (*words, source) if not is_text(text)), None)
    if odd is not None:
        raise StoreError(f"{str(odd)[:100]!r} is no tag or source: it is no text, or holds control characters")
    return words


def same_classes(ones: Sequence[str], others: Sequence[str]) -> bool:
    """Whether two tasks tell the same classes apart; file systems may spell accents differently (`spelled`)."""
    return sorted(map(spelled, ones)) == sorted(map(spelled, others))


def refuse_other_classes(row: TaskRow, classes: Sequence[str]) -> None:
    """Make sure that a task of that name is the same task: its trials say nothing about other classes.

    Raises:
        StoreError: its classes are others.
    """
    stored = json.loads(row.classes)
    if not same_classes(stored, classes):
        raise StoreError(
            f"{row.name!r} is stored with {_listed(stored)}, and this task has {_listed(classes)}; give "
            "another name (--name), or remove the stored task first (task2vec store remove)"
        )


def refuse_other_layers(session: Session, named: Mapping[str, TaskEmbedding]) -> None:
    """Make sure that embeddings of one probe and estimator can be compared with each other: those measured from another
    layer on (`from_layer`) have another number of filters.

    What lies in a store already stays usable: a search leaves out what it cannot compare.

    Args:
        session: Where the other tasks' embeddings are.
        named: The new embeddings by their tasks' names.

    Raises:
        StoreError: others of the probe and estimator are of other layers.
    """
    kinds: dict[tuple[str, str], tuple[str, TaskEmbedding]] = {}
    for name, embedding in named.items():
        first = kinds.setdefault((embedding.probe, embedding.method), (name, embedding))
        if len(first[1].fisher) != len(embedding.fisher):
            raise StoreError(_of_other_layers(name, embedding, first[0], len(first[1].fisher)))
    length = sql.func.length(EmbeddingRow.fisher)
    for (probe, method), (name, embedding) in kinds.items():
        stored = sql.select(TaskRow.name, length).join_from(EmbeddingRow, TaskRow).limit(1)
        stored = stored.where(EmbeddingRow.probe == probe, EmbeddingRow.method == method)
        alike = session.execute(stored.where(length == BYTES * len(embedding.fisher))).first()
        odd = None if alike else session.execute(stored.where(TaskRow.name.not_in(named))).first()
        if odd is not None:
            raise StoreError(_of_other_layers(name, embedding, odd[0], odd[1] // BYTES))


def _of_other_layers(name: str, embedding: TaskEmbedding, other: str, length: int) -> str:
    return (
        f"the embedding of {name!r} has {len(embedding.fisher):,} filters, and that of {other!r} by the same probe and "
        f"estimator has {length:,}: they were measured from different layers on and cannot be compared; embed both "
        "alike, or use another store"
    )


def _listed(classes: Sequence[str]) -> str:
    shown = ", ".join(classes[:3]) + (", ..." if len(classes) > 3 else "")
    return f"{len(classes)} classes ({shown})"


def put_many(named: dict[str, TaskEmbedding], session: Session) -> None:
    """Insert the tasks that are new in two or three statements; the others as `add` would."""
    revision = session.info[REVISION]
    refuse_other_layers(session, named)
    present = set(session.scalars(sql.select(TaskRow.name).where(TaskRow.name.in_(named))))
    new = {name: embedding for name, embedding in named.items() if name not in present}
    if new:
        rows = [{"name": n, "num_images": e.num_samples, "classes": json.dumps(e.classes)} for n, e in new.items()]
        insert = sql.insert(TaskRow).returning(TaskRow.id, sort_by_parameter_order=True)
        ids = session.scalars(insert, rows).all()
        session.execute(
            sql.insert(EmbeddingRow),
            [
                {"task_id": i, "probe": e.probe, "method": e.method, "revision": revision, **_columns(e)}
                for i, e in zip(ids, new.values(), strict=True)
            ],
        )
        pictures = [
            {"task_id": i, "label": label, "webp": webp}
            for i, e in zip(ids, new.values(), strict=True)
            for label, webp in e.thumbnails
        ]
        if pictures:
            session.execute(sql.insert(ThumbnailRow), pictures)
    for name in present:
        row = get_task(session, name)
        assert row is not None
        refuse_other_classes(row, named[name].classes)
        describe_again(row, named[name])
        put_embedding(session, row, named[name])
        put_thumbnails(row, named[name].thumbnails)


def to_embedding(row: EmbeddingRow, name: str) -> TaskEmbedding:
    """The embedding of the task of that name.

    Raises:
        StoreError: it is damaged.
    """
    try:
        if checksum_of(row.fisher, row.tensors, row.facts) != row.checksum:
            raise ValueError("its checksum differs")
        tensors = from_bytes(row.tensors) | {"fisher": np.frombuffer(row.fisher, "<f4")}
        embedding = embedding_from(tensors, json.loads(row.facts), f"the embedding of {name!r}")
    except (SafetensorError, ValueError, EmbeddingError) as error:
        raise StoreError(f"the stored embedding of {name!r} is damaged ({error}); embed the task again") from error
    return dataclasses.replace(embedding, task=name)


def put_trials(session: Session, row: TaskRow, trials: Iterable[Trial]) -> None:
    """Add trials to a task, each in place of one of the same config, backbone, seed and number of images.

    The database decides whether there is one: a trial that ran in two places at once is stored once.
    """
    session.flush()  # a new task gets its number
    rows = [{"task_id": row.id} | _trial_columns(trial) for trial in trials]
    if not rows:
        return
    insert = UPSERTS[session.get_bind().dialect.name](TrialRow.__table__)
    others = {name: insert.excluded[name] for name in rows[0] if name not in TRIAL_KEY}
    session.execute(insert.on_conflict_do_update(index_elements=TRIAL_KEY, set_=others), rows)


def _trial_columns(trial: Trial) -> dict[str, Any]:
    values = trial.to_dict()
    config = json.dumps(values["config"], sort_keys=True)
    return values | {
        "config": config,
        "config_digest": config_digest_of(config),
        "curve": json.dumps(values["curve"]),
    }


def put_facts(row: TaskRow, facts: BackboneFacts) -> None:
    """Add facts to a task, in place of those under the same backbone."""
    found = next((f for f in row.facts if f.backbone_fingerprint == facts.backbone.fingerprint), None)
    if found is None:
        found = FactsRow(backbone_fingerprint=facts.backbone.fingerprint)
        row.facts.append(found)
    found.content = json.dumps(facts.to_dict())


def put_thumbnails(row: TaskRow, thumbnails: Sequence[Thumbnail]) -> None:
    """Give a task these pictures, in place of those it has; those it has stay if there are no new ones."""
    if thumbnails:
        row.thumbnails = [ThumbnailRow(label=label, webp=webp) for label, webp in thumbnails]


def to_thumbnails(row: TaskRow) -> tuple[Thumbnail, ...]:
    """The pictures of a task.

    Raises:
        StoreError: one of them is damaged, or no picture.
    """
    thumbnails = tuple(Thumbnail(found.label, found.webp) for found in row.thumbnails)
    try:
        check_thumbnails(thumbnails)
    except EmbeddingError as error:
        raise StoreError(f"the stored thumbnails of {row.name!r} are damaged ({error})") from error
    return thumbnails


def to_trial(row: TrialRow) -> Trial:
    """The trial of a row.

    Earlier versions stored times and numbers that `Trial` refuses: they are read as those nearest that can be, and
    such curves as not kept, since the accuracies beside them are sound and the store's other trials are too.

    Raises:
        ValueError: it is damaged.
    """
    values = {f.name: getattr(row, f.name) for f in dataclasses.fields(Trial)}
    config = _config(row.config, row.config_digest)
    read = {"config": config, "backbone": _backbone(row.backbone, row.backbone_fingerprint)}
    try:
        curve = tuple((float(accuracy), float(seconds)) for accuracy, seconds in json.loads(row.curve))
        mended = {
            "parameters": max(int(row.parameters), 0),
            "seconds": max(row.seconds, 0.0),
            "seed": int(row.seed) % (LARGEST + 1),  # so that those that differed still do
            "num_images": max(int(row.num_images), 1),
            "curve": curve if all(map(is_point, curve)) else (),
        }
        return Trial(**values | read | mended)
    except (TypeError, OverflowError) as error:
        raise ValueError(f"not a trial: {error}") from error


def to_facts(row: FactsRow) -> BackboneFacts:
    """The facts of a row.

    Raises:
        ValueError: they are damaged.
    """
    return BackboneFacts.from_dict(json.loads(row.content))


@lru_cache(maxsize=4096)  # a store has few configurations and many trials of each
def _config(text: str, digest: str) -> AdapterConfig:
    if config_digest_of(text) != digest:
        raise ValueError("the digest of its config differs")
    try:
        return AdapterConfig.from_dict(json.loads(text))
    except (ConfigError, TypeError) as error:
        raise ValueError(f"not a trial: {error}") from error


@lru_cache(maxsize=256)
def _backbone(name: str, fingerprint: str) -> BackboneId:
    return BackboneId.of_name(name, fingerprint)
