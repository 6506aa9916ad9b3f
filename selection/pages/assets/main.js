// What the reader does, and what is drawn again.

const isReport = document.documentElement.dataset.kind === "report";

function select(number, focus = false) {
  state.selected = number;
  showCard(focus);
  if (isReport) return;
  showList();
  drawMap();
  history.replaceState(null, "", number === null ? "#" : `#${encodeURIComponent(tasks[number].name)}`);
}

function redraw() {
  showCard(false);
  if (isReport) return;
  showList();
  drawMap();
}

const MAPS = {
  mds: "A plane cannot hold all distances; this map (MDS) keeps them as well as it can.",
  tsne: "This map (t-SNE) keeps neighbours together; how far apart others lie says little.",
};

function describe() {
  const stored = tasks.length - (data.target === null ? 0 : 1);
  const out = data.left_out ? ` ${whole(data.left_out)} more were embedded by another probe or estimator and are not shown.` : "";
  document.getElementById("about").textContent =
    `${whole(stored)} stored tasks, embedded by ${data.probe} (${data.method}), compared by ${data.distance}.${out}`;
  const { by, trustworthiness, neighbours, stress, measured_on: on } = data.layout;
  const sample = on < tasks.length ? ` Measured on a sample of ${whole(on)}.` : "";
  document.getElementById("faithful").textContent =
    stress === null
      ? "With so few tasks the map says little; read the distances."
      : `${MAPS[by]} Trustworthiness ${trustworthiness.toFixed(2)} (1: the ${neighbours} nearest on the map are ` +
        `nearest in truth), stress ${stress.toFixed(2)} (0: all distances are true to scale).${sample} Cards and matrix tell the true distances.`;
}

function listen() {
  let waiting = null;
  const soon = () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => { showList(); drawMap(); }, tasks.length > 5000 ? 250 : 50);
  };
  const form = document.getElementById("controls");
  form.addEventListener("submit", (event) => event.preventDefault());
  document.getElementById("search").addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return;
    const first = visibleTasks().find((task) => task.number !== data.target);
    if (first && wanted.query) select(first.number, true);
  });
  form.addEventListener("reset", () => setTimeout(() => {
    state.colour = "source";
    state.backbone = data.backbones[0] ?? null;
    redraw();
  }));
  for (const id of ["search", "source", "group", "classes-from", "classes-to"]) document.getElementById(id).addEventListener("input", soon);
  document.getElementById("colour").addEventListener("input", (event) => { state.colour = event.target.value; drawMap(); });
  document.getElementById("backbone").addEventListener("input", (event) => { state.backbone = event.target.value; redraw(); });
  mapPlace.on("plotly_click", (event) => {
    const number = event.points.map((point) => point.customdata).find((n) => n !== undefined);
    if (number !== undefined) select(number);
  });
  matrixPlace.on("plotly_click", openRow);
  const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
  mapPlace.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && state.selected !== null) return cardPlace.focus();
    if (!(event.key in arrows)) return;
    event.preventDefault();
    const next = neighbourTowards(...arrows[event.key]);
    if (next !== null) select(next);
  });
  document.addEventListener("keydown", (event) => {
    const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement.tagName);
    if (event.key === "/" && !typing) {
      event.preventDefault();
      document.getElementById("search").focus();
    }
    if (event.key === "Escape" && !typing && state.selected !== null) {
      select(null);
      mapPlace.focus();
    }
  });
  // A card that opens takes room from the map; where the legend goes depends on what is left.
  let width = mapPlace.clientWidth;
  new ResizeObserver(() => {
    if (mapPlace.clientWidth === width) return;
    width = mapPlace.clientWidth;
    Plotly.Plots.resize(mapPlace);
    drawMap();
  }).observe(mapPlace);
}

function start() {
  setTheme(matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  document.getElementById("theme").addEventListener("click", () => {
    setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark");
    redraw();
    if (!isReport) drawMatrix();
  });
  describe();
  if (isReport) return select(data.target);
  fillChoices();
  showList();
  drawMap();
  drawMatrix();
  listen();
  const asked = decodeURIComponent(location.hash.slice(1));
  if (numberOf.has(asked)) select(numberOf.get(asked));
  else if (data.target !== null) select(data.target);
}

start();
