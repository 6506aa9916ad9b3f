"""Results, adapters, embeddings and stores on the Hugging Face hub, through its own client.

    a repository holds      files
    a result                result.json, README.md and what lies beside them
    an adapter              adapter.json, adapter.safetensors
    an embedding            embedding.safetensors
    a store                 store.zip, an exported archive

What a training needs to go on (`training.pt`) stays at home.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import adapters
from adapters import AdapterError
from selection.errors import SelectionError
from selection.results import description
from selection.results.result import Result, load_result
from selection.store import TaskStore, export_store, import_archive
from task2vec import Compute, TaskEmbedding
from task2vec.weights import hub_answers

EMBEDDING, STORE, ADAPTER = "embedding.safetensors", "store.zip", "adapter.json"
FILES = ("*.json", "*.jsonl", "*.csv", "*.md", "*.png", "*.safetensors", "*.zip")
"""What is sent and fetched; neither the state of a training nor anything that would have to be unpickled."""


def push_to_hub(
    what: Result | TaskEmbedding | TaskStore | str | Path,
    repository: str,
    *,
    private: bool = True,
    token: str | None = None,
    message: str = "Upload",
) -> str:
    """Send something to the hub; gives the address of the commit.

    Args:
        what: A result, an embedding or a store; or the folder of a result or of an adapter.
        repository: Its name, such as `me/flowers`; made if it is not there.
        private: Whether a new repository can be seen by its owner only.
        token: The one of `hf auth login` if not given.
        message: Of the commit.

    Raises:
        SelectionError: there is nothing of this kind, the hub does not answer, or it refuses.
    """
    with tempfile.TemporaryDirectory() as temporary, _said_plainly(repository):
        folder = _laid_out(what, Path(temporary))  # before the network is asked
        api = _client(token)
        api.create_repo(repository, private=private, exist_ok=True)
        done = api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            allow_patterns=list(FILES),
            ignore_patterns=["*/*"],  # the tries that led to a result stay at home too
            commit_message=message,
        )
    return str(done.commit_url)


def from_pretrained(
    repository: str, *, revision: str | None = None, token: str | None = None, compute: Compute | None = None
) -> Result | TaskEmbedding | TaskStore | Path:
    """What a repository on the hub holds: a result, an embedding, a store in memory, or the folder of an adapter.

    Args:
        repository: Its name, such as `me/flowers`.
        revision: A branch, a tag or a commit; the newest if not given.
        token: The one of `hf auth login` if not given.
        compute: Where a result computes; see `load_result`.

    Raises:
        SelectionError: the hub does not answer, has no such repository, or it holds nothing of ours.
        CheckpointError, EmbeddingError, StoreError: what it holds is damaged.
    """
    with _said_plainly(repository):
        client = _client(token)
        folder = Path(client.snapshot_download(repository, revision=revision, allow_patterns=list(FILES)))
    if (folder / description.FILE).exists():
        return load_result(folder, compute=compute)
    if (folder / ADAPTER).exists():
        adapters.read_metadata(folder)
        return folder
    if (folder / EMBEDDING).exists():
        return TaskEmbedding.load(folder / EMBEDDING)
    if (folder / STORE).exists():
        store = TaskStore(called=repository, files=folder / "files")
        import_archive(store, folder / STORE)
        return store
    raise SelectionError(f"{repository} holds no result, adapter, embedding or store; give what push_to_hub sent")


def _laid_out(what: Any, temporary: Path) -> Path:
    """A folder with the files to send."""
    if isinstance(what, TaskEmbedding):
        what.save(temporary / EMBEDDING)
        return temporary
    if isinstance(what, TaskStore):
        export_store(what, temporary / STORE)
        return temporary
    folder = what.folder if isinstance(what, Result) else Path(what)
    if not (folder / description.FILE).exists():
        try:
            adapters.read_metadata(folder)
        except AdapterError as error:
            raise SelectionError(
                f"{folder} holds neither a result nor an adapter; give what tune or save wrote"
            ) from error
    return folder


def _client(token: str | None) -> Any:
    """The hub's client.

    Raises:
        SelectionError: the hub does not answer.
    """
    from huggingface_hub import HfApi, constants

    if not hub_answers():
        reason = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "check the network"
        raise SelectionError(f"{constants.ENDPOINT} cannot be reached; {reason}")
    return HfApi(endpoint=constants.ENDPOINT, token=token)


@contextmanager
def _said_plainly(repository: str) -> Iterator[None]:
    """Inside the context, errors of the hub's client are one sentence of ours."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        yield
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".: ")
        raise SelectionError(
            f"the hub did not do it for {repository} ({reason}); check the name, your rights and hf auth login"
        ) from error
