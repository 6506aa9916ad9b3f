// Plotly in the page's own colours.

const SETTINGS = { displaylogo: false, responsive: true, modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"] };

const axis = (title, more = {}) => ({
  title: { text: title, standoff: 8 },
  gridcolor: ink("line"),
  linecolor: ink("line"),
  zeroline: false,
  automargin: true,
  ...more,
});

function draw(place, traces, layout, settings = {}) {
  const common = {
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: ink("ink"), size: 12 },
    hoverlabel: { bgcolor: ink("panel"), bordercolor: ink("line"), font: { color: ink("ink") } },
    margin: { l: 10, r: 10, t: 10, b: 10 },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: ink("soft"), activecolor: ink("accent") },
  };
  return Plotly.react(place, traces, { ...common, ...layout }, { ...SETTINGS, ...settings });
}
