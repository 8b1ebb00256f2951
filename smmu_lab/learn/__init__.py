"""Exercises: make a problem from a seed, check an answer, show the counter-example, give a hint.

Here belongs what every exercise needs. Not here: an exercise itself, which is a folder of `exercises/` (its README
says how to add one); a wheel carries these folders as `smmu_lab/learn/exercises`.
"""

from smmu_lab.learn.exercise import Exercise, exercise
from smmu_lab.learn.page import Page
from smmu_lab.learn.problem import Problem
from smmu_lab.learn.result import Result

__all__ = ["Exercise", "Page", "Problem", "Result", "exercise"]
