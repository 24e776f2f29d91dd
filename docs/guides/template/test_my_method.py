"""The method keeps the laws that reattend's own methods keep."""

from my_method import MyMethod
from reattend.testing import Case, parametrize_with_checks

CASES = [Case(MyMethod(), neutral=MyMethod(keep=1), conserves=True, idle=True)]


@parametrize_with_checks(CASES)
def test_laws(method, check):
    check(method)
