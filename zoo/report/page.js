(async () => {
  const cards = JSON.parse(document.getElementById("data").textContent);
  const packed = Uint8Array.from(atob(document.getElementById("plotly").textContent), (c) => c.charCodeAt(0));
  const unpacked = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const script = document.createElement("script");
  script.textContent = await new Response(unpacked).text();
  document.head.append(script);

  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  const dark = matchMedia("(prefers-color-scheme: dark)");
  // "@2" is the third ink, "@text" the colour of text, "@scale" dark to light, or light to dark.
  const inked = (value) => {
    if (typeof value === "string" && value[0] === "@") {
      if (value === "@scale") return "Cividis";
      if (value === "@grid") return css("line");
      return css(/^@\d+$/.test(value) ? `ink-${value.slice(1) % 7}` : value.slice(1));
    }
    if (Array.isArray(value)) return value.some((v) => typeof v === "object" || typeof v === "string") ? value.map(inked) : value;
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, inked(inner)]));
  };
  const axis = () => ({
    gridcolor: css("line"), linecolor: css("line"), zerolinecolor: css("line"), tickcolor: css("line"),
    automargin: true, title: { font: { size: 12, color: css("muted") } },
  });
  const layout = (own) => {
    const base = {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", height: 270, uirevision: "kept",
      font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: css("text") },
      margin: { l: 46, r: 10, t: 8, b: 40 }, showlegend: true,
      // beside the legend, not over it
      modebar: { orientation: "v", bgcolor: "rgba(0,0,0,0)", color: css("muted"), activecolor: css("text") },
      legend: { orientation: "h", x: 0, y: 1.02, xanchor: "left", yanchor: "bottom", bgcolor: "rgba(0,0,0,0)", itemsizing: "constant" },
      hoverlabel: { bgcolor: css("card"), bordercolor: css("line"), font: { color: css("text") } },
    };
    for (const name of ["xaxis", "yaxis", ...Object.keys(own).filter((key) => /axis\d$/.test(key))]) {
      const given = own[name] || {};
      base[name] = { ...axis(), ...given, title: { ...axis().title, ...given.title } };
    }
    return { ...base, ...Object.fromEntries(Object.entries(own).filter(([key]) => !(key in base && key.includes("axis")))) };
  };
  const options = {
    responsive: true, displaylogo: false,
    showSendToCloud: false, plotlyServerURL: "", // by default charts have a button that uploads them
    modeBarButtonsToRemove: ["lasso2d", "select2d", "autoScale2d"],
  };

  for (const card of document.querySelectorAll("[data-card]")) {
    const steps = cards[card.dataset.card];
    const [chart, image, table, slider] = [".chart", "img", ".texts table", "input[type=range]"].map((what) => card.querySelector(what));
    let at = steps.length - 1;
    const show = () => {
      if (image) {
        image.src = steps[at].image;
        return;
      }
      if (table) {
        table.replaceChildren(...steps[at].table.map((cells, i) => {
          const row = document.createElement("tr");
          row.append(...cells.map((text) => {
            const cell = document.createElement(i ? "td" : "th");
            cell.textContent = text;
            return cell;
          }));
          return row;
        }));
        return;
      }
      const shown = layout(inked(steps[at].layout));
      if (shown.square) shown.height = Math.min(560, chart.clientWidth * 0.9);
      delete shown.square;
      if (card.querySelector(".log:checked")) shown.yaxis.type = "log";
      Plotly.react(chart, inked(steps[at].data), shown, options);
    };
    show();
    dark.addEventListener("change", show);
    card.querySelector(".log")?.addEventListener("change", show);
    if (!slider) continue;
    const names = slider.dataset.steps.split(",");
    const go = (to) => {
      at = slider.value = to;
      at = Number(at);
      card.querySelector("output").textContent = names[at];
      show();
    };
    slider.addEventListener("input", () => go(slider.value));
    let playing = null;
    const button = card.querySelector(".steps button"); // the chart has some of its own
    const stop = () => {
      clearInterval(playing);
      playing = null;
      button.textContent = "▶";
    };
    button.addEventListener("click", () => {
      if (playing) return stop();
      button.textContent = "❚❚";
      go(0);
      playing = setInterval(() => (at + 1 < steps.length ? go(at + 1) : stop()), Math.min(700, Math.max(150, 4000 / steps.length)));
    });
    slider.addEventListener("pointerdown", () => playing && stop());
  }
  document.documentElement.dataset.ready = "true";
})();
