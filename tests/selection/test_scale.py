"""Many at once: jobs on a Ray cluster, and what is left of them when something is lost."""

import builtins
import json
import shutil
from itertools import chain

import numpy as np
import pytest
import torch

from adapters import AdapterConfig
from selection import Cluster, Grid, SelectionError, TaskStore, embed_all, run_grid
from selection.jobs import Failure, Failures, Job, running_on
from task2vec import Compute, Task, TaskEmbedding, embed, load_probe
from tests.selection.test_cli import as_json, run
from tests.selection.test_grid import COLOURS, paint

ray = pytest.importorskip("ray", reason="Ray is not installed; pip install '.[ray]'")

QUICK = AdapterConfig("linear", learning_rate=0.1, epochs=1)
SLOWER = AdapterConfig("linear", learning_rate=0.05, epochs=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two data sets of three colours."""
    root = tmp_path_factory.mktemp("scale") / "datasets"
    for name in ("colours", "tints"):
        paint(root / name, "train", COLOURS, 10)
        paint(root / name, "test", COLOURS, 2)
    return root


def double(number):
    return 2 * number


def fail_on_odd(number):
    if number % 2:
        raise ValueError(f"{number} is odd\nand that is that")
    return number


def threads():
    return torch.get_num_threads()


def outcomes(runner, *jobs):
    return [outcome for _, outcome in chain(*runner.run(jobs))]


@pytest.mark.parametrize("place", ["process", "cluster"])
def test_jobs_give_the_same_wherever_they_run_and_an_error_is_named_without_stopping_the_others(
    place, request, tmp_path
):
    where = request.getfixturevalue("cluster") if place == "cluster" else None
    failures = Failures(tmp_path / "logs")
    with running_on(where) as runner:
        shared = runner.share("ten", double, 5)
        jobs = (Job(f"job {n}", fail_on_odd, (n,), n) for n in range(40))
        found = {job.about: value for job, value in chain(*failures.sort_out(runner.run(jobs)))}
        assert found == {n: n for n in range(0, 40, 2)}
        assert outcomes(runner, Job("twenty", double, (shared,))) == [20]
    with pytest.raises(SelectionError, match=r"20 failed: job \d+ \(ValueError: \d+ is odd\); .*, and 17 more"):
        failures.raise_any()
    assert sorted(path.name for path in (tmp_path / "logs").iterdir()) == sorted(
        f"job_{n}.log" for n in range(1, 40, 2)
    )
    assert "fail_on_odd" in (tmp_path / "logs" / "job_7.log").read_text()


def test_what_cannot_be_shared_fails_each_job_that_needs_it(cluster):
    with running_on(cluster) as runner:
        shared = runner.share("broken", fail_on_odd, 1)
        (found,) = outcomes(runner, Job("needs it", double, (shared,)))
    assert isinstance(found, Failure)
    assert found.reason == "ValueError: 1 is odd"


def test_a_job_computes_with_as_many_threads_as_it_has_cpus(cluster):
    for cpus in (1, 2):
        with running_on(Cluster(cpus=cpus)) as runner:
            assert outcomes(runner, Job("threads", threads, ())) == [cpus]
    assert Cluster(cpus=4).compute(Compute()).workers == 3
    assert Cluster(cpus=4).compute(Compute(workers=0)).workers == 0


def test_a_generator_of_jobs_is_asked_only_for_those_that_are_near(cluster):
    asked = 0

    def jobs():
        nonlocal asked
        for n in range(1000):
            asked += 1
            yield Job(f"job {n}", double, (n,))

    with running_on(cluster) as runner:
        found = runner.run(jobs())
        next(found)
        found.close()
    assert asked < 50


def test_jobs_may_wait_for_others_to_finish(cluster):
    finished = []

    def jobs():
        yield Job("first", double, (1,))
        while not finished:
            yield None
        yield Job("second", double, (finished[0],))
        while True:  # when nothing runs, this is the end
            yield None

    with running_on(cluster) as runner:
        for together in runner.run(jobs(), early=False):
            finished.extend(outcome for _, outcome in together)
    assert finished == [2, 4]


def test_a_job_that_is_chosen_by_what_has_finished_is_asked_for_when_there_is_room(cluster):
    asked, finished = 0, 0

    def jobs():
        nonlocal asked
        for n in range(10):
            assert asked - finished < 2  # the cluster has two CPUs
            asked += 1
            yield Job(f"job {n}", double, (n,))

    with running_on(cluster) as runner:
        for together in runner.run(jobs(), early=False):
            finished += len(together)
    assert finished == 10


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cpus": 0}, "cannot get 0 CPUs"),
        ({"gpus": -1}, "cannot get 1 CPUs, -1 GPUs"),
        ({"gpus": 1.5}, "a whole number, or a share below 1"),
    ],
)
def test_a_job_that_gets_nothing_is_refused(changes, message):
    with pytest.raises(SelectionError, match=message):
        Cluster(**changes)


@pytest.mark.parametrize("changes", [{"cpus": 100}, {"gpus": 1}, {"memory": 10_000}])
def test_a_job_that_no_machine_can_hold_is_refused_instead_of_waiting_for_ever(cluster, changes):
    with pytest.raises(SelectionError, match="no machine of the cluster has"), running_on(Cluster(**changes)):
        pass


def test_without_ray_one_sentence_says_what_to_install(monkeypatch, folder):
    load = builtins.__import__

    def without_ray(name, *arguments, **options):
        if name.split(".")[0] == "ray":
            raise ImportError("No module named 'ray'")
        return load(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without_ray)
    with pytest.raises(SelectionError, match=r"pip install 'task2vec-select\[ray\]'"), running_on(Cluster()):
        pass
    run_grid(Grid(folder, (QUICK,), ("tints",)), TaskStore(), progress=False)


def test_a_cluster_that_does_not_answer_is_named():
    nobody = Cluster("127.0.0.1:1")
    with pytest.raises(SelectionError, match=r"no Ray cluster answers at 127\.0\.0\.1:1"), running_on(nobody):
        pass


def trials_of(store):
    return {task.name: task.trials for task in store.tasks()}


@pytest.mark.slow
def test_a_grid_on_a_cluster_stores_what_one_process_stores(cluster, folder, tmp_path):
    grid = Grid(folder, (QUICK, SLOWER), seeds=(0, 1), images=24)
    here, there = TaskStore(tmp_path / "here.db"), TaskStore(tmp_path / "there.db")
    run_grid(grid, here, progress=False)
    run_grid(grid, there, cluster=cluster, progress=False)
    assert here.names() == there.names() == ["colours@24", "tints@24"]
    for name in here.names():
        (one,), (other,) = here.embeddings(name=name), there.embeddings(name=name)
        np.testing.assert_allclose(one.fisher, other.fisher, rtol=1e-4)
        results = [
            {(t.config, t.seed): (t.score, t.validation, t.backbone.fingerprint) for t in store.task(name).trials}
            for store in (here, there)
        ]
        assert len(results[0]) == 4
        assert results[0] == results[1]


def test_a_grid_on_a_cluster_goes_on_where_it_was(cluster, folder, tmp_path):
    store = TaskStore(tmp_path / "tasks.db")
    run_grid(Grid(folder, (QUICK,)), store, cluster=cluster, progress=False)
    before = trials_of(store)
    run_grid(Grid(folder, (QUICK, SLOWER)), store, cluster=cluster, progress=False)
    after = trials_of(store)
    assert {name: len(trials) for name, trials in after.items()} == {"colours": 2, "tints": 2}
    assert all(before[name][0] in after[name] for name in before)  # with its seconds: it was not run again


def test_a_trial_that_cannot_run_leaves_a_log_and_the_others_are_stored(cluster, folder, tmp_path):
    store = TaskStore(tmp_path / "tasks.db")
    broken = AdapterConfig("residual_serial", epochs=1)  # takes convolutions, which the backbone has none of
    with pytest.raises(SelectionError, match=r"2 failed: (colours|tints), residual_serial .*, seed 0"):
        run_grid(Grid(folder, (broken, QUICK)), store, cluster=cluster, logs=tmp_path / "logs", progress=False)
    assert [len(trials) for trials in trials_of(store).values()] == [1, 1]
    (log, _) = sorted((tmp_path / "logs").iterdir())
    assert log.name.startswith("colours,_residual_serial")
    assert "Traceback" in log.read_text()


def test_the_command_runs_a_grid_on_ray(cluster, folder, tmp_path):
    grid = tmp_path / "grid.toml"
    grid.write_text(f'folder = "{folder}"\n[[config]]\nmethod = "linear"\nepochs = 1\n')
    facts = as_json("trials", "run", grid, "--store", tmp_path / "tasks.db", "--ray", cwd=tmp_path)
    assert facts["trials"] == 2
    refused = run("trials", "run", grid, "--store", tmp_path / "tasks.db", "--cpus-per-trial", "2", ok=False)
    assert "give --ray too" in refused.stderr


def test_a_folder_of_data_sets_is_embedded_at_once_and_goes_on_where_it_was(cluster, folder, tmp_path):
    arguments = ("embed", folder, "--each", "--out", tmp_path / "saved")
    run(*arguments, "--method", "nope", cwd=tmp_path, ok=False)  # leaves nothing that would refuse the right one
    first = run(*arguments, "--ray", cwd=tmp_path)
    assert sorted(line.split(":")[0] for line in first.stdout.splitlines()) == ["colours", "tints"]
    whole = embed(Task.from_folder(folder / "tints"), load_probe())
    np.testing.assert_allclose(TaskEmbedding.load(tmp_path / "saved" / "tints.safetensors").fisher, whole.fisher, 1e-4)
    again = run(*arguments, cwd=tmp_path)
    assert again.stdout == ""
    assert "2 of 2 data sets are embedded" in again.stderr
    refused = run(*arguments, "--seed", "1", "--draws", "2", cwd=tmp_path, ok=False)
    assert "are made with draws 1, not 2; seed 0, not 1; give another folder" in refused.stderr.replace("\n", " ")
    (tmp_path / "saved" / "colours.safetensors").write_bytes(b"half a file")
    assert json.loads(run(*arguments, "--json", cwd=tmp_path).stdout)["task"] == "colours"


def test_embeddings_of_which_nobody_knows_how_they_were_made_are_not_mixed_with_new_ones(folder, tmp_path):
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "tints.safetensors").write_bytes(b"something")
    refused = run("embed", folder, "--each", "--out", tmp_path / "saved", cwd=tmp_path, ok=False)
    assert "holds files that --each did not make" in refused.stderr


def test_a_data_set_that_has_grown_or_changed_is_embedded_again(tmp_path):
    paint(tmp_path / "sets" / "colours", "train", COLOURS, 4)
    arguments = ("embed", tmp_path / "sets", "--each", "--out", tmp_path / "saved")
    assert "12 images" in run(*arguments, cwd=tmp_path).stdout
    assert run(*arguments, cwd=tmp_path).stdout == ""
    shutil.rmtree(tmp_path / "sets")
    paint(tmp_path / "sets" / "colours", "train", COLOURS, 5)
    assert "15 images" in run(*arguments, cwd=tmp_path).stdout
    assert run(*arguments, cwd=tmp_path).stdout == ""
    first, last = (sorted((tmp_path / "sets").rglob("*.png"))[at] for at in (0, -1))
    shutil.copyfile(first, last)  # as many images in as many classes, but others
    assert "15 images" in run(*arguments, cwd=tmp_path).stdout


def test_a_data_set_in_whose_place_an_older_one_was_moved_is_embedded_again(tmp_path):
    for count, place in ((4, "older"), (4, "sets")):
        paint(tmp_path / place / "colours", "train", COLOURS, count)
    arguments = ("embed", tmp_path / "sets", "--each", "--out", tmp_path / "saved")
    run(*arguments, cwd=tmp_path)
    shutil.rmtree(tmp_path / "sets" / "colours")
    (tmp_path / "older" / "colours").rename(tmp_path / "sets" / "colours")
    assert "12 images" in run(*arguments, cwd=tmp_path).stdout
    assert run(*arguments, cwd=tmp_path).stdout == ""


def test_a_data_set_that_cannot_be_read_is_named_after_all_others_are_embedded(cluster, folder, tmp_path):
    for name in ("colours", "tints"):
        (tmp_path / "sets" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "sets" / name).symlink_to(folder / name)
    (tmp_path / "sets" / "empty").mkdir()
    for where in ([], ["--ray"]):
        arguments = ("embed", tmp_path / "sets", "--each", "--out", tmp_path / "-".join(["saved", *where]), *where)
        failed = run(*arguments, cwd=tmp_path, ok=False)
        assert "1 failed: empty, embedding (TaskError: no images under" in failed.stderr
        assert len(failed.stdout.splitlines()) == 2
        assert (tmp_path / "task2vec-logs" / "empty,_embedding.log").exists()


def test_a_large_data_set_is_embedded_in_shards_with_the_same_result(cluster, folder, tmp_path):
    task = Task.from_folder(folder / "colours")
    (found,) = embed_all([task], cluster=cluster, images_per_shard=7, progress=False)
    (whole,) = embed_all([task], progress=False)
    said = run("embed", "colours", "-o", tmp_path / "colours.safetensors", "--ray", cwd=folder)
    assert "Task embedding" in said.stdout
    np.testing.assert_allclose(TaskEmbedding.load(tmp_path / "colours.safetensors").fisher, whole.fisher, rtol=1e-4)
    np.testing.assert_allclose(found.fisher, whole.fisher, rtol=1e-4)
    assert found.classifier.cross_validated == whole.classifier.cross_validated
    (variational,) = embed_all([task], method="variational", cluster=cluster, images_per_shard=7, progress=False)
    assert variational.convergence is not None
