"""Where a task wants a backbone to move, against other tasks, and in words."""

import dataclasses

import numpy as np
import pytest
import timm

import selection
import task2vec
from adapters import BackboneId
from selection import BackboneFacts
from selection.recommendation.fisher_by_block import FisherByBlock, fisher_by_block, shares_by_block

NAMES = ("stem", "blocks.0", "blocks.1", "blocks.2")


def facts(*masses, image_size=(3, 96, 96)):
    fisher = {"stem.proj": masses[0]} | {f"blocks.{b}.mlp.fc1": mass for b, mass in enumerate(masses[1:])}
    return BackboneFacts(BackboneId("vit"), 100, 5, 0.5, (0.2,), (0.3,), 0.5, 2.0, fisher, image_size)


def others(count=20, **changes):
    generator = np.random.default_rng(0)
    return [
        facts(*np.array([1, 4, 3, 2]) * np.exp(0.05 * generator.standard_normal(4)), **changes) for _ in range(count)
    ]


@pytest.mark.parametrize(
    ("layer", "block"),
    [
        ("blocks.3.attn.qkv", "blocks.3"),
        ("patch_embed.proj", "patch_embed"),
        ("stages.2.blocks.5.conv_dw", "stages.2.blocks.5"),
        ("layer1.0.downsample.0", "layer1.0"),
        ("conv1", "conv1"),
    ],
)
def test_layers_belong_to_the_block_that_their_name_says(layer, block):
    assert shares_by_block({layer: 2.0}) == {block: 1.0}


def test_what_lies_beside_the_blocks_of_a_stage_is_not_called_the_stage():
    layers = {"stages.1.downsample.1": 1.0, "stages.1.blocks.0.conv_dw": 2.0, "stages.1.blocks.1.conv_dw": 1.0}
    expected = {"stages.1.downsample": 0.25, "stages.1.blocks.0": 0.5, "stages.1.blocks.1": 0.25}
    assert shares_by_block(layers) == expected


@pytest.mark.parametrize("architecture", ["vit_tiny_patch16_224", "convnext_atto", "swin_tiny_patch4_window7_224"])
def test_blocks_are_those_that_adapters_know(architecture):
    model = timm.create_model(architecture)
    layers = dict.fromkeys(task2vec.Probe(model, model.pretrained_cfg["classifier"], None).layers, 1.0)
    blocks = {name for name, module in model.named_modules() if type(module).__name__.endswith("Block")}
    named = set(shares_by_block(layers))
    assert blocks
    assert blocks <= named


@pytest.mark.parametrize(
    ("masses", "most", "unusual", "told"),
    [
        (
            (1, 4, 3, 2),
            ("blocks.0", "blocks.1"),
            (),
            "most at blocks.0 to 1, where 70% of the backbone's Fisher lies, and nowhere much more",
        ),
        (
            (1, 4, 3, 16),
            ("blocks.2",),
            NAMES,
            "; beside other tasks more at blocks.2 and less at stem, blocks.0 to 1.",
        ),
        ((8, 4, 3, 2), ("stem", "blocks.0"), NAMES, "; beside other tasks more at stem and less at blocks.0 to 2."),
    ],
)
def test_shares_are_told_against_those_of_other_tasks(masses, most, unusual, told):
    known = others()
    found = fisher_by_block(facts(*masses), known)
    np.testing.assert_allclose(found.shares, np.array(masses) / sum(masses))
    logarithms = np.log([list(shares_by_block(other.fisher).values()) for other in known])
    np.testing.assert_allclose(found.usual, np.exp(logarithms.mean(axis=0)))
    np.testing.assert_allclose(found.spread, logarithms.std(axis=0, ddof=1))
    assert found.blocks == NAMES
    assert found.most == most
    assert tuple(found.unusual) == unusual
    assert told in found.explain()


@pytest.mark.parametrize("known", [[], others(7), others(image_size=(3, 224, 224)), [facts(0, 0, 0, 0)] * 20])
def test_without_other_tasks_that_compare_nothing_is_called_usual(known):
    found = fisher_by_block(facts(1, 4, 3, 2), known)
    assert found.usual is None
    assert found.unusual == {}
    assert found.explain() == "Your labels pull most at blocks.0 to 1, where 70% of the backbone's Fisher lies."


def test_what_was_not_measured_is_not_told():
    assert fisher_by_block(facts(1, 4, 3, 2).without_fisher(), others()) is None
    assert fisher_by_block(facts(0, 0, 0, 0), others()) is None


def test_a_recommendation_says_where_the_target_pulls_at_the_backbone():
    library = selection.load_library()
    name, backbone = "flowers17@100", "vit_tiny_patch16_224.augreg_in21k_ft_in1k"
    embedding = next(e for e in library.embeddings(task2vec.load_probe().fingerprint) if e.task == name)
    known = library.task(name).facts[0]

    def asked(facts):
        return selection.recommend(embedding, library, backbone, facts=facts, exclude=[name, "flowers17@500"])

    told, without = asked(known), asked(known.without_fisher())
    assert isinstance(told.fisher, FisherByBlock)
    assert told.fisher.usual is not None
    assert told.fisher.explain() in told.explain()
    assert without.fisher is None
    assert [c.predicted for c in without.ranking] != [c.predicted for c in told.ranking]
    other_size = dataclasses.replace(known, image_size=(3, 224, 224))
    assert asked(other_size).fisher.usual is None
    assert [c.predicted for c in asked(other_size).ranking] == [c.predicted for c in without.ranking]
