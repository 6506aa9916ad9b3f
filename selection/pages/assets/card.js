// The card of a task: facts, recommendation, nearest tasks, trials, and what the embedding sees.

const cardPlace = document.getElementById("card");
const opener = (name) =>
  numberOf.has(name) ? element("button", { type: "button", onclick: () => select(numberOf.get(name), true) }, name) : name;

function factsOf(task) {
  const best = bestOf(task), linear = linearOf(task), gain = gainOf(task);
  const classes = task.classes.slice(0, 40).join(", ") + (task.classes.length > 40 ? ", …" : "");
  const rows = [
    ["Source", task.source || "the target"],
    ["Groups", task.tags.join(", ") || "none"],
    ["Classes", classes ? `${whole(task.num_classes)}: ${classes}` : whole(task.num_classes)],
    ["Images embedded", whole(task.num_images)],
    ["Probe's classifier", percent(task.accuracy)],
  ];
  if (best) rows.push(["Best trial", `${best.config}: ${percent(best.score)} on test images`]);
  if (linear) rows.push(["Linear probe", `${percent(linear.score)} ${linear.how}`]);
  if (gain !== null) rows.push(["Gain of tuning", `${inPoints(gain)}, for the best of ${resultsOf(task).length} that were tried`]);
  return element("dl", {}, ...rows.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]));
}

function picturesOf(task) {
  if (!task.pictures.length) return null;
  const items = task.pictures.map(([label, url]) =>
    element("li", {}, element("img", { src: url, alt: `An image of ${label}`, title: label, loading: "lazy" })),
  );
  return element("ul", { id: "pictures", "aria-label": `Some of the images of ${task.name}` }, ...items);
}

function adviceOf(task) {
  const advice = task.advice;
  if (!advice) {
    const told = "No recommendation was computed for it here; task2vec recommend computes one.";
    return element("p", { class: "note" }, told);
  }
  const without = task.number === data.target ? "" : " It was computed as if this task and all others of its source were unknown.";
  const between = (c) => (c.interval ? `${Math.round(100 * c.interval[0])} to ${Math.round(100 * c.interval[1])}%` : MISSING);
  const ranking = advice.ranking.map((c) => [c.config, percent(c.predicted), between(c), whole(c.parameters), inSeconds(c.seconds)]);
  const evidence = advice.evidence.map((e) => [opener(e.task), e.distance.toFixed(3), percent(e.score), e.best, percent(e.best_score)]);
  return element(
    "div",
    { id: "advice" },
    element("h3", {}, `Recommended for ${advice.backbone}`),
    element("p", {}, advice.explanation),
    ...depthsOf(advice.depths),
    ...blocksOf(advice.fisher),
    element("p", { class: "note" }, `The ${ranking.length} best expected of ${advice.candidates} configurations.${without}`),
    element("div", { class: "scroll" }, table("Expected", ["configuration", "accuracy", "80% between", "parameters", "training"], ranking)),
    element("div", { class: "scroll" }, table("Because of", ["task", "distance", "recommended, there", "best there", "accuracy"], evidence, [3])),
  );
}

const DEPTHS = ["first third", "middle third", "last third", "all together"];

// Accuracies of classifiers on the backbone's features before anything is tuned.
function depthsOf(depths) {
  if (!depths) return [];
  const rows = DEPTHS.map((name, i) => [i < 3 ? name : "three thirds together", percent(depths.averaged[i] ?? null), percent(depths.in_place[i])]);
  const shown = table("What features of the backbone tell apart", ["features after the", "averaged over the image", "part by part"], rows);
  return [
    element("div", { id: "by-depth", class: "trials", role: "img", "aria-label": "What features of each third of the backbone tell apart; the table below has the numbers" }),
    element("details", {}, element("summary", {}, "The same as a table"), element("div", { class: "scroll" }, shown)),
  ];
}

function drawDepths(depths) {
  const bars = (name, values, place) => ({
    type: "bar", name, x: DEPTHS.slice(0, values.length), y: values, marker: { color: markOf(place).color },
    hovertemplate: "%{x}: %{y:.1%}<extra></extra>",
  });
  draw("by-depth", [bars("averaged over the image", depths.averaged, 0), bars("part by part of the image", depths.in_place, 1)], {
    barmode: "group", shapes: [level(depths.final)], annotations: [said("final features", depths.final)], xaxis: axis("features of the backbone"), yaxis: axis("told apart", { tickformat: ".0%" }),
    legend: { orientation: "h", y: 1.02, yanchor: "bottom" }, showlegend: true,
  }, { displayModeBar: false });
}

// Where the backbone's Fisher on the task lies, and where it lies on other tasks.
function blocksOf(fisher) {
  if (!fisher) return [];
  const rows = fisher.blocks.map((block, i) => [block, percent(fisher.shares[i]), percent(fisher.usual?.[i] ?? null)]);
  const shown = table("Share of the backbone's Fisher", ["block", "on these images", "usually"], rows);
  return [
    element("div", { id: "by-block", class: "trials", role: "img", "aria-label": "Share of the backbone's Fisher in each of its blocks; the table below has the numbers" }),
    element("details", {}, element("summary", {}, "The same as a table"), element("div", { class: "scroll" }, shown)),
  ];
}

