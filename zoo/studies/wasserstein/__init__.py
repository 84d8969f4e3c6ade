"""Post 8244, measured: does a WGAN's critic estimate the Wasserstein distance?"""
