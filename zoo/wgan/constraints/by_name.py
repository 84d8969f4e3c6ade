"""The Lipschitz constraints by name."""

from typing import Any, Literal

from zoo.wgan.constraints.normalization import GradientNormalization, GraN
from zoo.wgan.constraints.penalties import (
    DRAGAN,
    R1,
    DivergencePenalty,
    GradientPenalty,
    LipschitzPenalty,
)
from zoo.wgan.constraints.weights import SpectralNormalization, Unconstrained, WeightClipping

Lipschitz = Literal[
    "none", "clip", "spectral_norm", "gp", "lp", "div", "r1", "dragan", "gn", "gran"
]

CONSTRAINTS: dict[str, type[Unconstrained]] = {
    kind.name: kind
    for kind in (
        Unconstrained,
        WeightClipping,
        SpectralNormalization,
        GradientPenalty,
        LipschitzPenalty,
        DivergencePenalty,
        R1,
        DRAGAN,
        GradientNormalization,
        GraN,
    )
}
# Field of the constraint that an option of the model sets.
_FIELDS = {
    "penalty": "weight",
    "div_power": "power",
    "clip_value": "c",
    "gran_epsilon": "epsilon",
    "lipschitz_constant": "scale",
}


def make_constraint(name: str, **options: float | None) -> Unconstrained:
    """A constraint with its published values, but for the options that are given.

    >>> make_constraint("gp", penalty=0.1)
    GradientPenalty(weight=0.1)

    Args:
        name: none, clip, spectral_norm, gp, lp, div, r1, dragan, gn or gran.
        **options: penalty, div_power, clip_value, gran_epsilon, lipschitz_constant.

    Raises:
        ValueError: There is no such constraint, an option has no effect on it, or is not positive.
    """
    if name not in CONSTRAINTS:
        raise ValueError(f"lipschitz={name!r}: choose {', '.join(CONSTRAINTS)}")
    kind = CONSTRAINTS[name]
    fields: dict[str, Any] = {}
    for option, value in options.items():
        if value is None:
            continue
        if _FIELDS[option] not in kind.__dataclass_fields__:
            raise ValueError(f"{option}={value} has no effect on lipschitz={name}: leave it out")
        if not value > 0:
            raise ValueError(f"{option}={value}: must be above 0")
        fields[_FIELDS[option]] = value
    return kind(**fields)
