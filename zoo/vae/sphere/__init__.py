"""What the von Mises-Fisher VAE is made of: Bessel functions, quantiles, draws and its head."""
