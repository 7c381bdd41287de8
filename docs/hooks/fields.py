"""Types of classes whose parameters are their fields, for the reference.

griffe knows `dataclasses.dataclass`. Configurations are pydantic's dataclasses and transformers'
configurations, which take their fields by name, too.
"""

from __future__ import annotations

from typing import Any

import griffe


class Fields(griffe.Extension):
    """Give such a class the parameters that its annotated fields are."""

    def on_class_members(self, *, cls: griffe.Class, **kwargs: Any) -> None:
        """Add an `__init__` to a class that documents arguments and has none."""
        text = "" if cls.docstring is None else cls.docstring.value
        decorators = [str(one.value) for one in cls.decorators]
        if (
            "__init__" in cls.members
            or "Args:" not in text
            or any("dataclass" in d for d in decorators)
        ):
            return
        fields = [
            griffe.Parameter(
                name,
                annotation=one.annotation,
                default=one.value,
                kind=griffe.ParameterKind.keyword_only,
            )
            for name, one in cls.attributes.items()
            if one.annotation is not None and not name.startswith("_")
        ]
        if fields:
            parameters = griffe.Parameters(griffe.Parameter("self"), *fields)
            cls.set_member("__init__", griffe.Function("__init__", parameters=parameters))
