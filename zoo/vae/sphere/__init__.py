"""What the von Mises-Fisher law is made of: Bessel functions, quantiles, draws, constraints."""
