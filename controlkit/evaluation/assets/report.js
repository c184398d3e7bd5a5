"use strict";
(function () {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const narrow = window.matchMedia("(max-width: 760px)").matches;
  const config = { responsive: true, displaylogo: false, modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]] };
  const wrapped = function (label) {
    const lines = [""];
    const width = Math.max(16, Math.ceil(label.length / 3));
    for (const word of label.split(" ")) {
      if (lines.at(-1) && lines.at(-1).length + word.length >= width) lines.push("");
      lines.push((lines.pop() + " " + word).trim());
    }
    return lines.join("<br>");
  };
  for (const [id, figure] of Object.entries(figures)) {
    const place = document.getElementById(id);
    if (!place) continue;
    if (narrow) {
      figure.layout.font.size = 11;
      figure.layout.margin.l = 40;
      config.displayModeBar = false;
      if (figure.layout.yaxis?.type === "category") {
        figure.layout.yaxis.tickfont = { size: 10 };
        for (const trace of figure.data) trace.y = trace.y.map(wrapped);
      }
    }
    Plotly.newPlot(place, figure.data, figure.layout, config);
  }
  for (const chooser of document.querySelectorAll("select[data-plot]")) {
    chooser.addEventListener("change", function () {
      const place = document.getElementById(chooser.dataset.plot);
      Plotly.restyle(place, { visible: place.data.map((trace) => trace.meta === chooser.value) });
    });
  }
  // On paper plots are as wide as the page, and tables that are folded away on the screen lie open.
  const plots = () => document.querySelectorAll(".js-plotly-plot");
  const folded = () => document.querySelectorAll("details:not(:has(pre))");
  window.addEventListener("beforeprint", function () {
    for (const each of folded()) {
      each.dataset.was = String(each.open);
      each.open = true;
    }
    for (const place of plots()) Plotly.relayout(place, { width: 660, autosize: false });
  });
  window.addEventListener("afterprint", function () {
    for (const each of folded()) each.open = each.dataset.was === "true";
    for (const place of plots()) Plotly.relayout(place, { width: null, autosize: true });
  });
  document.documentElement.dataset.drawn = String(document.querySelectorAll(".js-plotly-plot").length);
})();
