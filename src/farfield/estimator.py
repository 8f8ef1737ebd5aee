"""What scikit-learn asks of an estimator beside `fit` and `predict`: parameters by name, by which it is copied and searched."""

from __future__ import annotations

import inspect
from typing import Any, Self

from farfield.errors import unknown_name


class Parameters:
    """Base of classes that keep every argument of their constructor, as it was given, in the attribute of its name."""

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Constructor arguments by name, with `deep` those of estimators among them too, as ``base__alpha``."""
        own = {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}
        if not deep:
            return own
        inner = {n: v.get_params() for n, v in own.items() if hasattr(v, "get_params") and not isinstance(v, type)}
        return own | {f"{name}__{key}": value for name, values in inner.items() for key, value in values.items()}

    def set_params(self, **params: Any) -> Self:
        """Set constructor arguments, those of an estimator among them as ``base__alpha``; InputError for an unknown one."""
        known = self.get_params(deep=False)
        for name, value in params.items():
            own, _, inner = name.partition("__")
            if own not in known or (inner and not hasattr(getattr(self, own), "set_params")):
                raise unknown_name(f"parameter of {type(self).__name__}", name, self.get_params())
            if inner:
                getattr(self, own).set_params(**{inner: value})
            else:
                setattr(self, own, value)
        return self