function drawBlocks(fisher) {
  const places = fisher.blocks.map((_, i) => i), names = fisher.blocks.map(escaped);
  const own = {
    type: "bar", name: "on these images", x: places, y: fisher.shares, text: names, textposition: "none",
    marker: { color: markOf(0).color }, hovertemplate: "%{text}: %{y:.1%}<extra></extra>",
  };
  const usual = fisher.usual && {
    type: "scatter", mode: "markers", name: "usually", x: places, y: fisher.usual, text: names,
    marker: { ...markOf(1), size: 9 }, hovertemplate: "%{text}, usually: %{y:.1%}<extra></extra>",
  };
  const ticks = places.length > 40 ? {} : { tickvals: places, ticktext: fisher.blocks.map((b) => escaped(short(b, 18))), tickangle: -60, tickfont: { size: 10 } };
  draw("by-block", usual ? [own, usual] : [own], {
    xaxis: axis("", ticks), yaxis: axis("share of the backbone's Fisher", { tickformat: ".0%" }),
    legend: { orientation: "h", y: 1.02, yanchor: "bottom" }, showlegend: true,
  }, { displayModeBar: false });
}

function nearestOf(task) {
  if (!task.nearest.length) return element("p", { class: "note" }, "Nearest tasks of a store this large are found with task2vec nearest.");
  const items = task.nearest.map(([number, distance]) => {
    const other = tasks[number], best = bestOf(other);
    const there = best ? `, best there ${best.config} with ${percent(best.score)}` : "";
    return element("li", {}, opener(other.name), ` at ${distance.toFixed(3)}${there}`);
  });
  return element("ol", { id: "nearest" }, ...items);
}

// Nothing trained has no place on a logarithmic axis; it is drawn left of all else, and the axis says 0 there.
function parameterAxis(results) {
  const least = Math.min(...results.map((r) => r.parameters).filter((p) => p > 0));
  const start = Number.isFinite(least) ? Math.floor(Math.log10(least)) : 0;
  const end = Math.ceil(Math.log10(Math.max(10, ...results.map((r) => r.parameters))));
  const powers = Array.from({ length: end - start + 1 }, (_, i) => start + i);
  const zero = 10 ** (start - 0.7);
  const names = powers.map((p) => (p >= 6 ? `${10 ** (p - 6)} M` : p >= 3 ? `${10 ** (p - 3)} k` : `${10 ** p}`));
  const range = [start - 1, end + 0.1];
  return {
    x: (r) => r.parameters || zero,
    axis: axis("trained parameters beside the classifier", {
      type: "log", range, tickvals: [zero, ...powers.map((p) => 10 ** p)], ticktext: ["0", ...names],
    }),
  };
}

function trialTraces(results, x) {
  const methods = [...new Set(results.map((r) => r.method))].sort();
  return methods.map((method, place) => {
    const own = results.filter((r) => r.method === method);
    return {
      type: "scatter", mode: "markers", name: method, x: own.map(x), y: own.map((r) => r.score),
      text: own.map((r) => escaped(`${r.config}: ${percent(r.score)}, ${whole(r.parameters)} parameters, ${inSeconds(r.seconds)}`)),
      hovertemplate: "%{text}<extra></extra>",
      marker: { ...markOf(place), size: 9, line: { color: ink("panel"), width: 1 } },
    };
  });
}

// A dashed line across a chart, and its name at the right end.
const level = (y) => ({ type: "line", xref: "paper", x0: 0, x1: 1, y0: y, y1: y, line: { color: ink("soft"), dash: "dash", width: 1.5 } });
const said = (text, y) => ({
  xref: "paper", x: 1, xanchor: "right", y, yanchor: "bottom", text, showarrow: false, font: { size: 11, color: ink("soft") },
});

function drawTrials(task) {
  const results = resultsOf(task), linear = linearOf(task);
  if (!results.length) return;
  const across = linear === null ? [] : [level(linear.score)];
  const named = linear === null ? [] : [said("linear probe", linear.score)];
  const parameters = parameterAxis(results);
  const vertical = axis("test accuracy", { tickformat: ".0%" });
  const common = { yaxis: vertical, shapes: across, annotations: named, hovermode: "closest" };
  draw("by-parameters", trialTraces(results, parameters.x), { ...common, xaxis: parameters.axis, showlegend: false }, { displayModeBar: false });
  const seconds = axis("seconds of training", { type: "log", dtick: 1 });
  const legend = { orientation: "h", y: -0.35, yanchor: "top", font: { size: 11 } };
  draw("by-seconds", trialTraces(results, (r) => r.seconds), { ...common, xaxis: seconds, legend }, { displayModeBar: false });
}

