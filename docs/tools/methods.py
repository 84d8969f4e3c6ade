"""Methods that a class takes from functions (`sample = sample`), documented as its methods."""

from typing import Any

import griffe


class Methods(griffe.Extension):
    """Replaces such attributes by the functions they name, also `sample = generation.sample`."""

    def on_class_members(self, *, cls: griffe.Class, **kwargs: Any) -> None:
        """Looks at the members of each class that was read."""
        names = cls.parent.members if cls.parent else {}
        for name, member in list(cls.members.items()):
            if not member.is_attribute:
                continue
            root, *rest = str(member.value).split(".")  # type: ignore[union-attr]
            imported = names.get(root)
            if [root, *rest][-1] == name and imported is not None and imported.is_alias:
                path = ".".join([imported.target_path, *rest])
                cls.set_member(name, griffe.Alias(name, path, parent=cls))
