"""SimBERT, RoFormer-Sim and their supervised forms (kexue.fm/archives/7427, 8454 and 8541)."""