function trialsOf(task) {
  const results = resultsOf(task).sort((a, b) => b.score - a.score);
  if (!results.length) return [element("p", { class: "note" }, "Nothing was tuned on it with this backbone.")];
  const rows = results.map((r) => [r.config, percent(r.score), whole(r.parameters), inSeconds(r.seconds), whole(r.seeds)]);
  const shown = table(`Trials with ${state.backbone}, means over seeds`, ["configuration", "accuracy", "parameters", "training", "seeds"], rows);
  return [
    element("div", { id: "by-parameters", class: "trials", role: "img", "aria-label": "Accuracy against parameters; the table below has the numbers" }),
    element("div", { id: "by-seconds", class: "trials layers", role: "img", "aria-label": "Accuracy against seconds of training; the table below has the numbers" }),
    element("details", {}, element("summary", {}, "The same as a table"), element("div", { class: "scroll" }, shown)),
  ];
}

function drawLayers(task) {
  const other = state.compared === null ? null : tasks[state.compared];
  const trace = (one, place) => ({
    type: "scatter", mode: "lines+markers", name: escaped(short(one.name)), x: data.layers.map((_, i) => i),
    y: one.fisher.map((v) => (v === null ? null : 10 ** v)), text: data.layers.map(escaped),
    hovertemplate: "%{text}: %{y:.3g}<extra></extra>", marker: { ...markOf(place), size: 8 }, line: { color: markOf(place).color },
  });
  const named = { tickvals: data.layers.map((_, i) => i), ticktext: data.layers.map((l) => escaped(short(l, 18))), tickangle: -60, tickfont: { size: 10 } };
  const crowded = data.layers.length > 40 ? { tickvals: undefined, ticktext: undefined } : {};
  draw("by-layer", [trace(task, 0), ...(other ? [trace(other, 1)] : [])], {
    xaxis: axis("", { ...named, ...crowded }),
    yaxis: axis("mean Fisher of the filters", { type: "log", exponentformat: "power", dtick: 1 }),
    legend: { orientation: "h", y: 1.02, yanchor: "bottom" },
    showlegend: true,
  }, { displayModeBar: false });
  const shown = (v) => (v === null ? MISSING : (10 ** v).toExponential(2));
  const rows = data.layers.map((layer, i) => [layer, ...[task, other].filter((one) => one).map((one) => shown(one.fisher[i]))]);
  const names = [task, other].filter((one) => one).map((one) => one.name);
  document.getElementById("layers-table").replaceChildren(table("Mean Fisher of the filters", ["layer", ...names], rows));
}

function layersOf(task) {
  if (!task.fisher.length || tasks.length < 2) return [];
  const chooser = element("select", { id: "compared", onchange: (event) => {
    state.compared = Number(event.target.value);
    drawLayers(task);
  } });
  for (const other of tasks) {
    if (other !== task) chooser.append(element("option", { value: other.number, selected: other.number === state.compared }, other.name));
  }
  return [
    element("h3", {}, "What the embedding sees"),
    element("label", {}, "Fisher by layer against ", chooser),
    element("div", { id: "by-layer", class: "layers", role: "img", "aria-label": "Mean Fisher of each layer of the probe, for this task and another; the table below has the numbers" }),
    element("details", {}, element("summary", {}, "The same as a table"), element("div", { id: "layers-table", class: "scroll" })),
  ];
}

function showCard(focus) {
  const main = document.querySelector("main");
  const task = state.selected === null ? null : tasks[state.selected];
  main.classList.toggle("with-card", task !== null);
  cardPlace.hidden = task === null;
  if (task === null) return cardPlace.replaceChildren();
  state.compared = task.nearest[0]?.[0] ?? tasks.find((other) => other !== task)?.number ?? null;
  const back = isReport && task.number !== data.target;
  const close = back
    ? element("button", { type: "button", id: "back", onclick: () => select(data.target, true) }, "Back")
    : element("button", { type: "button", id: "close", onclick: () => select(null) }, "Close");
  cardPlace.replaceChildren(
    ...[
      element("div", { class: "title" }, element("h2", {}, task.name), close),
      picturesOf(task),
      factsOf(task),
      adviceOf(task),
      element("h3", {}, `Nearest tasks by ${data.distance}`),
      nearestOf(task),
      ...(task.number === data.target && !task.results.length ? [] : [element("h3", {}, `Trials with ${state.backbone ?? "any backbone"}`), ...trialsOf(task)]),
      ...layersOf(task),
    ].filter((part) => part !== null),
  );
  drawTrials(task);
  if (task.advice?.depths) drawDepths(task.advice.depths);
  if (task.advice?.fisher) drawBlocks(task.advice.fisher);
  if (document.getElementById("by-layer")) drawLayers(task);
  cardPlace.scrollTop = 0;
  if (focus) cardPlace.focus();
}
