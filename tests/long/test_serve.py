"""Pages in a browser: each control does what it says. Needs gradio, playwright and chromium."""

import gc
import html
import io
import shutil
import time

import numpy as np
import pytest
import torch
from PIL import Image

import zoo
from zoo.data.text.vocabulary import Vocabulary

# Gradio leaves loops open, and warns of what its libraries will change.
pytestmark = [pytest.mark.long, pytest.mark.filterwarnings("ignore")]
SIZES = {"wide": (1280, 900), "narrow": (390, 800)}
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
_WAIT = 60_000  # ms


@pytest.fixture(scope="module")
def browser():
    pytest.importorskip("gradio", reason="the extra `serve` is not installed")
    sync = pytest.importorskip("playwright.sync_api", reason="the extra `browser` is not installed")
    chromium = shutil.which("chromium") or pytest.skip("there is no chromium")
    with sync.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


class Opened:
    """A page of a model in a window, with what it asked for and what it threw."""

    def __init__(self, page, address):
        self.page, self.asked, self.thrown = page, [], []
        page.set_default_timeout(_WAIT)
        page.on("request", lambda request: self.asked.append(request.url))
        page.on("pageerror", lambda error: self.thrown.append(str(error)))
        page.goto(address)
        page.wait_for_selector("button[role=tab]")

    def tab(self, title):
        """Shows a tab, and gives what is in it."""
        button = self.page.get_by_role("tab", name=title, exact=True)
        if not button.is_visible():  # folded away where it is narrow
            self.page.locator(".overflow-menu > button:visible").click()
            self.page.locator(".overflow-dropdown button", has_text=title).click()
        else:
            button.click()
        return self.page.get_by_role("tabpanel").locator("visible=true").first

    def number(self, label, value):
        """Types a number beside a slider, or into its field."""
        field = self.page.locator(
            f"input[aria-label='number input for {label}']:visible, "
            f"label:has-text('{label}') input[type=number]:visible"
        ).first
        field.fill(str(value))
        field.press("Enter")

    def choose(self, label, word):
        """Takes a word of a list."""
        self.page.get_by_label(label, exact=True).locator("visible=true").click()
        self.page.get_by_role("option", name=word, exact=True).click()

    def press(self, button):
        self.page.get_by_role("button", name=button, exact=True).locator("visible=true").click()

    def image(self, panel, label):
        """The pixels of a picture that is shown, as they were sent."""
        shown = panel.locator(".pictures", has_text=label).locator("img")
        shown.wait_for()
        answer = self.page.request.get(shown.get_attribute("src"))
        return np.asarray(Image.open(io.BytesIO(answer.body())))

    def shown(self, panel, text):
        """Waits for a text; a table has copies of its cells that are hidden, to measure them."""
        panel.get_by_text(text).locator("visible=true").first.wait_for()

    def until(self, holds):
        end = time.monotonic() + _WAIT / 1000
        while not holds():
            assert time.monotonic() < end
            self.page.wait_for_timeout(100)


@pytest.fixture
def open_(browser, request):
    """Serves a model and opens it."""
    from zoo.serve.app import app, launch

    served, opened = [], []

    def open_(model, size="wide"):
        page = app(model.eval(), "a model")
        served.append(page)
        address = launch(page)
        assert address.startswith("http://127.0.0.1:")
        width, height = SIZES[size]
        window = browser.new_page(viewport={"width": width, "height": height})
        opened.append((Opened(window, address), address, width))
        return opened[-1][0]

    yield open_
    for one, address, width in opened:
        local = (address, "data:", "blob:")
        assert [url for url in one.asked if not url.startswith(local)] == []
        assert one.thrown == []
        assert one.page.evaluate("document.documentElement.scrollWidth") <= width
        one.page.close()
    for page in served:
        page.close(verbose=False)
    gc.collect()


def grid(images, columns=None):
    from zoo.pages import Result
    from zoo.serve.app import _shown

    return _shown(Result("images", "", columns), images)


def ddpm():
    torch.manual_seed(0)
    small = {"image_size": 8, "channels": 1, "width": 8, "multipliers": [1, 2], "groups": 4}
    return zoo.DDPM(**small, timesteps=50, num_classes=3, label_dropout=0.1).eval()


CHANGES = [
    {"n": 3},
    {"seed": 7},
    {"sampler": "ddim"},
    {"steps": 5},
    {"labels": 2},
    {"guidance": 2.5},
]


