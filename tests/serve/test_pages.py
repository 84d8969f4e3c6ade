"""What the families offer: controls that refuse, and functions that give what the models give."""

import math

import numpy as np
import pytest
import torch

import zoo
from zoo.data.text.vocabulary import Vocabulary
from zoo.pages import SEED, Choice, Number, Sketch, Switch, Tab, Text, Upload, class_of
from zoo.serve.app import tabs_of

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


@pytest.mark.parametrize(
    ("control", "given", "said"),
    [
        (Number("Steps", 10, 1, 100), 101, "Steps 101: must be from 1 to 100"),
        (Number("Steps", 10, 1, 100), 0, "Steps 0: must be from 1 to 100"),
        (Number("Steps", 10, 1, 100), 2.5, "must be a whole number"),
        (Number("Steps", 10, 1, 100), math.nan, "must be a whole number"),
        (Number("Steps", 10, 1, 100), 10**400, "must be"),
        (Number("Steps", 10, 1, 100), True, "needs a number"),
        (Number("Steps", 10, 1, 100), "7", "needs a number, got '7'"),
        (Number("Steps", 10, 1, 100), None, "needs a number"),
        (Number("Guidance", 1, 0, 20, 0.1), math.inf, "must be from 0 to 20"),
        (Number("Guidance", 1, 0, 20, 0.1), [1], "needs a number"),
        (SEED, -1, "Seed -1: must be from 0"),
        (SEED, 2**31, "must be from 0 to 2147483647"),
        (Choice("Sampler", ["ddim", "dpmpp"]), "euler", "choose one of ddim, dpmpp"),
        (Choice("Sampler", ["ddim", "dpmpp"]), ["ddim"], "choose one of"),
        (Choice("Class", [str(i) for i in range(99)]), "99", "11, ..."),
        (Switch("Stop"), 1, "needs true or false"),
        (Text("Prompt"), "  ", "type something first"),
        (Text("Prompt"), None, "needs a text"),
        (Text("Prompt"), "a" * 2001, "2001 characters, at most 2000"),
        (Text("Prompt"), "a\ud800", "surrogate"),
        (Upload("File"), None, "choose a file first"),
        (Sketch("Drawing", (1, 8, 8)), None, "draw something first"),
        (Sketch("Drawing", (1, 8, 8)), np.zeros((8, 8), np.uint8), "needs an RGB image"),
        (Sketch("Drawing", (1, 8, 8)), np.zeros((8, 5000, 3), np.uint8), "at most 4096"),
        (Sketch("Drawing", (1, 8, 8)), np.zeros((8, 8, 3)), "draw something first"),
    ],
)
def test_what_a_control_may_not_be_given_is_refused(control, given, said):
    with pytest.raises(ValueError, match="^" + control.label) as told:
        control.checked(given)
    assert said in str(told.value)


def test_what_it_may_is_taken_as_its_type(tmp_path):
    steps = Number("Steps", 10, 1, 100).checked(7.0)
    assert (steps, type(steps)) == (7, int)
    assert Number("Guidance", 1, 0, 20, 0.1).checked(3) == 3
    assert Text("Prompt", empty=True).checked("") == ""
    (tmp_path / "a.txt").write_text("one\n\ntwo\none\n")
    assert Upload("File").checked(str(tmp_path / "a.txt")) == ["one", "two"]
    (tmp_path / "a.txt").write_text("\n")
    with pytest.raises(ValueError, match="0 sentences, from 1 to 10000"):
        Upload("File").checked(str(tmp_path / "a.txt"))
    (tmp_path / "a.txt").write_bytes(b"\xff")
    with pytest.raises(ValueError, match="UTF-8"):
        Upload("File").checked(str(tmp_path / "a.txt"))
    assert [class_of(word, 10) for word in ("each in turn", "none", "7")] == [None, 10, 7]


def run(model, title, **given):
    """All that a tab yields, with the first values of the controls that are not given."""
    [tab] = [tab for tab in tabs_of(model.eval()) if tab.title == title]
    first = {
        name: control.options[0] if isinstance(control, Choice) else getattr(control, "value", None)
        for name, control in tab.controls.items()
    }
    assert set(given) <= set(first)
    found = list(tab(**(first | given)))
    assert all(len(values) == len(tab.results) for values in found)
    return found


def test_a_ddpm_shows_the_way_to_its_samples():
    torch.manual_seed(0)
    small = {"image_size": 8, "channels": 1, "width": 8, "multipliers": [1, 2], "groups": 4}
    model = zoo.DDPM(**small, timesteps=20, num_classes=3, label_dropout=0.1).eval()
    asked = {"seed": 5, "sampler": "ddim", "steps": 4}
    found = run(model, "Samples", n=3, **asked, label="2", guidance=2)
    assert [how for _, how in found[:-1]] == ["noise", *(f"step {i} of 4" for i in range(1, 5))]
    torch.testing.assert_close(found[-1][0], model.sample(3, **asked, labels=2, guidance=2))
    assert found[-1][1].startswith("ddim, 4 of 20 steps")
    torch.testing.assert_close(run(model, "Samples", n=3, **asked)[-1][0], model.sample(3, **asked))
    free = run(model, "Samples", n=3, **asked, label="none")[-1][0]
    torch.testing.assert_close(free, model.sample(3, **asked, labels=3))
    assert torch.is_grad_enabled()
    plain = tabs_of(zoo.DDPM(**small, timesteps=20))[0].controls
    assert list(plain) == ["n", "seed", "sampler", "steps"]


