"""Each kind of figure as a chart of Plotly, in the form of its JSON; `@` stands for the page's ink.

Colours are numbers of the page's palette (@0, @1, ...) or @text, @muted, @scale, so that the page
can be light or dark.
"""

import base64
import io
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zoo.figures import Figure
from zoo.report.curves import MARKED, Line
from zoo.report.run import finite

Chart = dict[str, Any]
_MOST = 4000  # points of a curve
_DASHES = ("solid", "dash", "dashdot", "longdash", "dot", "longdashdot")


def curve_chart(lines: list[Line]) -> Chart:
    """The curves of one chart over the steps."""
    data: list[Chart] = []
    for line in lines:
        every = -(-len(line.curve[0]) // _MOST)
        steps, values = line.curve[0][::every], line.curve[1][::every]
        faint = line.kind == "train" and any(other.kind == "val" for other in lines)
        colour = f"@{line.colour}"
        data.append(
            {
                "type": "scatter",
                "mode": "lines+markers" if line.marked else "lines",
                "name": line.label,
                "x": steps,
                "y": finite(values),
                "opacity": 0.6 if faint else 1,
                "line": {
                    "color": colour,
                    "width": 1.4 if faint else 2,
                    "dash": "dot" if line.kind == "baseline" else _DASHES[line.dash % len(_DASHES)],
                },
                "marker": {"color": colour, "size": 5},
                "hovertemplate": "%{y:.5g}",
            }
        )
    return {
        "data": data,
        "layout": {
            "hovermode": "x unified",
            "xaxis": {"title": {"text": "step"}, "rangemode": "tozero"},
            "showlegend": len(lines) > 1,
            "height": 270 + 18 * max(0, -(-len(lines) // 2) - 2),  # two names a row above it
        },
    }


def draw(figure: Figure) -> Chart:
    """A figure as a chart; of images, the source of an `img`.

    Raises:
        ValueError: An array or a word that the kind needs is missing, or of the wrong shape.
    """
    try:
        return _KINDS[figure.kind](figure.arrays, figure.words)
    except (KeyError, ValueError, TypeError, IndexError) as error:
        raise ValueError(f"{figure.title}: no {figure.kind} can be drawn of it: {error}") from error


Drawing = Callable[[dict[str, NDArray[Any]], dict[str, Any]], Chart]


def _packed(array: NDArray[Any]) -> Chart:
    """An array as Plotly reads it: typed, in base64."""
    kind = {"f": "f4", "i": "i4", "u": "i4", "b": "i4"}[array.dtype.kind]
    array = np.ascontiguousarray(array, kind)
    packed = {"dtype": kind, "bdata": base64.b64encode(array.tobytes()).decode()}
    return packed | ({"shape": ", ".join(map(str, array.shape))} if array.ndim > 1 else {})


def _axes(words: Chart, **more: Any) -> Chart:
    axes = {
        f"{a}axis": {
            "title": {"text": _escaped(words.get(a, ""))},
            "type": "log" if a in words.get("log", ()) else "linear",
        }
        for a in "xy"
    }
    return axes | more


def _images(arrays: dict[str, NDArray[Any]], words: Chart) -> Chart:
    images = arrays["images"]
    rows, columns, _, height, width = images.shape
    gap = max(1, height // 16)
    canvas = np.zeros((rows * (height + gap) - gap, columns * (width + gap) - gap, 4), np.uint8)
    for r, row in enumerate(images):
        for c, image in enumerate(row):
            top, left = r * (height + gap), c * (width + gap)
            tile = canvas[top : top + height, left : left + width]
            tile[..., :3] = image.transpose(1, 2, 0)  # grey goes to all three
            tile[..., 3] = 255
    file = io.BytesIO()
    Image.fromarray(canvas).save(file, "PNG", optimize=True)
    return {
        "image": png_source(file.getvalue()),
        "columns": words.get("columns", []),
        "rows": words.get("rows", []),
    }


def png_source(data: bytes) -> str:
    """A PNG as the source of an `img`."""
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def _field(arrays: dict[str, NDArray[Any]], words: Chart) -> Chart:
    x, y = (arrays[name] for name in "xy")
    data: list[Chart] = [
        {
            "type": "contour",
            "x": _packed(x),
            "y": _packed(y),
            "z": _packed(arrays["values"]),
            "colorscale": "@scale",
            "opacity": 0.75,
            "ncontours": 18,
            "line": {"width": 0.4, "color": "@grid"},
            "colorbar": {"title": {"text": words.get("values", "")}, "thickness": 10, "len": 0.8},
            "hovertemplate": "%{z:.4g}<extra></extra>",
        }
    ]
    for name, label, colour, size in (("real", "real", "@text", 3), ("fake", "generated", "@1", 4)):
        points = arrays[name]
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": label,
                "x": _packed(points[:, 0]),
                "y": _packed(points[:, 1]),
                "marker": {"color": colour, "size": size, "opacity": 0.7},
                "hoverinfo": "skip",
            }
        )
    ends = {a: [float(v[0]), float(v[-1])] for a, v in (("x", x), ("y", y))}
    return {
        "data": data,
        "layout": {
            "square": True,
            "xaxis": {"range": ends["x"], "constrain": "domain"},
            "yaxis": {"range": ends["y"], "scaleanchor": "x", "constrain": "domain"},
        },
    }


def _estimates(arrays: dict[str, NDArray[Any]], words: Chart) -> Chart:
    values, errors, shape = (arrays[name] for name in ("values", "errors", "shape"))
    worse = ~(shape <= words["limit"])
    edges = np.histogram_bin_edges(values[np.isfinite(values)], 40)
    data: list[Chart] = []
    for chosen, label, colour in (
        (~worse, f"reliable ({int((~worse).sum())})", "@0"),
        (worse, f"k over {words['limit']} ({int(worse.sum())})", "@3"),
    ):
        counts, _ = np.histogram(values[chosen], edges)
        both = {"name": label, "legendgroup": label}
        data += [
            both
            | {
                "type": "bar",
                "x": _packed((edges[1:] + edges[:-1]) / 2),
                "y": _packed(counts),
                "width": float(edges[1] - edges[0]),
                "marker": {"color": colour, "line": {"width": 0}},
                "yaxis": "y2",
                "hovertemplate": "%{x:.4g}: %{y}",
            },
            both
            | {
                "type": "scatter",
                "mode": "markers",
                "showlegend": False,
                "x": _packed(values[chosen]),
                "y": _packed(errors[chosen]),
                "customdata": _packed(shape[chosen]),
                "marker": {"color": colour, "size": 5, "opacity": 0.7},
                "hovertemplate": "%{x:.5g} ± %{y:.3g}, k = %{customdata:.2f}",
            },
        ]
    layout = _axes(
        words,
        barmode="stack",
        height=380,
        hovermode="closest",
        yaxis={"domain": [0, 0.42], "title": {"text": words["y"]}, "rangemode": "tozero"},
        yaxis2={"domain": [0.52, 1], "title": {"text": "items"}},
    )
    return {"data": data, "layout": layout}


def _bars(arrays: dict[str, NDArray[Any]], words: Chart) -> Chart:
    values = np.atleast_2d(arrays["values"])
    groups = words.get("groups") or [""]
    names = words.get("names") or [str(i + 1) for i in range(values.shape[1])]
    names = [_escaped(name).replace(" (", "<br>(") for name in names]  # level, not slanted
    data = [
        {
            "type": "bar",
            "name": name,
            "x": names,
            "y": _packed(row),
            "marker": {"color": f"@{i}", "line": {"width": 0}},
            "hovertemplate": "%{x}: %{y:.4g}<extra></extra>",
        }
        for i, (name, row) in enumerate(zip(groups, values, strict=True))
    ]
    layout = _axes(words, showlegend=len(data) > 1, bargap=0.8 if values.shape[1] < 4 else 0.2)
    layout["xaxis"]["type"] = "category"
    return {"data": data, "layout": layout}


def _lines(arrays: dict[str, NDArray[Any]], words: Chart) -> Chart:
    x = arrays["x"]
    names = [name for name in arrays if name != "x"]
    marked = len(x) <= MARKED
    data = [
        {
            "type": "scatter",
            "mode": "lines+markers" if marked else "lines",
            "name": name,
            "x": _packed(x),
            "y": _packed(arrays[name]),
            "line": {"color": f"@{i}", "width": 2},
            "hovertemplate": "%{y:.5g}",
        }
        for i, name in enumerate(names)
    ]
    layout = _axes(words, hovermode="x unified", showlegend=len(names) > 1)
    if "x" in words.get("log", ()):
        few = {"tickvals": x.tolist(), "ticktext": [f"{value:,.12g}" for value in x.tolist()]}
        ticks = few if len(x) <= 8 else {"dtick": 1}
        layout["xaxis"] |= ticks | {"minor": {"showgrid": False}}
    return {"data": data, "layout": layout}


def _heatmap(arrays: dict[str, NDArray[Any]], words: Chart) -> Chart:
    rows, columns = words.get("rows"), words.get("columns")
    texts = [[f"{r}<br>{c}" for c in columns] for r in rows] if rows and columns else None
    trace = {
        "type": "heatmap",
        "z": _packed(arrays["values"]),
        "colorscale": "@scale",
        "colorbar": {"title": {"text": words.get("value", "")}, "thickness": 10, "len": 0.8},
        "hovertemplate": ("%{text}<br>" if texts else "") + "%{z:.3f}<extra></extra>",
    } | ({"text": texts} if texts else {})
    axis = {"showticklabels": False, "constrain": "domain", "showgrid": False, "ticks": ""}
    layout = {
        "square": True,
        "xaxis": axis | {"title": {"text": words.get("x", "")}},
        "yaxis": axis
        | {"autorange": "reversed", "scaleanchor": "x", "title": {"text": words.get("y", "")}},
    }
    return {"data": [trace], "layout": layout}


def _histograms(arrays: dict[str, NDArray[Any]], words: Chart) -> Chart:
    every = np.concatenate(list(arrays.values()))
    edges = np.histogram_bin_edges(every[np.isfinite(every)], 50)
    data = []
    for i, (name, values) in enumerate(arrays.items()):
        density, _ = np.histogram(values, edges, density=len(values) > 0)
        data.append(
            {
                "type": "bar",
                "name": f"{name} ({len(values)})",
                "x": _packed((edges[1:] + edges[:-1]) / 2),
                "y": _packed(density),
                "width": float(edges[1] - edges[0]),
                "marker": {"color": f"@{(0, 1, 2, 4, 5)[i % 5]}", "line": {"width": 0}},
                "opacity": 0.6,
                "hovertemplate": "%{x:.3f}: %{y:.3g}",
            }
        )
    marks = [(label, float(place)) for label, place in words.get("marks", {}).items()]
    layout = _axes(
        words,
        barmode="overlay",
        shapes=[
            {"type": "line", "x0": place, "x1": place, "yref": "paper", "y0": 0, "y1": 1}
            | {"line": {"color": "@text", "width": 1.5, "dash": "dash"}}
            for _, place in marks
        ],
        annotations=[
            {"x": place, "y": 1, "yref": "paper", "yanchor": "top", "xanchor": "left"}
            | {"text": _escaped(label), "showarrow": False, "bgcolor": "@card", "xshift": 4}
            for label, place in marks
        ],
    )
    return {"data": data, "layout": layout}


def _points(arrays: dict[str, NDArray[Any]], words: Chart) -> Chart:
    xy, group = arrays["xy"], arrays["group"]
    texts = np.array([_escaped(text) for text in words["texts"]], object)
    data = [
        {
            "type": "scatter",
            "mode": "markers",
            "name": name,
            "x": _packed(xy[group == i, 0]),
            "y": _packed(xy[group == i, 1]),
            "text": texts[group == i].tolist(),
            "marker": {"color": f"@{i}", "size": 6, "opacity": 0.75},
            "hovertemplate": "%{text}<extra></extra>",
        }
        for i, name in enumerate(words["groups"])
    ]
    axis = {"showticklabels": False, "zeroline": False}
    layout = {"square": True, "hovermode": "closest", "xaxis": axis, "yaxis": axis}
    return {"data": data, "layout": layout}


def _escaped(text: Any) -> str:
    """Text for Plotly, which reads a part of HTML in labels."""
    return str(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


_KINDS: dict[str, Drawing] = {
    "images": _images,
    "field": _field,
    "estimates": _estimates,
    "bars": _bars,
    "lines": _lines,
    "heatmap": _heatmap,
    "histograms": _histograms,
    "points": _points,
}
