"""Rules of placement and the budgets that they fill."""

import contextlib
import functools
import itertools
import re

import numpy as np
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import adapters
from adapters import METHODS, RULES, AdapterConfig, ConfigError, allocate
from adapters.placement import Places
from adapters.placement.budget import fill
from tests.adapters.families import NUM_CLASSES, attach, backbone, create, fits, images

FAMILY = "ViT"  # three blocks of width 192
WITHOUT_PLACES = ("linear", "head2toe", "pixel_prompt", "vpt_shallow", "fish")
ALLOCATED = [m for m in METHODS if fits(FAMILY, m) and m not in WITHOUT_PLACES]
WITH_SIZES = [m for m in ALLOCATED if "sizes" in METHODS[m].defaults]


def layer_scores(seed=0, family=FAMILY):
    """A mass for each layer, over three orders of magnitude."""
    generator = np.random.default_rng(seed)
    layers = [n for n, m in _structure(family).named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    return {name: float(10 ** generator.uniform(-2, 1)) for name in layers}


@functools.cache
def _structure(family):
    with torch.device("meta"):
        return create(family)


def count(config, family=FAMILY):
    with torch.device("meta"):
        return adapters.num_adapter_parameters(adapters.attach(create(family), config, NUM_CLASSES))


def larger_by_one(config):
    """The configurations with one place one size larger, or one more block."""
    if config.sizes is None:
        every = set(range(3))
        return [config.replace(blocks=(*config.blocks, b)) for b in every - set(config.blocks)]
    return [config.replace(sizes=dict(config.sizes) | {name: k + 1}) for name, k in config.sizes]


@given(
    method=st.sampled_from(ALLOCATED),
    rule=st.sampled_from(["uniform", "mass", "mass_per_parameter", "root_mass", "relative_mass", "usual_mass"]),
    parameters=st.integers(500, 60_000),
    seed=st.integers(0, 3),
)
@settings(max_examples=15, deadline=None)
def test_a_budget_is_never_exceeded_and_filled_until_no_place_can_be_larger(method, rule, parameters, seed):
    asked = {"parameters": parameters, "rule": rule, "reference": [layer_scores(seed + 1)]}
    try:
        config = allocate(AdapterConfig(method), layer_scores(seed), _structure(FAMILY), **asked)
    except ConfigError as error:
        least = int(re.search(r"is too few for \w+, which takes (\d+) here or more", str(error))[1])
        assert least > parameters
        return
    assert count(config) <= parameters
    for larger in larger_by_one(config):
        with contextlib.suppress(ConfigError):  # there is no such size
            assert count(larger) > parameters
    again = AdapterConfig.from_dict(config.to_dict())
    assert again == config
    assert hash(again) == hash(config)


@given(
    weights=st.lists(st.floats(0.01, 100), min_size=1, max_size=4),
    prices=st.lists(st.integers(1, 9), min_size=4, max_size=4),
    budget=st.integers(0, 40),
)
@settings(max_examples=60, deadline=None)
def test_linear_costs_are_shared_as_a_search_over_all_sizes_shares_them(weights, prices, budget):
    """Webster's rule: of all sizes with the same total, the largest gain is least behind, by the halves of steps."""
    sizes = fill(weights, lambda place, size: prices[place] * size, budget)
    spent = sum(p * k for p, k in zip(prices, sizes, strict=False))
    assert spent <= budget
    assert all(spent + prices[s] > budget for s in range(len(weights)))
    if len(set(prices[: len(weights)])) == 1 and sum(sizes) <= 8:
        # With equal prices, Webster's apportionment minimises the sum of k^2 / w (Sainte-Lague 1910).
        every = itertools.product(range(sum(sizes) + 1), repeat=len(weights))
        losses = [sum(k * k / w for k, w in zip(ks, weights, strict=True)) for ks in every if sum(ks) == sum(sizes)]
        own = sum(k * k / w for k, w in zip(sizes, weights, strict=True))
        assert own <= min(losses) * (1 + 1e-9)


def test_a_place_of_no_weight_gets_nothing_and_one_that_is_full_leaves_its_share_to_others():
    assert fill([0, 1], lambda place, size: size, 5) == [0, 5]
    assert fill([100, 1], lambda place, size: size if size <= 2 or place else np.inf, 5) == [2, 3]
    assert fill([1, 1], lambda place, size: 10 * size, 5) == [0, 0]


def places(**changes):
    values = {
        "depth": np.array([0.0, 0.25, 0.5, 0.75]),
        "cost": np.array([2.0, 2.0, 4.0, 4.0]),
        "weights": np.array([10.0, 20.0, 10.0, 20.0]),
        "mass": np.array([8.0, 4.0, 2.0, 2.0]),
        "reference": np.array([[4.0, 4.0, 4.0, 4.0], [16.0, 4.0, 1.0, 1.0]]),
        "generator": np.random.default_rng(0),
    }
    return Places(**values | changes)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("uniform", [2, 2, 4, 4]),
        ("early", [2, 2, 0, 0]),
        ("late", [0, 0, 4, 4]),
        ("mass", [8, 4, 2, 2]),
        ("mass_per_parameter", [1.6, 0.4, 0.8, 0.4]),
        ("root_mass", np.sqrt([8, 4, 2, 2])),
        # shares 1/2, 1/4, 1/8, 1/8 over the geometric means of 1/4, ... and 16/22, 4/22, 1/22, 1/22
        (
            "relative_mass",
            [2 * 0.5, 2 * 0.25, 4 * 0.125, 4 * 0.125] / np.sqrt(np.array([16, 4, 1, 1]) / 22 / 4),
        ),
        ("usual_mass", np.sqrt(np.array([16, 4, 1, 1]) / 22 / 4)),
    ],
)
def test_each_rule_is_its_formula(rule, expected):
    np.testing.assert_allclose(RULES[rule](places()), expected, rtol=1e-12)


