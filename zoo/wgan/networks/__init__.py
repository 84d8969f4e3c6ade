"""Generators and critics: MLP, DCGAN and ResNet."""
