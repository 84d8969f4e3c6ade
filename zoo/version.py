"""The version of the package."""

from importlib.metadata import PackageNotFoundError, version


def zoo_version() -> str:
    """The version of the installed package, which its build took from the tag."""
    try:
        return version("lightning-model-zoo")
    except PackageNotFoundError:  # a checkout on the path that was never installed
        return "0+unknown"
