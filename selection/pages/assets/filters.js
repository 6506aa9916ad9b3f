// The list of the tasks that are searched for, which says in words what the map shows.

const ROWS = 200;
const CHOICES = 500;
const listPlace = document.getElementById("list");

function options(id, entries) {
  document.getElementById(id).replaceChildren(...entries.map(([value, name]) => element("option", { value }, name)));
}

function fillChoices() {
  // A list of thousands is no choice: of so many the most frequent are offered, and the search finds the others.
  const sorted = (values) => {
    const counts = new Map();
    for (const value of values) if (value) counts.set(value, (counts.get(value) ?? 0) + 1);
    const frequent = [...counts].sort((a, b) => b[1] - a[1]).slice(0, CHOICES);
    return frequent.map(([value]) => value).sort().map((v) => [v, v]);
  };
  options("colour", Object.entries(COLOURS).map(([name, { label }]) => [name, label]));
  options("backbone", data.backbones.map((name) => [name, name]));
  options("source", [["", "all"], ...sorted(tasks.map((task) => task.source))]);
  options("group", [["", "all"], ...sorted(tasks.flatMap((task) => task.tags))]);
  document.getElementById("backbone").parentElement.hidden = data.backbones.length < 1;
}

function showList() {
  const some = visibleTasks();
  const stored = some.filter((task) => task.number !== data.target);
  const total = tasks.length - (data.target === null ? 0 : 1);
  document.getElementById("count").textContent = `${whole(stored.length)} of ${whole(total)} tasks`;
  const rows = some.slice(0, ROWS).map((task) => {
    const best = bestOf(task);
    return [
      opener(task.name), task.source || "the target", task.tags.join(", "), whole(task.num_classes), percent(task.accuracy),
      best?.method ?? MISSING, percent(best?.score), inPoints(gainOf(task)),
    ];
  });
  const columns = ["task", "source", "groups", "classes", "probe's classifier", "best method", "accuracy", "gain over linear probe"];
  const caption = some.length > ROWS ? `The first ${ROWS}; search for others.` : "";
  const made = table(caption, columns, rows, [1, 2, 5]);
  some.slice(0, ROWS).forEach((task, i) => made.tBodies[0].rows[i].classList.toggle("chosen", task.number === state.selected));
  listPlace.replaceChildren(made);
}
