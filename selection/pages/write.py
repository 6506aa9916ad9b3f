"""Write an atlas of a store, or a report on one task."""

from __future__ import annotations

from pathlib import Path

from adapters import DEFAULT_BACKBONE
from selection.pages.data import gather, told_of
from selection.pages.page import page
from selection.recommendation.result import Recommendation
from selection.results.outputs import refuse_lost
from selection.store import TaskStore
from task2vec import TaskEmbedding
from task2vec_base import write_atomically

IN_REPORT = 30  # stored tasks that a report knows


def atlas(
    store: TaskStore,
    out: str | Path = "atlas.html",
    *,
    target: TaskEmbedding | None = None,
    distance: str = "log_cosine",
    backbone: str | None = None,
    advise: bool | None = None,
    map_by: str = "mds",
    thumbnails: bool = True,
    progress: bool = True,
) -> Path:
    """Write one page on which the tasks of a store can be seen: a map, a card for each task, the distance matrix.

    The page holds everything it needs and loads nothing. It shows what the store knows, the names of tasks and classes
    included and, where tasks were added with thumbnails, some of their images: whoever gets the page gets those.

    Args:
        store: Tasks that were embedded by the target's probe and estimator, or by those that most of them have.
        out: The file.
        target: A task to place among them, with lines to the tasks that its recommendation rests on.
        distance: One of `task2vec.DISTANCES`.
        backbone: Whose trials are shown first, and what recommendations are for; that with most trials if not given.
        advise: Recommend for every stored task, as if it and its source were unknown; where at most 100 of them have
            trials, if None.
        map_by: How tasks are placed on the map: `mds` keeps distances as well as a plane can, `tsne` neighbours.
        thumbnails: Show pictures of the images of tasks that have some.
        progress: Show progress on standard error.

    Returns:
        The file.

    Raises:
        StoreError: there is nothing to show, or no trial used the backbone.
        DistanceError: there is no such distance.
        SelectionError: there is no such map, or what lies at `out` is no page.
    """
    refuse_lost(out, "page")
    found = gather(
        store,
        target=target,
        distance=distance,
        backbone=backbone,
        advise=advise,
        map_by=map_by,
        thumbnails=thumbnails,
        progress=progress,
    )
    return _write(page(found), out)


def report(
    recommendation: Recommendation,
    embedding: TaskEmbedding,
    store: TaskStore,
    out: str | Path = "report.html",
    *,
    backbone: str = DEFAULT_BACKBONE,
    distance: str = "log_cosine",
) -> Path:
    """Write the target's card of the atlas as a page of its own: what is recommended, why, and what is near.

    Args:
        recommendation: What `selection.recommend` answered.
        embedding: The target.
        store: Where the evidence is.
        out: The file.
        backbone: What the recommendation is for.
        distance: By which the nearest tasks are told.

    Returns:
        The file.

    Raises:
        SelectionError: what lies at `out` is no page.
    """
    refuse_lost(out, "page")
    near = {n.name for n in store.nearest(embedding, IN_REPORT, distance=distance)}
    names = near | {evidence.task for evidence in recommendation.evidence}
    found = gather(
        store,
        target=embedding,
        advice=told_of(recommendation, backbone),
        distance=distance,
        backbone=None if recommendation.note else backbone,  # a note says that no trial used it
        names=sorted(names),
        advise=False,
        title=f"Recommendation for {embedding.task or 'your images'}",
    )
    return _write(page(found, report=True), out)


def _write(text: str, out: str | Path) -> Path:
    path = Path(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda temporary: temporary.write_text(text, "utf-8"))
    return path
