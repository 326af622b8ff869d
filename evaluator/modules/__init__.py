"""Terms as plain modules: one small class per operation, found in the table of its family."""

from archloom.evaluator.modules.base import WHOLE, Cache, Context, Flow, Operator
from archloom.evaluator.modules.stacks import Stack
from archloom.evaluator.modules.table import MODULES, compile_mixer

__all__ = ["MODULES", "WHOLE", "Cache", "Context", "Flow", "Operator", "Stack", "compile_mixer"]
