"""Typed settings of a stack: units, defaults, descriptions, and every error at once.

`load` reads what the stack file says under `gridhub:`; `Settings` is what the components take.
"""

from components.settings.loading import PROJECT, load, parse
from components.settings.model import Settings
from components.settings.problems import Problem, SettingsError

__all__ = ["PROJECT", "Problem", "Settings", "SettingsError", "load", "parse"]
