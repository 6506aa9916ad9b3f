"""The register of each family."""

import pytest

from adapters import METHODS, RULES
from selection import RECOMMENDERS
from selection.recommendation.transferability import SCORES
from task2vec import DISTANCES, ESTIMATORS
from task2vec_base import Registry

FAMILIES = (METHODS, RULES, DISTANCES, ESTIMATORS, RECOMMENDERS, SCORES)


def test_a_register_is_a_mapping_in_the_order_of_entry():
    register: Registry[int] = Registry("number", "task2vec.no_such_group")
    register.register("two")(2)
    register.enter("one", 1)
    assert dict(register) == {"two": 2, "one": 1}
    assert "three" not in register
    with pytest.raises(KeyError, match="three"):
        register["three"]


@pytest.mark.parametrize("register", FAMILIES, ids=lambda r: r.kind)
def test_no_family_takes_a_name_twice(register):
    name, thing = next(iter(register.items()))
    with pytest.raises(ValueError, match=f"there is a {register.kind} '{name}' already; choose another name"):
        register.register(name)(thing)
    assert register[name] is thing


def test_every_family_has_a_group_of_entry_points_of_its_own():
    kinds = ("methods", "rules", "distances", "estimators", "recommenders", "scores")
    assert {register.group for register in FAMILIES} == {f"task2vec.{kind}" for kind in kinds}
