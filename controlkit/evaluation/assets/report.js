"use strict";
(function () {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const narrow = window.matchMedia("(max-width: 760px)").matches;
  const config = { responsive: true, displaylogo: false, modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]] };
  for (const [id, figure] of Object.entries(figures)) {
    const place = document.getElementById(id);
    if (!place) continue;
    if (narrow) {
      figure.layout.font.size = 11;
      figure.layout.margin.l = 40;
      config.displayModeBar = false;
    }
    Plotly.newPlot(place, figure.data, figure.layout, config);
  }
  for (const chooser of document.querySelectorAll("select[data-plot]")) {
    chooser.addEventListener("change", function () {
      const place = document.getElementById(chooser.dataset.plot);
      Plotly.restyle(place, { visible: place.data.map((trace) => trace.meta === chooser.value) });
    });
  }
  document.documentElement.dataset.drawn = String(document.querySelectorAll(".js-plotly-plot").length);
})();
