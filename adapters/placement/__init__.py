"""Where a method puts its parameters: rules that read scores of a backbone's layers, and budgets that they fill."""

from adapters.placement.allocate import allocate
from adapters.placement.rules import RULES, Places, Rule, register_rule
from adapters.placement.scores import fisher_scores, gradient_scores

__all__ = ["RULES", "Places", "Rule", "allocate", "fisher_scores", "gradient_scores", "register_rule"]