def test_a_wgan_shows_its_samples():
    points = zoo.WGAN(network="mlp", generator_widths=[16], critic_widths=[16])
    [(found,)] = run(points, "Samples", n=500, seed=2)
    torch.testing.assert_close(found, points.sample(500, seed=2))


def test_the_sliders_of_a_vae_are_its_coordinates():
    torch.manual_seed(0)
    model = zoo.VAE(image_size=8, latent_dim=14, hidden=[16]).eval()
    code = tabs_of(model)[0]
    assert len(code.controls) == 12
    name = list(code.controls)[3]
    [(image,)] = run(model, "Code", **{name: 1.5})
    z = torch.zeros(1, 14)
    z[0, int(name[1:]) - 1] = 1.5
    torch.testing.assert_close(image, model.images_of(z))
    [(found,)] = run(model, "Samples", n=3, seed=1)
    torch.testing.assert_close(found, model.sample(3, seed=1))


def test_the_globe_of_a_sphere_turns_over_all_of_it():
    torch.manual_seed(0)
    model = zoo.VMFVAE(image_size=8, spheres=[3], hidden=[16]).eval()
    a, b = math.radians(130), math.radians(-40)
    z = [math.cos(b) * math.cos(a), math.cos(b) * math.sin(a), math.sin(b)]
    [(image, globe)] = run(model, "Code", east=130, north=-40)
    torch.testing.assert_close(image, model.images_of(torch.tensor([z])))
    side = math.isqrt(len(globe))
    globe = globe.view(side, side, 1, 8, 8)
    torch.testing.assert_close(globe[side // 2, side // 2], image[0])
    assert (globe[0, 0] == 0).all()  # behind the horizon
    # To the right is east, above is north: as a sphere is seen from outside with north above.
    x = 1 / (side // 2 + 1)
    here = math.degrees(math.asin(x))
    around = run(model, "Code", east=0, north=0)[0][1].view(globe.shape)
    for row, column, degrees in ((0, 1, (here, 0)), (-1, 0, (0, here))):
        longitude, latitude = map(math.radians, degrees)
        z = [math.cos(latitude) * math.cos(longitude), math.cos(latitude) * math.sin(longitude)]
        expected = model.images_of(torch.tensor([[*z, math.sin(latitude)]]))[0]
        torch.testing.assert_close(around[side // 2 + row, side // 2 + column], expected)


def test_a_larger_sphere_is_turned_towards_two_of_its_coordinates():
    torch.manual_seed(0)
    model = zoo.VMFVAE(image_size=8, spheres=[2, 5], hidden=[16]).eval()
    seen = []
    model.images_of = lambda z: seen.append(z) or torch.zeros(*z.shape[:-1], 1, 8, 8)
    for east, north in ((0, 0), (90, 0), (0, 90), (30, 40)):
        run(model, "Code", sphere=2, i=4, j=1, east=east, north=north, seed=3)
    assert all(torch.allclose(z[..., 2:].norm(dim=-1)[5, 5], torch.tensor(1.0)) for z in seen)
    start, east, north, _ = (z[5, 5] for z in seen)
    first = torch.zeros(1, dtype=torch.long)
    drawn = model.prior_sample(zoo.layers.counter_rng.normal(3, first, 0, (7,)))[0]
    torch.testing.assert_close(start, drawn)
    torch.testing.assert_close(east[:2], start[:2])  # the other sphere stays
    start, east, north = start[2:], east[2:], north[2:]
    torch.testing.assert_close(east @ start, torch.tensor(0.0), atol=1e-6, rtol=0)
    across = torch.eye(5)[3] - start[3] * start
    torch.testing.assert_close(east, across / across.norm())
    assert north[0] > 0
    assert abs(north @ east) < 1e-6
    with pytest.raises(ValueError, match="two different ones of 5"):
        run(model, "Code", sphere=2, i=4, j=4)
    run(model, "Code", sphere=1, east=20)
    circle = seen[-1][0, 5, :2]
    flat, turn = torch.eye(2), math.radians(20)
    torch.testing.assert_close(circle, math.cos(turn) * flat[0] + math.sin(turn) * flat[1])


@pytest.mark.parametrize("own", [{}, {"binarization": "dynamic"}, {"likelihood": "gaussian"}])
def test_a_drawing_is_judged_as_a_datum_is(own):
    torch.manual_seed(0)
    model = zoo.VAE(image_size=8, latent_dim=2, hidden=[16], **own).eval()
    drawing = np.zeros((32, 32, 3), np.uint8)
    drawing[8:24, 12:20] = 255
    [(images, text)] = run(model, "Draw", drawing=drawing, samples=200)
    small = torch.full((1, 1, 8, 8), -1.0)
    small[..., 2:6, 3:5] = 1
    torch.testing.assert_close(images[:1], small)
    torch.testing.assert_close(images[1:], model.reconstruct(images[:1]))
    expected = model.log_density(images[:1], samples=200, prepared=True)
    assert f"log p(x) = {float(expected.log_density):.2f} ± " in text
    error = float((images[1] - images[0]).square().mean().sqrt() / 2)
    assert f"error of a pixel {error:.3f}" in text
    assert ("no code length" in text or "not the log" in text) == (
        model.protocol().get("likelihood") is not None
    )


def test_text_comes_symbol_by_symbol():
    torch.manual_seed(0)
    words = Vocabulary("char", ["</s>", "<unk>", *"abc "])
    model = zoo.FlashLM(vocab_size=6, dim=16, depth=1, head_size=8)
    with pytest.raises(ValueError, match="no symbols yet"):
        tabs_of(model)
    model.words.use(words)
    found = [text for (text,) in run(model, "Text", prompt="ab", tokens=9, seed=4)]
    assert len(found) == 9
    assert all(b.startswith(a) and b != a for a, b in zip(["ab", *found], found, strict=False))
    options = {"temperature": 0.8, "seed": 4, "top_k": 6, "top_p": 1.0, "stop_at_end": False}
    [written] = model.generate(["ab"], 9, **options)
    assert found[-1].replace("\n", "") == "ab" + written.replace("\n", "")


def test_masks_are_filled_and_texts_classified():
    torch.manual_seed(0)
    words = Vocabulary("char", ["</s>", "<unk>", *"abc"])
    model = zoo.FlashMLM(vocab_size=6, dim=16, depth=1, head_size=8)
    model.words.use(words)
    [(rows,)] = run(model, "Masks", text="a[MASK]c", k=2)
    [[best]] = model.fill_mask(["a[MASK]c"], k=6)
    words_alone = [(symbol, share) for symbol, share in best if symbol != "[MASK]"]
    assert rows == [[1, symbol, f"{share:.4f}"] for symbol, share in words_alone[:2]]
    assert len(run(model, "Masks", text="[MASK]", k=5)[0][0]) == 5  # all but the mask
    with pytest.raises(ValueError, match=r"no \[MASK\]"):
        run(model, "Masks", text="abc")
    judge = zoo.FlashMLM(vocab_size=6, dim=16, depth=1, head_size=8, num_classes=3)
    judge.words.use(words)
    [(rows,)] = run(judge, "Class", text="abc")
    assert math.isclose(sum(float(share) for _, share in rows), 1, abs_tol=2e-4)


def test_sentences_are_written_searched_and_compared(tmp_path):
    torch.manual_seed(0)
    model = zoo.SimBERT(vocab_size=12, hidden=8, layers=1, heads=2).eval()
    with pytest.raises(ValueError, match="no vocabulary yet"):
        tabs_of(model)
    model.tokenizer.adopt([*SPECIAL, *"abcdefg"])
    asked = {"n": 8, "k": 3, "temperature": 1, "top_p": 1, "seed": 2}
    expected = model.paraphrase("abc", **asked)
    [(rows,)] = run(model, "Paraphrases", text="abc", **asked)
    assert rows == [[f"{one.similarity:.4f}", one.text] for one in expected]
    lines = ["ab", "cd", "efg", "a"]
    (tmp_path / "a.txt").write_text("\n".join(lines))
    tabs = {tab.title: tab for tab in tabs_of(model)}
    search = tabs["Similar sentences"]
    made, encode = [], model.encode
    model.encode = lambda texts, **options: made.append(len(texts)) or encode(texts, **options)
    for k in (2, 3):
        [(rows,)] = search(file=str(tmp_path / "a.txt"), query="abd", k=k)
        [near] = model.similar(["abd"], lines, k=k)
        assert rows == [[f"{cosine:.4f}", text] for text, cosine in near]
    assert made.count(4) == 1 + 2  # one by the page, two by this test
    [(text,)] = run(model, "Pair", a="ab", b="cd")
    assert text == f"cosine {float(model.similarity(['ab'], ['cd'])):.4f}"
    plain = zoo.SentenceSimilarity(vocab_size=12, hidden=8, layers=1, heads=2)
    plain.tokenizer.adopt([*SPECIAL, *"abcdefg"])
    assert [tab.title for tab in tabs_of(plain)] == ["Similar sentences", "Pair"]


def test_a_model_of_ones_own_offers_its_samples_or_is_refused():
    class Own(torch.nn.Module):
        def sample(self, n, *, seed=0, first=0):
            return torch.full((n, 1, 2, 2), float(seed))

    [tab] = tabs_of(Own())
    assert isinstance(tab, Tab)
    [(images,)] = tab(n=3, seed=1)
    assert images.shape == (3, 1, 2, 2)
    with pytest.raises(ValueError, match="Linear offers no page"):
        tabs_of(torch.nn.Linear(1, 1))
