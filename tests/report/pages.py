"""What the tests read of a page, and runs that no training made."""

import json
from html.parser import HTMLParser
from pathlib import Path

CONFIG = """\
seed_everything: 3
run_dir: {name}
model:
  class_path: zoo.DDPM
  init_args: {{lr: {lr}, channels: 1, note: {note}}}
data:
  class_path: zoo.data.Digits
  init_args: {{batch_size: 16}}
"""
METRICS = """\
step,epoch,train/loss,train/loss_q0,val/loss,wasserstein/critic,wasserstein/exact
4,0,0.9,,,1.5,1.75
9,0,0.5,0.25,0.625,1.25,1.5
14,1,nan,0.125,,,
19,1,0.25,0.0625,0.375,,
"""
RECORD = {
    "model": "zoo.DDPM",
    "parameters": 1234567,
    "verbs": ["sample"],
    "data": ["Digits of scikit-learn", "train: 1,257 images"],
    "sessions": [
        {"from": 0, "to": 10, "seconds": 5, "memory": 2**30, "begun": "today", "machine": "a CPU"},
        {"from": 10, "to": 20, "seconds": 57, "memory": 2**30, "begun": "today", "machine": "GPU"},
    ],
}
RESULTS = {
    "metrics": {"test/bits": 2.125, "baseline/bits": 3.5, "test/kid": 0.5},
    "protocol": {"test/bits": "by an honest protocol <b>"},
}


class Page(HTMLParser):
    """The texts, tags and data of a page.

    Args:
        path: The file.
    """

    def __init__(self, path):
        super().__init__()
        self.tags, self.texts, self.titles = [], [], []
        self._script = self._tag = None
        self.cards = []
        self.html = Path(path).read_text("utf-8")
        self.feed(self.html)

    def handle_starttag(self, tag, attributes):
        self._tag = tag
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        self._tag = None

    def handle_data(self, data):
        if self._tag == "script":
            if self.tags[-1][1].get("id") == "data":
                self.cards = json.loads(data)
        elif data.strip():
            self.texts.append(" ".join(data.split()))
            if self._tag == "h3":
                self.titles.append(self.texts[-1])

    @property
    def charts(self):
        """The steps of each picture by its title."""
        return dict(zip(self.titles, self.cards, strict=False))

    def sources(self):
        """What the page would load."""
        keys = ("src", "href", "action", "srcset", "data")
        return [attributes[k] for _, attributes in self.tags for k in keys if attributes.get(k)]


def make_run(folder, lr=0.5, note="plain", metrics=METRICS):
    """A run directory with curves, config, results and record."""
    folder = Path(folder)
    (folder / "report").mkdir(parents=True)
    (folder / "config.yaml").write_text(
        CONFIG.format(name=json.dumps(folder.name), lr=lr, note=json.dumps(note))
    )
    (folder / "metrics.csv").write_text(metrics)
    (folder / "results.json").write_text(json.dumps(RESULTS))
    (folder / "report" / "run.json").write_text(json.dumps(RECORD))
    return folder
