"""Small models with weights that matter."""

import torch

from zoo import RoFormerSim, SentenceSimilarity, SimBERT
from zoo.data.sentences.tokenizer import SPECIAL, Tokenizer

CHARACTERS = "甲乙丙丁戊己庚辛壬癸子丑寅卯辰巳午未申酉戌亥"
TOKENS = [*SPECIAL, *CHARACTERS]
TINY = {"vocab_size": len(TOKENS), "hidden": 16, "layers": 2, "heads": 2, "intermediate": 24}
CLASSES = {"SimBERT": SimBERT, "RoFormerSim": RoFormerSim, "SentenceSimilarity": SentenceSimilarity}


def tiny(name="RoFormerSim", *, vocabulary=True, std=0.3, seed=0, **options):
    """A model whose outputs differ from text to text."""
    torch.manual_seed(seed)
    options = {"dropout": 0.0, "attention_dropout": 0.0, **options}
    model = CLASSES[name](**{**TINY, **options})
    with torch.no_grad():
        for key, p in model.named_parameters():
            if "norm.weight" not in key:
                torch.nn.init.normal_(p, std=std)
        model.net.head_bias[3] += 3 * std  # [SEP], so that sentences end
    if vocabulary:
        model.tokenizer = Tokenizer(TOKENS)
    return model.eval()


def texts(n, seed=0, shortest=2, longest=9):
    """Random texts of the characters."""
    g = torch.Generator().manual_seed(seed)
    sizes = torch.randint(shortest, longest + 1, (n,), generator=g).tolist()
    draws = [torch.randint(0, len(CHARACTERS), (k,), generator=g).tolist() for k in sizes]
    return ["".join(CHARACTERS[i] for i in draw) for draw in draws]
