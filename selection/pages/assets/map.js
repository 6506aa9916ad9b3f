// The map: a point for each task, a star for the target, lines to what a card speaks of.

const mapPlace = document.getElementById("map");
const points = data.webgl ? "scattergl" : "scatter";
const ranges = [0, 1].map((d) => {
  let low = Infinity, high = -Infinity;
  for (const { position } of tasks) {
    low = Math.min(low, position[d]);
    high = Math.max(high, position[d]);
  }
  const room = 0.06 * (high - low || 1);
  return [low - room, high + room];
});

const pointsOf = (some, marker, more = {}) => ({
  type: points,
  mode: "markers",
  x: some.map((task) => task.position[0]),
  y: some.map((task) => task.position[1]),
  text: some.map((task) => escaped(`${task.name}: ${valueOf(task)}`)),
  customdata: some.map((task) => task.number),
  hovertemplate: "%{text}<extra></extra>",
  marker,
  ...more,
});

function valueOf(task) {
  const chosen = COLOURS[state.colour];
  if (chosen.category) return chosen.category(task);
  const value = chosen.number(task);
  return value === null ? "not measured" : chosen.shown(value);
}

function tracesByCategory(some, size, outline) {
  const groups = new Map();
  for (const task of tasks) groups.set(COLOURS[state.colour].category(task), []);
  for (const task of tasks) groups.get(COLOURS[state.colour].category(task)).push(task);
  const kept = new Set(some);
  // The order, and so the colours, are those of all tasks: a filter changes no colour.
  const sorted = [...groups].sort((a, b) => b[1].length - a[1].length || (a[0] < b[0] ? -1 : 1));
  const rest = sorted.splice(TOLD_APART);
  const others = rest.flatMap(([, members]) => members.filter((task) => kept.has(task)));
  const below = pointsOf(others, { ...OTHERS, size, line: { width: 1 } }, { name: `${whole(rest.length)} others`, legendrank: 2000 });
  const traces = sorted.map(([name, members], place) =>
    pointsOf(members.filter((task) => kept.has(task)), { ...markOf(place), size, line: outline }, { name: escaped(short(name)) }),
  );
  return [below, ...traces].filter((trace) => trace.x.length);
}

function traceByNumber(some, size, outline) {
  const { number, label, axis: format } = COLOURS[state.colour];
  const known = some.filter((task) => number(task) !== null), rest = some.filter((task) => number(task) === null);
  const bar = {
    title: { text: escaped(label), side: "top" }, tickformat: format, thickness: 12, orientation: "h", len: 0.9, y: -0.02, yanchor: "top",
  };
  const marker = { color: known.map(number), colorscale: SCALE, colorbar: bar, size, line: outline };
  const traces = [pointsOf(known, marker, { showlegend: false })];
  if (rest.length) traces.push(pointsOf(rest, { ...OTHERS, size }, { name: "not measured" }));
  return traces;
}

// What the card speaks of: the evidence of the target's recommendation, the nearest tasks of any other.
function spokenOf(task) {
  const evidence = task.number === data.target && task.advice ? task.advice.evidence.map((e) => e.task) : [];
  const found = evidence.map((name) => numberOf.get(name)).filter((n) => n !== undefined);
  return found.length ? found : task.nearest.slice(0, 5).map(([n]) => n);
}

function linesFrom(task, dash) {
  const x = [], y = [];
  for (const other of spokenOf(task).map((n) => tasks[n])) {
    x.push(task.position[0], other.position[0], null);
    y.push(task.position[1], other.position[1], null);
  }
  const line = { color: ink("mark"), width: 1.5, dash };
  return { type: "scatter", mode: "lines", x, y, line, hoverinfo: "skip", showlegend: false };
}

