"""Terms as plain modules: one small class per operation, found in the one table `MODULES`."""

from archloom.evaluator.modules.base import Cache, Flow, Operator
from archloom.evaluator.modules.blocks import Stack
from archloom.evaluator.modules.table import MODULES, compile_mixer

__all__ = ["MODULES", "Cache", "Flow", "Operator", "Stack", "compile_mixer"]
