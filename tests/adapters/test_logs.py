"""Training logs for other programs."""

import csv
import sys

import pytest
import torch

from adapters import ConfigError, StopTraining, attach, fit, training_log
from adapters.config import AdapterConfig
from tests.conftest import random_task


def model():
    import timm

    network = timm.create_model("test_vit", img_size=32)
    attach(network, AdapterConfig("bitfit", epochs=3, batch_size=8), 3)
    return network


def rows(folder):
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_the_table_has_a_row_for_each_epoch_and_the_history_s_numbers(tmp_path):
    done = fit(model(), random_task(), on_epoch=training_log("csv", tmp_path), progress=False)
    found = rows(tmp_path)
    assert [int(row["epoch"]) for row in found] == [1, 2, 3]
    assert [float(row["loss"]) for row in found] == [record["loss"] for record in done.history]
    assert [float(row["accuracy"]) for row in found] == [record["accuracy"] for record in done.history]


def test_a_resumed_training_goes_on_in_its_table_and_a_new_one_starts_afresh(tmp_path):
    def stop(_, record):
        log(_, record)
        if record["epoch"] == 2:
            raise StopTraining

    torch.manual_seed(0)
    network = model()
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    log = training_log("csv", tmp_path)
    fit(network, random_task(), on_epoch=stop, out=tmp_path, progress=False)
    assert len(rows(tmp_path)) == 2
    again = model()
    again.load_state_dict(state)
    fit(again, random_task(), on_epoch=training_log("csv", tmp_path), out=tmp_path, progress=False)
    assert [int(row["epoch"]) for row in rows(tmp_path)] == [1, 2, 3]
    fit(model(), random_task(), on_epoch=training_log("csv", tmp_path), progress=False)
    assert [int(row["epoch"]) for row in rows(tmp_path)] == [1, 2, 3]


def test_tensorboard_reads_what_was_logged(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    done = fit(model(), random_task(), on_epoch=training_log("tensorboard", tmp_path), progress=False)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    losses = events.Scalars("loss")
    assert [event.step for event in losses] == [1, 2, 3]
    assert [event.value for event in losses] == pytest.approx([record["loss"] for record in done.history], rel=1e-6)


def test_what_cannot_be_logged_to_is_one_sentence(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="no training log 'wandb'; choose from csv, tensorboard"):
        training_log("wandb", tmp_path)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ConfigError, match="pip install tensorboard"):
        training_log("tensorboard", tmp_path)
