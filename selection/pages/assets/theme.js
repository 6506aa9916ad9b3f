// Colours that people with any colour vision tell apart (Okabe and Ito; cividis for numbers), light and dark.

const CATEGORIES = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442"];
const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "cross", "x", "star-triangle-down", "hexagon"];
const OTHERS = { color: "#8a93a3", symbol: "circle-open" };
const SCALE = "Cividis";

// Where there are more categories than colours, shapes tell them apart; the rarest beyond those are drawn alike.
const TOLD_APART = CATEGORIES.length * SYMBOLS.length;
const markOf = (place) =>
  place >= TOLD_APART
    ? OTHERS
    : { color: CATEGORIES[place % CATEGORIES.length], symbol: SYMBOLS[Math.floor(place / CATEGORIES.length)] };

const ink = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  const button = document.getElementById("theme");
  button.textContent = theme === "dark" ? "Light" : "Dark";
  button.setAttribute("aria-pressed", String(theme === "dark"));
}
