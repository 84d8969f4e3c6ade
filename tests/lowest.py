"""Prints the lowest versions that pyproject.toml allows, as constraints of pip."""

import re
import tomllib
from pathlib import Path

# A requirement's name and its floor; what has no floor (stubs of types) is free.
FLOOR = re.compile(r"([\w.-]+)(?:\[[^\]]*\])?>=([\w.]+)")


def floors() -> dict[str, str]:
    """Each package's lowest version, of the dependencies and of every extra.

    Raises:
        ValueError: Two lists of requirements give a package different floors.
    """
    text = (Path(__file__).parents[1] / "pyproject.toml").read_text()
    project = tomllib.loads(text)["project"]
    lists = [project["dependencies"], *project["optional-dependencies"].values()]
    found: dict[str, str] = {}
    for requirement in (r for group in lists for r in group):
        if match := FLOOR.match(requirement):
            name, version = match.groups()
            if found.setdefault(name, version) != version:
                raise ValueError(f"{name} has two floors: {found[name]} and {version}")
    return found


if __name__ == "__main__":
    for name, version in floors().items():
        print(f"{name}=={version}")
