"""Results as a notebook shows them; each stays the type that it is."""

import io

import pytest
import torch
from PIL import Image

import zoo
from zoo.simbert.paraphrase import Paraphrase, Paraphrases
from zoo.simbert.sentences import Neighbour
from zoo.training.grid import make_grid_png
from zoo.vae.density.importance import LogWeights


def pixels(picture):
    return Image.open(io.BytesIO(picture._repr_png_()))


@pytest.mark.parametrize(
    ("shape", "columns"), [((9, 1, 8, 8), 3), ((2, 5, 3, 4, 4), 5), ((1, 8, 8), 1)]
)
def test_images_are_the_grid_of_zoo_sample(shape, columns):
    images = torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    made = pixels(zoo.show(images))
    make_grid_png(images.reshape(-1, *shape[-3:]), "grid.png", columns)
    assert made.tobytes() == Image.open("grid.png").tobytes()
    assert repr(zoo.show(images)) == f"<picture of {made.width}x{made.height} pixels>"


def test_points_are_a_picture():
    dots = pixels(zoo.show(torch.tensor([[1.0, 1.0], [-1.0, -1.0]])))
    bright = [(x, y) for x in range(2, 258) for y in range(2, 258) if dots.getpixel((x, y)) > 200]
    (left, low), (right, high) = bright
    assert left < 130 < right
    assert high < 130 < low  # the second coordinate upwards


def test_a_density_is_a_table_and_still_a_tuple():
    weights = LogWeights(samples=2)
    weights.add(torch.tensor([[1.0, 2.0], [3.0, 2.0]]).log())
    found = weights.estimate()
    assert found[0] is found.log_density
    rows = found._repr_html_()
    assert "<th>log_density</th><th>standard_error</th><th>ess</th>" in rows
    assert "<td>0.6931</td><td>0.5000</td><td>1.6000</td>" in rows
    table = zoo.show(found)
    assert table.columns["log_density"] == found.log_density.tolist()
    assert repr(table).splitlines()[1].split()[:2] == ["0.6931", "0.5000"]


def test_paraphrases_are_a_table_and_still_a_list():
    found = Paraphrases([Paraphrase("<b>广州", 0.987654, True), Paraphrase("b", 0.5, False)])
    assert found == [("<b>广州", 0.987654, True), ("b", 0.5, False)]
    expected = "<td>&lt;b&gt;广州</td><td>0.9877</td><td>True</td>"
    assert expected in found._repr_html_()
    assert zoo.show(found)._repr_html_() == found._repr_html_()
    assert Paraphrases()._repr_html_().count("<tr>") == 1


def test_chinese_stands_in_line_and_neighbours_have_names():
    table = zoo.show([Neighbour("广州", 0.5), Neighbour("abcdef", 0.25)])
    assert list(table.columns) == ["text", "cosine"]
    assert repr(table).splitlines() == ["text    cosine", "广州    0.5000", "abcdef  0.2500"]


def test_long_tables_say_what_is_left_out_and_dicts_are_rows():
    table = zoo.show({"n": torch.arange(1234)})
    assert repr(table).endswith("\n19\n1,214 more rows")
    assert table._repr_html_().endswith("</table>1,214 more rows")
    assert zoo.show([{"a": 1}, {"a": 2}]).columns == {"a": [1, 2]}
    assert zoo.show([("x", 0.5)]).columns == {"0": ["x"], "1": [0.5]}


def test_to_pandas():
    pandas = pytest.importorskip("pandas")
    frame = zoo.show({"text": ["a", "b"], "value": torch.tensor([1.0, 2.0])}).to_pandas()
    expected = pandas.DataFrame({"text": ["a", "b"], "value": [1.0, 2.0]})
    pandas.testing.assert_frame_equal(frame, expected)


@pytest.mark.parametrize("what", [torch.zeros(3), torch.zeros(2, 5, 8, 8), 7, "text", [1, 2]])
def test_what_has_no_picture_is_told(what):
    with pytest.raises(ValueError, match=r"neither images|no picture and no table"):
        zoo.show(what)
