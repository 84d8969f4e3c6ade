"""How likely a datum is: importance sampling, annealed importance sampling, and their errors."""
