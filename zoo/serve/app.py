"""Tabs as a Gradio app, which sends nothing anywhere and runs one request at a time."""

import math
import os
import time
import traceback
from collections.abc import Callable, Iterator
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import LightningModule
from torch import Tensor

from zoo.data.protocols import HasSamples, HasTabs
from zoo.loading import zoo_name
from zoo.memory import asked_for, is_out_of_memory
from zoo.pages import (
    IMAGES,
    SEED,
    Choice,
    Control,
    Number,
    Result,
    Sketch,
    Switch,
    Tab,
    Text,
    Upload,
)
from zoo.registry import MODELS
from zoo.training.grid import grid_of, picture_of_points

_FRAME = 0.15  # seconds between two pictures of one generation
_WAITING = 16  # requests, before others are refused
_FILE = "8mb"  # of an upload
_PICTURE = 480  # pixels across, at least about
_CANVAS = 320  # pixels of the longer side of a drawing
_COLOURS = ["#ffffff", "#808080", "#e04040", "#40c040", "#4060e0", "#e0c040"]
_KEPT = 3600  # seconds that pictures stay on the disk
_CSS = """
.gradio-container {max-width: 1200px !important; width: 100%; margin: auto}
.pictures img {image-rendering: pixelated}
.pictures .image-frame {padding-top: 2.4em}  /* below the label and the buttons */
footer .divider {display: none}
/* a mistake is told above; Gradio's mark would cover the last result, after a Stop too */
[data-testid=status-tracker]:has(> .error) {display: none !important}
@media (max-width: 700px) {
  .live {flex-direction: column-reverse; flex-wrap: nowrap !important}
  .live > * {width: 100%}
}
"""


def library() -> Any:
    """Gradio, which sends nothing home.

    Raises:
        ModuleNotFoundError: It is not installed.
    """
    for name in ("GRADIO_ANALYTICS_ENABLED", "GRADIO_MCP_SERVER", "GRADIO_SHARE"):
        os.environ[name] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    try:
        import gradio
    except ImportError as error:
        raise ModuleNotFoundError(
            "pages need gradio: pip install 'lightning-model-zoo[serve]'"
        ) from error
    return gradio


def tabs_of(model: LightningModule) -> list[Tab]:
    """What a model offers: what it says itself, else its samples.

    Raises:
        ValueError: It offers nothing.
    """
    if isinstance(model, HasTabs):
        return list(model.tabs())
    if not isinstance(model, HasSamples):
        raise ValueError(f"{type(model).__name__} offers no page: it has neither tabs nor samples")
    controls: dict[str, Control] = {"n": IMAGES, "seed": SEED}

    def samples(n: int, seed: int) -> tuple[Tensor]:
        return (model.sample(n, seed=seed),)

    return [Tab("Samples", samples, controls, [Result("images", "Samples")])]


def title_of(ckpt: str) -> str:
    """A model's name, or of a path the last part, since others may see the page."""
    path = Path(ckpt)
    return path.resolve().name if path.exists() else ckpt


def app(model: LightningModule, name: str) -> Any:
    """The page of a model as `gradio.Blocks`.

    Args:
        model: In eval mode, where it is to compute.
        name: Shown above.

    Raises:
        ValueError: The model offers nothing.
        ModuleNotFoundError: Gradio is not installed.
    """
    gr, tabs, kind = library(), tabs_of(model), zoo_name(model)
    about = f": {MODELS[kind].line}" if kind in MODELS else ""
    blocks = _checked_blocks(gr)
    with blocks(title=name, analytics_enabled=False, delete_cache=(_KEPT, _KEPT)) as page:
        gr.Markdown(f"# {name}\n{kind}{about}")
        for tab in tabs:
            with gr.Tab(tab.title):
                _lay_out(gr, page, tab)
    page.queue(max_size=_WAITING)
    return page


def _checked_blocks(gr: Any) -> Any:
    """Gradio's page, to which what no page sends is a mistake of the sender, told in a line."""

    class Checked(gr.Blocks):
        async def preprocess_data(self, *given: Any, **options: Any) -> Any:
            try:
                return await super().preprocess_data(*given, **options)
            except gr.Error:
                raise
            except Exception as error:
                said = escape(" ".join(f"{type(error).__name__}: {error}".split())[:200])
                said = f"this is not what the page sends ({said})"
                raise gr.Error(said, print_exception=False) from None

    return Checked


def launch(page: Any, host: str | None = None, port: int | None = None) -> str:
    """Serves a page from another thread; its address.

    Args:
        page: Of `app`.
        host: Address to listen at; that of the environment, or the loopback, if not given.
        port: The first free one from 7860 on if not given.

    Raises:
        OSError: The address is taken, or is none of this machine.
    """
    gr = library()
    local = "127.0.0.1,localhost"  # whatever proxy there is
    os.environ["no_proxy"] = ",".join(filter(None, [os.environ.get("no_proxy"), local]))
    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    _, address, _ = page.launch(
        server_name=host,
        server_port=port,
        prevent_thread_lock=True,
        quiet=True,
        share=False,
        ssr_mode=False,
        enable_monitoring=False,
        max_file_size=_FILE,
        footer_links=["api"],
        theme=gr.themes.Default(primary_hue="teal", **fonts),
        css=_CSS,
    )
    return str(address)