// The name of a task, on the side of its point where the map is emptiest.
function labelOf(task, some) {
  const perPixel = Math.max(
    (ranges[0][1] - ranges[0][0]) / (mapPlace.clientWidth || 600),
    (ranges[1][1] - ranges[1][0]) / (mapPlace.clientHeight || 400),
  );
  const name = short(task.name, 40);
  const [halfWidth, halfHeight, gap] = [18 + 4 * name.length, 20, 34]; // pixels, half a mark included
  const centreOf = ([right, up]) => [right * (gap + halfWidth), up * gap];
  const hidden = (side) => {
    const [x, y] = centreOf(side).map((pixels, d) => task.position[d] + pixels * perPixel);
    const [wide, high] = [halfWidth * perPixel, halfHeight * perPixel];
    const leaves = x - wide < ranges[0][0] || x + wide > ranges[0][1] || y - high < ranges[1][0] || y + high > ranges[1][1];
    const under = some.filter(({ position }) => Math.abs(position[0] - x) < wide && Math.abs(position[1] - y) < high);
    return leaves ? Infinity : under.length;
  };
  const sides = [[0, 1], [0, -1], [1, 1], [-1, 1], [1, -1], [-1, -1], [1, 0], [-1, 0]];
  const side = sides.reduce((best, other) => (hidden(other) < hidden(best) ? other : best));
  const [ax, ay] = centreOf(side);
  return {
    x: task.position[0], y: task.position[1], ax, ay: -ay, text: escaped(name),
    font: { size: 14 }, bgcolor: ink("page"), opacity: 0.9, borderpad: 2,
    showarrow: true, arrowhead: 0, arrowwidth: 1, arrowcolor: ink("mark"),
  };
}

function drawMap() {
  const some = visibleTasks().filter((task) => task.number !== data.target);
  const size = tasks.length > 20000 ? 4 : tasks.length > 2000 ? 6 : 11;
  const outline = { color: ink("soft"), width: tasks.length > 2000 ? 0 : 1 };
  const traces = COLOURS[state.colour].category
    ? tracesByCategory(some, size, outline)
    : traceByNumber(some, size, outline);
  const target = data.target === null ? null : tasks[data.target];
  const selected = state.selected === null ? null : tasks[state.selected];
  if (target) {
    traces.unshift(linesFrom(target, "solid"));
    const marker = { symbol: "star", size: 20, color: ink("mark"), line: { color: ink("page"), width: 1 } };
    traces.push(pointsOf([target], marker, { type: "scatter", name: escaped(short(target.name)) }));
  }
  if (selected) {
    if (selected !== target) traces.unshift(linesFrom(selected, "dot"));
    const marker = { symbol: "circle-open", size: size + 12, color: ink("mark"), line: { width: 3 } };
    traces.push(pointsOf([selected], marker, { type: "scatter", showlegend: false, hoverinfo: "skip" }));
  }
  const bare = { constrain: "domain", showgrid: false, showticklabels: false, zeroline: false, visible: false };
  const below = { orientation: "h", y: -0.02, yanchor: "top", x: 0, font: { size: 11 } };
  const beside = { x: 1.01, y: 1, font: { size: 11 } };
  const within = { x: 1, xanchor: "right", y: 0, yanchor: "bottom", font: { size: 11 } };
  const legend = COLOURS[state.colour].number ? within : mapPlace.clientWidth < 860 ? below : beside;
  const counted = `Map of ${whole(some.length)} tasks coloured by ${COLOURS[state.colour].label}; the list below has the same as text.`;
  mapPlace.setAttribute("aria-label", counted);
  return draw(mapPlace, traces, {
    xaxis: { ...bare, range: [...ranges[0]] },
    yaxis: { ...bare, range: [...ranges[1]], scaleanchor: "x" },
    annotations: selected ? [labelOf(selected, some)] : [],
    legend,
    hovermode: "closest",
    dragmode: "pan",
    uirevision: "map",
  }, { scrollZoom: true });
}

// The next visible task in the direction of an arrow key, seen from the selected one.
function neighbourTowards(dx, dy) {
  const some = visibleTasks();
  if (state.selected === null) return some[0]?.number ?? null;
  const here = tasks[state.selected].position;
  let best = null, least = Infinity;
  for (const task of some) {
    const along = (task.position[0] - here[0]) * dx + (task.position[1] - here[1]) * dy;
    const across = Math.abs((task.position[0] - here[0]) * dy) + Math.abs((task.position[1] - here[1]) * dx);
    if (along <= 0 || task.number === state.selected) continue;
    const cost = along + 2 * across;
    if (cost < least) [best, least] = [task.number, cost];
  }
  return best;
}