@pytest.mark.parametrize(
    ("size", "changes"),
    [("wide", CHANGES), ("narrow", [{k: v for change in CHANGES for k, v in change.items()}])],
)
def test_a_ddpm_denoises_as_its_controls_say(open_, size, changes):
    model = ddpm()
    opened = open_(model, size)
    panel = opened.tab("Samples")
    how = panel.get_by_label("How")
    labels = {"n": "Number", "seed": "Seed", "steps": "Steps", "guidance": "Guidance"}
    expected = {"n": 16, "seed": 0, "sampler": "dpmpp", "steps": 10, "guidance": 1.0}
    for change in changes:
        for name, value in change.items():
            if name in labels:
                opened.number(labels[name], value)
            else:
                opened.choose("Class" if name == "labels" else "Sampler", str(value))
        expected |= change
        opened.press("Run")
        asked = {name: expected[name] for name in ("sampler", "steps", "guidance")}
        said = f"{model.sampler_protocol(**asked)}, seed {expected['seed']}"
        wanted = grid(model.sample(**expected))
        opened.until(lambda: how.input_value() == said)  # noqa: B023
        opened.until(lambda: np.array_equal(opened.image(panel, "Images"), wanted))  # noqa: B023


def test_denoising_is_seen_and_can_be_stopped(open_):
    model = ddpm()
    forward = model.forward
    model.forward = lambda *given: time.sleep(0.1) or forward(*given)
    opened = open_(model)
    panel = opened.tab("Samples")
    how = panel.get_by_label("How")
    opened.press("Run")
    seen = set()
    opened.until(lambda: seen.add(how.input_value()) or len(seen) > 4)
    assert all("step" in text for text in seen - {"", "noise"})
    opened.press("Stop")
    opened.page.wait_for_timeout(1500)
    last = how.input_value()
    opened.page.wait_for_timeout(1500)
    assert how.input_value() == last
    assert "step" in last
    opened.image(panel, "Images")
    assert panel.locator(".error").locator("visible=true").count() == 0  # over the last picture


