"""What a model costs: counted, measured and computed, every number with its unit, device and method."""

from archloom.evaluator.cost.measure import cost_table, measure_cost
from archloom.evaluator.cost.subject import Subject
from archloom.evaluator.cost.values import CostValue

__all__ = ["CostValue", "Subject", "cost_table", "measure_cost"]
