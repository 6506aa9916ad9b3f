// The data, what the reader chose, and what follows from both.

const data = JSON.parse(document.getElementById("data").textContent);
const tasks = data.tasks;
tasks.forEach((task, number) => {
  task.number = number;
  task.words = [task.name, task.source, ...task.tags, ...task.classes].join("\n").toLowerCase();
});
// A stored task and the target may have one name; what is called by a name is the stored task.
const numberOf = new Map(tasks.map((task) => [task.name, task.number]).reverse());
const state = { backbone: data.backbones[0] ?? null, colour: "source", selected: null, compared: null };

const resultsOf = (task) => task.results.filter((result) => result.backbone === state.backbone);
const bestOf = (task) => resultsOf(task).reduce((best, r) => (best === null || r.score > best.score ? r : best), null);

// What tuning is compared with: a tuned classifier on the same test images or, where nobody tried it, the linear probe
// that was cross-validated on the task's own images.
function linearOf(task) {
  const tried = resultsOf(task).filter((result) => result.method === "linear");
  if (tried.length) return { score: Math.max(...tried.map((r) => r.score)), how: "on the same test images" };
  const looked = task.probes[state.backbone];
  return looked === undefined ? null : { score: looked, how: "cross-validated on the task's images" };
}

function gainOf(task) {
  const best = bestOf(task), linear = linearOf(task);
  return best === null || linear === null ? null : best.score - linear.score;
}

const COLOURS = {
  source: { label: "source", category: (task) => task.source || "target" },
  group: { label: "group", category: (task) => task.tags.join(", ") || "none" },
  method: { label: "best method", category: (task) => bestOf(task)?.method ?? "no trials" },
  gain: { label: "gain of the best trial over the linear probe", number: gainOf, shown: inPoints, axis: ".0%" },
  accuracy: { label: "accuracy of the best trial", number: (t) => bestOf(t)?.score ?? null, shown: percent, axis: ".0%" },
  probe: { label: "accuracy of the probe's linear classifier", number: (t) => t.accuracy, shown: percent, axis: ".0%" },
  classes: { label: "number of classes", number: (t) => t.num_classes, shown: whole, axis: "d" },
};

const wanted = {
  get query() { return document.getElementById("search").value.trim().toLowerCase(); },
  get source() { return document.getElementById("source").value; },
  get group() { return document.getElementById("group").value; },
  get from() { return Number(document.getElementById("classes-from").value || 0); },
  get to() { return Number(document.getElementById("classes-to").value || Infinity); },
};

// The target stays, whatever is filtered: everything else is looked at because of it.
function visibleTasks() {
  const { query, source, group, from, to } = wanted;
  return tasks.filter(
    (task) =>
      task.number === data.target ||
      ((!query || task.words.includes(query)) &&
        (!source || task.source === source) &&
        (!group || task.tags.includes(group)) &&
        task.num_classes >= from &&
        task.num_classes <= to),
  );
}
