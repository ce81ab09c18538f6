"""What classes of settings share: names of variables, a table for the docs, and errors that name variables."""

from __future__ import annotations

import re

from pydantic import BaseModel, SecretStr


def variable(prefix: str, field: str) -> str:
    """The environment variable of a field."""
    return prefix + field.upper()


def by_variable(told: str, settings: type[BaseModel], prefix: str) -> str:
    """What `describe_validation` tells of some fields, with the names of their variables instead of theirs."""
    fields = "|".join(sorted(settings.model_fields, key=len, reverse=True))
    return re.sub(rf"(^|; )({fields})(?=[.:])", lambda found: found[1] + variable(prefix, found[2]), told)


def table(settings: type[BaseModel], prefix: str) -> str:
    """Every setting in Markdown."""
    rows = ["| Variable | Default | Meaning |", "|---|---|---|"]
    for name, field in settings.model_fields.items():
        known = not field.is_required() and field.default not in (None, (), {})
        default = f"`{shown}`" if known and (shown := _shown(field.default)) else ""
        rows.append(f"| `{variable(prefix, name)}` | {default} | {field.description} |")
    return "\n".join(rows)


def _shown(default: object) -> str:
    """A default as it would stand in the environment."""
    if isinstance(default, SecretStr):
        return default.get_secret_value()
    return ",".join(str(item) for item in default) if isinstance(default, tuple) else str(default)
