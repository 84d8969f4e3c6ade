"""Pages in a browser, by Gradio: models to play with."""
