"""Sentences in a latent space: the VAE of text, its networks, evaluation and sampling."""