def _lay_out(gr: Any, page: Any, tab: Tab) -> None:
    """One tab: controls beside results; where there is no room above them, or below live ones."""
    if tab.note:
        gr.Markdown(tab.note)
    with gr.Row(elem_classes=[] if tab.button else "live"):
        with gr.Column(scale=2, min_width=300):
            inputs = [_control(gr, control) for control in tab.controls.values()]
            buttons = []
            if tab.button:
                with gr.Row():
                    start = gr.Button(tab.button, variant="primary", min_width=80)
                    buttons = [start, gr.Button("Stop", min_width=80)]
        with gr.Column(scale=3, min_width=300):
            outputs = [_result(gr, result) for result in tab.results]
    name = tab.title.lower().replace(" ", "_")
    one: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "model", "api_name": name}
    one |= {"fn": _handler(gr, tab), "inputs": inputs, "outputs": outputs}
    # What Gradio need not make files or arrays of comes as it was sent, and is checked here alone.
    one["preprocess"] = any(isinstance(each, Upload | Sketch) for each in tab.controls.values())
    if buttons:
        running = buttons[0].click(**one)
        buttons[1].click(None, cancels=running, api_visibility="private")
    else:
        once = [control.change for control in inputs]
        gr.on([page.load, *once], trigger_mode="always_last", show_progress="hidden", **one)


def _control(gr: Any, control: Control) -> Any:
    label = control.label
    match control:
        case Number(value=value, low=low, high=high, step=step):
            if high - low > 100_000 * step:
                # Gradio's own limits would name no field, and end in a traceback on the terminal.
                return gr.Number(value, label=label, precision=0)
            return gr.Slider(low, high, value, step=step, label=label)
        case Choice(options=options):
            return gr.Dropdown(options, value=options[0], label=label)
        case Switch(value=value):
            return gr.Checkbox(value, label=label)
        case Text(value=text, lines=lines):
            return gr.Textbox(text, label=label, lines=lines, max_lines=12)
        case Upload():
            return gr.File(label=label, type="filepath", height=120)
        case Sketch(shape=(_, height, width)):
            return _sketch(gr, label, height, width)
    raise TypeError(control)


def _sketch(gr: Any, label: str, height: int, width: int) -> Any:
    scale = _CANVAS / max(height, width)
    radius = round(max(0.7 * scale, _CANVAS / 24))  # strokes as wide as those of MNIST, or Digits
    size = round(width * scale), round(height * scale)
    return gr.Sketchpad(
        np.zeros((size[1], size[0], 3), np.uint8),
        label=label,
        image_mode="RGB",
        canvas_size=size,
        fixed_canvas=True,
        layers=False,
        transforms=(),
        brush=gr.Brush(default_size=radius, colors=_COLOURS, color_mode="fixed"),
        buttons=[],
    )


def _result(gr: Any, result: Result) -> Any:
    match result.kind:
        case "images":
            return gr.Image(
                label=result.label,
                format="png",
                interactive=False,
                elem_classes="pictures",
                buttons=["download", "fullscreen"],
            )
        case "text":
            return gr.Textbox(label=result.label, lines=result.layout or 1, max_lines=24)
        case "table":
            return gr.Dataframe(
                headers=list(result.layout),
                column_widths=[f"{share}%" for share in result.layout.values()],
                label=result.label,
                interactive=False,
                wrap=True,
            )


def _shown(result: Result, value: Any) -> Any:
    """A value as Gradio takes it."""
    if result.kind != "images":
        return value
    points = value.ndim == 2
    value = picture_of_points(value) if points else value.float().cpu()
    across = result.layout or math.ceil(math.sqrt(len(value)))
    wide = _PICTURE if points or len(value) > 1 else _PICTURE // 2
    scale = max(1, round(wide / (across * value.shape[-1])))
    return np.asarray(grid_of(value, columns=across, scale=scale))


def _handler(gr: Any, tab: Tab) -> Callable[..., Iterator[Any]]:
    """What Gradio calls: pictures at a rate that can be seen, and a mistake as one message."""

    def run(*values: Any) -> Iterator[Any]:
        shown, left = 0.0, None
        try:
            given = dict(zip(tab.controls, map(_given, values), strict=True))
            for left in tab(**given):
                if time.monotonic() - shown > _FRAME:
                    yield drawn(left)
                    shown, left = time.monotonic(), None
            if left is not None:
                yield drawn(left)
        except Exception as error:
            raise gr.Error(escape(_told(error)), print_exception=False) from None

    def drawn(found: tuple[Any, ...]) -> Any:
        parts = [_shown(r, value) for r, value in zip(tab.results, found, strict=True)]
        return parts if len(parts) > 1 else parts[0]

    return run


def _given(value: Any) -> Any:
    """A value of Gradio's as a control takes it."""
    return value["composite"] if isinstance(value, dict) and "composite" in value else value


def _told(error: Exception) -> str:
    """A line for the page; what may be a bug is told to the terminal."""
    if is_out_of_memory(error):
        return f"not enough memory: {asked_for(error)}: ask for fewer or shorter ones"
    if isinstance(error, ValueError | OSError):
        return " ".join(str(error).split())[:500]
    traceback.print_exception(error)
    return f"{type(error).__name__}, of which the terminal says more"
