"""Methods that a class takes from functions (`sample = sample`), documented as its methods."""

from typing import Any

import griffe


class Methods(griffe.Extension):
    """Replaces such attributes by the functions they name."""

    def on_class_members(self, *, cls: griffe.Class, **kwargs: Any) -> None:
        """Looks at the members of each class that was read."""
        for name, member in list(cls.members.items()):
            if member.is_attribute and str(member.value) == name:  # type: ignore[union-attr]
                target = cls.parent.members.get(name) if cls.parent else None
                if target is not None and target.is_alias:
                    cls.set_member(name, griffe.Alias(name, target.target_path, parent=cls))