def test_random_places_are_half_of_them_and_the_seeds():
    drawn = [RULES["random"](places(generator=np.random.default_rng(s))) for s in (1, 1, 2, 3, 4)]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert all((d > 0).sum() == 2 for d in drawn)
    assert len({tuple(d) for d in drawn}) > 1


def test_every_rule_is_tested():
    assert set(RULES) == {
        "uniform", "random", "early", "late", "mass", "mass_per_parameter", "root_mass", "relative_mass",
        "usual_mass",
    }  # fmt: skip


def test_uniform_at_the_parameters_of_a_rank_is_that_rank_everywhere():
    config = AdapterConfig("lora", rank=8)
    placed = allocate(config, None, FAMILY_NAME, parameters=count_on_tiny(config), rule="uniform")
    assert {size for _, size in placed.sizes} == {8}
    assert len(placed.sizes) == 12


FAMILY_NAME = "vit_tiny_patch16_224"


def count_on_tiny(config):
    with torch.device("meta"):
        return adapters.num_adapter_parameters(adapters.attach(timm.create_model(FAMILY_NAME), config, NUM_CLASSES))


@pytest.mark.parametrize("method", WITH_SIZES)
@torch.no_grad()
def test_a_placed_adapter_has_the_sizes_it_says_saves_loads_switches_and_merges(method, tmp_path):
    scores = layer_scores(5)
    budget = {"fact": 11_000, "vpt_deep": 10_000}.get(method, 30_000)
    config = allocate(AdapterConfig(method), scores, _structure(FAMILY), parameters=budget)
    sizes = {name: size for name, size in config.sizes if size}
    assert len(set(sizes.values())) > 1
    model = attach(backbone(FAMILY, torch.float64), config, NUM_CLASSES, seed=0)
    parts = {part.site: part.adapter for part in adapters.adapter_of(model).parts}
    assert set(parts) == set(sizes)
    for parameter in adapters.tuned_parameters(model).values():
        parameter += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)).to(parameter)
    x = images(FAMILY, torch.float64)
    expected = model.eval()(x)
    adapters.save(model, tmp_path)
    loaded = adapters.load(backbone(FAMILY, torch.float64), tmp_path).eval()
    torch.testing.assert_close(loaded(x), expected, atol=0, rtol=0)
    assert adapters.adapter_of(loaded).config == config
    adapters.switch(model, None)
    torch.testing.assert_close(model(x), backbone(FAMILY, torch.float64)(x), atol=0, rtol=0)
    adapters.switch(model, "default")
    if not METHODS[method].cannot_merge:
        torch.testing.assert_close(adapters.merge(model)(x), expected, atol=1e-10, rtol=1e-10)