@pytest.mark.parametrize("size", SIZES)
def test_a_code_is_dragged_and_a_drawing_judged(open_, size):
    torch.manual_seed(0)
    model = zoo.VAE(image_size=8, latent_dim=2, hidden=[16]).eval()
    opened = open_(model, size)
    panel = opened.tab("Code")
    opened.image(panel, "Image")  # is there without a click
    slider = panel.get_by_role("slider").first
    slider.scroll_into_view_if_needed()
    box = slider.bounding_box()
    middle = box["y"] + box["height"] / 2
    opened.page.mouse.move(box["x"] + box["width"] / 2, middle)
    opened.page.mouse.down()
    opened.page.mouse.move(box["x"] + box["width"] - 8, middle, steps=8)
    opened.page.mouse.up()
    opened.until(lambda: float(slider.input_value()) > 2)
    z = torch.tensor([[float(slider.input_value()), 0.0]])
    wanted = grid(model.images_of(z))
    opened.until(lambda: np.array_equal(opened.image(panel, "Image"), wanted))

    panel = opened.tab("Draw")
    canvas = panel.locator("canvas").first
    canvas.scroll_into_view_if_needed()
    opened.page.wait_for_timeout(1000)
    box = canvas.bounding_box()
    x, top = box["x"] + box["width"] / 2, box["y"] + box["height"] * 0.25
    opened.page.mouse.move(x, top)
    opened.page.mouse.down()
    opened.page.mouse.move(x, top + box["height"] / 2, steps=12)
    opened.page.mouse.up()
    opened.page.wait_for_timeout(500)
    opened.press("Run")
    numbers = panel.get_by_label("Numbers")
    opened.until(lambda: "log p(x) = " in numbers.input_value())
    both = opened.image(panel, "Drawn")
    drawn = both[:, : both.shape[1] // 2]
    row = drawn[drawn.shape[0] // 2]
    assert row.max() > 150  # the stroke in the middle
    assert row[8:30].max() < 20  # and black beside it


def test_a_globe_turns(open_):
    torch.manual_seed(0)
    model = zoo.VMFVAE(image_size=8, spheres=[3], hidden=[16]).eval()
    opened = open_(model)
    panel = opened.tab("Code")
    opened.number("East, degrees", 90)
    opened.number("North, degrees", 0)
    wanted = grid(model.images_of(torch.tensor([[0.0, 1.0, 0.0]])))
    opened.until(
        lambda: np.abs(opened.image(panel, "Image").astype(int) - wanted).max() <= 1  # rounding
    )


@pytest.mark.parametrize("size", SIZES)
def test_text_is_written_as_it_comes(open_, size):
    torch.manual_seed(0)
    model = zoo.FlashLM(vocab_size=6, dim=16, depth=1, head_size=8).eval()
    model.words.use(Vocabulary("char", ["</s>", "<unk>", *"abc "]))
    opened = open_(model, size)
    panel = opened.tab("Text")
    panel.get_by_label("Prompt").fill("cab")
    opened.number("Symbols", 30)
    opened.number("Seed", 3)
    opened.number("Temperature", 1.5)
    opened.press("Write")
    options = {"temperature": 1.5, "seed": 3, "top_k": 6, "top_p": 1.0, "stop_at_end": False}
    [written] = model.generate(["cab"], 30, **options)
    text = panel.get_by_label("Text", exact=True)
    opened.until(lambda: text.input_value() == f"cab{written}")


@pytest.mark.parametrize("size", SIZES)
def test_sentences_are_found_compared_and_written(open_, size, tmp_path):
    torch.manual_seed(0)
    model = zoo.SimBERT(vocab_size=12, hidden=8, layers=1, heads=2).eval()
    model.tokenizer.adopt([*SPECIAL, *"abcdefg"])
    lines = ["ab", "cd", f"e,f,{40 * 'fg'}", "a"]
    (tmp_path / "sentences.txt").write_text("\n".join(lines))
    opened = open_(model, size)

    panel = opened.tab("Paraphrases")
    opened.press("Write")
    toast = opened.page.get_by_text("Sentence: type something first")
    toast.wait_for()  # a message, and no traceback
    assert panel.locator(".error").locator("visible=true").count() == 0  # nor one over the table
    opened.number("Sentences to write", 8)
    opened.number("Sentences to show", 3)
    panel.get_by_label("Sentence", exact=True).fill("abc")
    opened.press("Write")
    best = model.paraphrase("abc", 8, 3)[0]
    opened.shown(panel, f"{best.similarity:.4f}")

    panel = opened.tab("Similar sentences")
    panel.locator("input[type=file]").first.set_input_files(tmp_path / "sentences.txt")
    panel.get_by_label("sentences.txt").wait_for()  # its text is in two parts once it is there
    panel.get_by_label("Sentence", exact=True).fill("abd")
    opened.press("Search")
    for _, cosine in model.similar(["abd"], lines)[0]:
        opened.shown(panel, f"{cosine:.4f}")
    cut = "all => all.filter(one => one.scrollWidth > one.parentElement.clientWidth).length"
    assert panel.locator("table:visible").evaluate_all(cut) == 0

    panel = opened.tab("Pair")
    panel.get_by_label("One sentence").fill("ab")
    panel.get_by_label("Another").fill("cd")
    opened.press("Compare")
    said = f"cosine {float(model.similarity(['ab'], ['cd'])):.4f}"
    opened.until(lambda: panel.get_by_label("Similarity").input_value() == said)


def test_what_does_not_come_from_the_page_is_checked_all_the_same(open_, capfd):
    opened = open_(ddpm())
    for given, said in {
        (10**6, 0, "0", "ddim", 5, 1): "Number 1000000: must be from 1 to 64",
        (1, 0, "9", "ddim", 5, 1): "Class '9': choose one of",
        (1, 0, "0", "ddim", 5.5, 1): "Steps 5.5: must be a whole number",
        (1, -5, "0", "ddim", 5, 1): "Seed -5: must be from 0",
        (1, 0.5, "0", "ddim", 5, 1): "Seed 0.5: must be a whole number",
        ("x", 0, "0", "ddim", 5, 1): "Number: needs a number, got 'x'",
        (None, 0, "0", "ddim", 5, 1): "Number: needs a number, got None",
        (1, 0, ("0",), "ddim", 5, 1): "Class ['0']: choose one of",
        (1, 0): "this is not what the page sends (ValueError:",
    }.items():
        assert said in html.unescape(told(opened, "samples", given)), given
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize(
    "file", ["/etc/passwd", 5, {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}]
)
def test_no_file_of_the_machine_is_read_and_forged_ones_are_told(open_, file, capfd):
    model = zoo.SimBERT(vocab_size=12, hidden=8, layers=1, heads=2)
    model.tokenizer.adopt([*SPECIAL, *"abcdefg"])
    opened = open_(model)
    assert "this is not what the page sends" in told(opened, "similar_sentences", (file, "a", 3))
    assert "Traceback" not in capfd.readouterr().err


def told(opened, name, given):
    """What a request of a script is answered with, which is a mistake."""
    here = opened.page.url.rstrip("/")
    begun = opened.page.request.post(f"{here}/gradio_api/call/{name}", data={"data": list(given)})
    event = begun.json()["event_id"]
    answer = opened.page.request.get(f"{here}/gradio_api/call/{name}/{event}").text()
    assert "event: error" in answer
    assert "event: complete" not in answer
    return answer
