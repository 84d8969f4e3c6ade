"""What holds a critic to the Lipschitz condition: by its gradient, or by its weights."""