def test_a_layer_of_smaller_rank_takes_the_first_columns_of_facts_shared_factors():
    config = AdapterConfig("fact", rank=4, sizes={"blocks.0.mlp.fc1": 2, "blocks.1.attn.qkv": 0})
    model = adapters.attach(backbone(FAMILY), config, NUM_CLASSES, seed=0)
    parts = {part.site: part.adapter for part in adapters.adapter_of(model).parts}
    assert "blocks.1.attn.qkv" not in parts
    part, fc1 = parts["blocks.0.mlp.fc1"], model.blocks[0].mlp.fc1
    assert part.core.shape == (4 * 2, 2)
    assert part.left is parts["blocks.0.attn.qkv"].left
    torch.nn.init.normal_(part.left)
    x = torch.randn(2, 5, 192)
    rows = [part.left[:, :2] @ part.core[p * 2 : p * 2 + 2] @ part.right[:2] for p in range(4)]
    model.eval()
    plain = torch.nn.functional.linear(x, fc1.weight, fc1.bias)
    torch.testing.assert_close(fc1(x), plain + x @ torch.cat(rows).T, atol=1e-4, rtol=1e-4)


def test_training_a_placed_adapter_resumes_where_it_stopped(tmp_path):
    config = allocate(AdapterConfig("lora", epochs=2), layer_scores(), _structure(FAMILY), parameters=8_000)
    data = [(image, i % 3) for i, image in enumerate(images(FAMILY, count=6))]

    def tuned(out, stop=None):
        def on_epoch(model, record):
            if record["epoch"] == stop:
                raise KeyboardInterrupt

        model = adapters.attach(backbone(FAMILY), config, 3, seed=0)
        adapters.fit(model, data, batch_size=3, out=out, on_epoch=on_epoch, progress=False)
        return adapters.tuned_parameters(model)

    with pytest.raises(KeyboardInterrupt):
        tuned(tmp_path / "killed", stop=1)
    torch.testing.assert_close(tuned(tmp_path / "killed"), tuned(tmp_path / "whole"), atol=0, rtol=0)


@pytest.mark.parametrize("size", [0, 1])
@torch.no_grad()
def test_ranks_that_differ_go_to_peft_as_patterns_and_come_back(size, tmp_path):
    peft = pytest.importorskip("peft", reason="the other side of the comparison: pip install peft")
    sizes = {"blocks.0.mlp.fc1": 5, "blocks.1.mlp.fc1": size, "blocks.2.mlp.fc2": 2}
    config = AdapterConfig("lora", rank=3, scale=0.7, targets=("fc1", "fc2"), sizes=sizes)
    model = adapters.attach(backbone(FAMILY), config, NUM_CLASSES, seed=0).eval()
    for parameter in adapters.tuned_parameters(model).values():
        parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    adapters.to_peft(model, tmp_path)
    theirs = peft.PeftModel.from_pretrained(backbone(FAMILY), tmp_path).eval()
    expected = model(images(FAMILY))
    torch.testing.assert_close(theirs(images(FAMILY)), expected, atol=1e-5, rtol=1e-5)
    their_config = theirs.peft_config["default"]
    assert their_config.r == 5
    # fmt: off
    assert their_config.rank_pattern == {
        "blocks.0.mlp.fc2": 3, "blocks.1.mlp.fc2": 3, "blocks.2.mlp.fc1": 3, "blocks.2.mlp.fc2": 2,
    } | ({"blocks.1.mlp.fc1": 1} if size else {})
    # fmt: on
    assert their_config.alpha_pattern == {n: pytest.approx(0.7 * r) for n, r in their_config.rank_pattern.items()}
    theirs.save_pretrained(tmp_path / "theirs")
    back = adapters.from_peft(backbone(FAMILY), tmp_path / "theirs").eval()
    torch.testing.assert_close(back(images(FAMILY)), expected, atol=1e-5, rtol=1e-5)
    found = {part.site: len(part.adapter.down) for part in adapters.adapter_of(back).parts}
    assert found == {"blocks.0.mlp.fc1": 5} | their_config.rank_pattern
    assert adapters.num_adapter_parameters(back) == adapters.num_adapter_parameters(model)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"rule": "magic"}, "no rule of placement 'magic'; choose from early, late, mass"),
        ({"parameters": 10}, r"parameters=10 is too few for lora, which takes 768 here or more"),
        ({"scores": None}, "the rule mass needs scores; give task2vec.sensitivity"),
        ({"scores": {"layer1": 1.0}}, r"the scores say nothing of blocks\.0\.attn\.qkv; compute them on this backbone"),
        ({"scores": {"blocks.0.attn.qkv": float("nan")}}, r"the score of blocks\.0\.attn\.qkv is nan"),
        ({"scores": {"blocks.0.attn.qkv": -1.0}}, "finite numbers of at least 0"),
        ({"rule": "relative_mass"}, "give their scores as reference="),
        ({"rule": "usual_mass"}, "give their scores as reference="),
        ({"scores": dict.fromkeys(layer_scores(), 0.0)}, "gave no shares; the scores may all be 0"),
        (
            {"config": AdapterConfig("vpt_shallow", prompts=4)},
            "vpt_shallow has parameters at one place of VisionTransformer",
        ),
        ({"config": AdapterConfig("linear")}, "linear has parameters at no place"),
    ],
)
def test_what_cannot_be_allocated_is_refused_with_its_reason(call, message):
    config, scores = call.pop("config", AdapterConfig("lora")), call.pop("scores", layer_scores())
    with pytest.raises(ConfigError, match=message):
        allocate(config, scores, _structure(FAMILY), **{"parameters": 5_000} | call)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"method": "lora", "sizes": {"blocks.7.attn.qkv": 4}}, r"sizes names blocks\.7\.attn\.qkv, where lora puts"),
        ({"method": "fact", "rank": 4, "sizes": {"blocks.0.mlp.fc1": 5}}, "rank 5, but rank=4 is that of the shared"),
        ({"method": "gps", "sizes": {"blocks.0.mlp.fc1": 193}}, "193 connections, but each of its neurons has 192"),
    ],
)
def test_sizes_that_do_not_fit_the_backbone_are_refused(config, message):
    with pytest.raises(ConfigError, match=message):
        attach(backbone(FAMILY), AdapterConfig(**config), NUM_CLASSES)


