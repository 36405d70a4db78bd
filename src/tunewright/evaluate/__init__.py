"""Metrics, comparison, verdict and report.

``tunewright.evaluate`` is also a public function. Python knows one thing by that name, the package, as soon
as any part of it is imported; so the package can be called.
"""

import sys
from types import ModuleType
from typing import Any

from tunewright import public


class _CallablePackage(ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return public("evaluate")(*args, **kwargs)


sys.modules[__name__].__class__ = _CallablePackage
