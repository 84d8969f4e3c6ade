"""Seeds as a function of where in the run we are, so that nothing random needs to be stored."""

_MASK = 2**64 - 1


def mix(*values: int) -> int:
    """Folds integers into one 63-bit seed by the splitmix64 finaliser (Steele et al. 2014).

    Neighbouring inputs give unrelated seeds, and the order of the inputs matters.
    """
    h = 0
    for value in values:
        h = (h + value + 0x9E3779B97F4A7C15) & _MASK
        h = ((h ^ (h >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        h = ((h ^ (h >> 27)) * 0x94D049BB133111EB) & _MASK
        h ^= h >> 31
    return h >> 1
