"""What a VAE of sentences offers on a page: sentences of the prior, and those between two."""

from zoo.pages import SEED, Control, Number, Result, Tab, Text
from zoo.vae.text.generation import Generation


class Pages(Generation):
    """Sentences."""

    def tabs(self) -> list[Tab]:
        """Sentences, and the way between two where there are codes."""
        lines = [Result("text", "Sentences", 10)]
        numbers = {
            "n": Number("Number", 10, 1, 100),
            "seed": SEED,
            "temperature": Number("Temperature", 1, 0, 2, 0.05),
        }
        tabs = [Tab("Sentences", self._written, numbers, lines)]
        if self.latent_dim:
            ends: dict[str, Control] = {
                "a": Text("From"),
                "b": Text("To"),
                "steps": Number("Sentences", 7, 2, 20),
            }
            tabs.append(Tab("Between", self._between, ends, lines, "The likeliest words."))
        return tabs

    def _written(self, n: int, seed: int, temperature: float) -> tuple[str]:
        return ("\n".join(self.generate_text(n, seed=seed, temperature=temperature)),)

    def _between(self, a: str, b: str, steps: int) -> tuple[str]:
        return ("\n".join(self.interpolate_text(a, b, steps=steps)),)
