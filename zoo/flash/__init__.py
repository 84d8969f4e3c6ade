"""FLASH: gated attention units, in time linear in the length of the text."""
