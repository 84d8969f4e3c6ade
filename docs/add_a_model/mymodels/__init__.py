"""Models of one's own, beside the zoo's."""

from mymodels.made import MADE

__all__ = ["MADE"]
