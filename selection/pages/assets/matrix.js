// The distance matrix in the order of its tree.

const matrixPlace = document.getElementById("matrix");

function drawMatrix() {
  const { order, distances, branches } = data.matrix;
  const shown = order.map((row) => tasks[data.matrix_tasks[row]]);
  const n = shown.length;
  const part = n < tasks.length ? ` A sample of ${whole(n)} of the ${whole(tasks.length)} tasks.` : "";
  const direction = "From row to column; similar tasks stand side by side, as the tree above joins them (average linkage).";
  document.getElementById("matrix-note").textContent = `${data.distance}. ${direction}${part} Click a row for its card.`;
  matrixPlace.setAttribute("aria-label", `Matrix of ${data.distance} distances of ${n} tasks; every card names its nearest tasks with their distances`);
  const named = n <= 90;
  const names = shown.map((task) => escaped(short(task.name)));
  const off = distances.map((row, i) => row.map((d, j) => (i === j ? null : d)));
  const text = distances.map((row, i) => row.map((d, j) => escaped(`${shown[i].name} to ${shown[j].name}: ${d.toFixed(3)}`)));
  const heat = {
    type: "heatmap", z: off, text, hovertemplate: "%{text}<extra></extra>", colorscale: SCALE, reversescale: true,
    colorbar: { title: { text: "distance", side: "right" }, thickness: 14, len: 0.8, y: 0.4 },
  };
  const tree = { type: "scatter", mode: "lines", x: [], y: [], yaxis: "y2", hoverinfo: "skip", showlegend: false, line: { color: ink("soft"), width: 1.2 } };
  for (const [across, heights] of branches) {
    tree.x.push(...across, null);
    tree.y.push(...heights, null);
  }
  const ticks = named ? { tickvals: names.map((_, i) => i), ticktext: names, tickfont: { size: n > 50 ? 9 : 11 } } : { showticklabels: false };
  const side = Math.max(480, Math.min(1100, 14 * n + 260));
  matrixPlace.style.height = `${side}px`;
  matrixPlace.style.minWidth = named ? `${Math.min(side, 14 * n + 220)}px` : "";
  draw(matrixPlace, [heat, tree], {
    xaxis: { ...ticks, tickangle: -90, automargin: true, range: [-0.5, n - 0.5], showgrid: false, zeroline: false, anchor: "y" },
    yaxis: { ...ticks, automargin: true, range: [n - 0.5, -0.5], domain: [0, 0.84], showgrid: false, zeroline: false },
    yaxis2: { domain: [0.86, 1], showgrid: false, showticklabels: false, zeroline: false },
    hovermode: "closest",
  });
}

function openRow(event) {
  const point = event.points.find((p) => p.data.type === "heatmap");
  if (point) select(data.matrix_tasks[data.matrix.order[Math.round(point.y)]], true);
}