@pytest.mark.parametrize("sizes", [{}, {"a": 0}, {"a": -1, "b": 2}, {"a": 1.5}, {"a": True}, "a:1", {3: 1}])
def test_sizes_that_are_none_are_refused(sizes):
    with pytest.raises(ConfigError, match="must be whole numbers by the names of sites"):
        AdapterConfig("lora", sizes=sizes)


def test_the_budget_does_not_touch_the_backbone_or_its_adapters():
    model = adapters.attach(backbone(FAMILY), AdapterConfig("ssf"), NUM_CLASSES)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    placed = allocate(AdapterConfig("lora"), layer_scores(), model, parameters=5_000)
    assert placed.sizes == allocate(AdapterConfig("lora"), layer_scores(), _structure(FAMILY), parameters=5_000).sizes
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_placement_that_waits_for_its_task_is_not_attached_and_gives_way_to_sizes():
    config = AdapterConfig("lora", placement="root_mass")
    with pytest.raises(ConfigError, match=r"placement='root_mass' needs the task: selection\.tune measures"):
        attach(backbone(FAMILY), config, NUM_CLASSES)
    budget = count_on_tiny(config.replace(placement=None))
    assert allocate(config, layer_scores(), _structure(FAMILY), parameters=budget).placement is None
    with pytest.raises(ConfigError, match="sizes are given, so placement='mass' has nothing to share out"):
        AdapterConfig("lora", placement="mass", sizes={"blocks.0.attn.qkv": 4})


@pytest.mark.parametrize(("text", "expected"), [("mass", "mass"), ("root_mass", "root_mass")])
def test_a_placement_is_read_from_a_command_line_and_from_json(text, expected):
    config = AdapterConfig.from_texts("lora", {"placement": text})
    assert config.placement == expected
    assert AdapterConfig.from_dict(config.to_dict()) == config
    assert config.label == f"lora rank=8 placement={expected}"
    with pytest.raises(ConfigError, match="placement='late' must be one of mass, mass_per_parameter, root_mass"):
        AdapterConfig.from_texts("lora", {"placement": "late"})


@pytest.mark.parametrize("method", [m for m in METHODS if "placement" in METHODS[m].defaults])
def test_where_a_placement_is_taken_the_parameters_of_one_size_can_be_shared_out(method):
    config = AdapterConfig(method, placement="mass")
    everywhere = attach(backbone(FAMILY), config.replace(placement=None), NUM_CLASSES)
    budget = adapters.num_adapter_parameters(everywhere)
    placed = allocate(config, layer_scores(3), _structure(FAMILY), parameters=budget)
    assert len({size for _, size in placed.sizes if size}) > 1


def test_facts_layers_which_have_the_largest_size_already_take_none():
    with pytest.raises(ConfigError, match="fact takes no placement"):
        AdapterConfig("fact", placement="mass")
