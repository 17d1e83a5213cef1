// Lets a person pick the right label of each picture, by keys or by touch, and saves the answers as a file.
//
// Labels and names of files are anyone's text: they reach the page through textContent alone.

const $ = (id) => document.getElementById(id);
const queue = JSON.parse($("queue").textContent);
const KEYS = "1234567890";
const MAX_BUTTONS = KEYS.length;
const MAX_FOUND = 30;
const UNSURE = null; // an answer, too: nobody can tell

let place = 0;
let answers = {}; // by place
let shownLabels = [];

// What was answered stays in this browser when the page is closed, if it keeps anything.
const stored = `imgcls-review-${queue.id}`;
try {
  answers = JSON.parse(localStorage.getItem(stored) || "{}");
} catch {
  answers = {};
}

const isAnswered = (number) => Object.hasOwn(answers, number);

function keep() {
  try {
    localStorage.setItem(stored, JSON.stringify(answers));
  } catch {
    // A private window keeps nothing; the answers are in the page until it is closed.
  }
}

/** The labels with a button: the model's first, then those that were picked lately, then the others. */
function labelsOf(item) {
  const lately = Object.values(answers).filter((label) => label !== UNSURE).reverse();
  const all = [...item.labels, ...(queue.classes.length > MAX_BUTTONS ? lately : []), ...queue.classes];
  const known = new Set(queue.classes);
  return [...new Set(all)].filter((label) => known.has(label)).slice(0, MAX_BUTTONS);
}

function show() {
  const item = queue.items[place];
  $("picture").src = `data:image/jpeg;base64,${item.jpeg}`;
  $("name").textContent = item.uri;
  const sure = item.confidence === null ? "" : ` (${item.confidence.toFixed(3)})`;
  const alike = item.num_alike ? ` · ${item.num_alike} more look nearly the same` : "";
  $("says").textContent = `The model says ${item.label}${sure} · in the queue because it is ${item.why}${alike}`;
  shownLabels = labelsOf(item);
  $("labels").replaceChildren(
    ...shownLabels.map((label, number) => choice(label, label === item.label ? `${KEYS[number]} ↵` : KEYS[number])),
  );
  $("unsure").setAttribute("aria-pressed", isAnswered(place) && answers[place] === UNSURE);
  $("find").hidden = queue.classes.length <= MAX_BUTTONS;
  $("search").value = "";
  find();
  tell();
}

function choice(label, key) {
  const button = document.createElement("button");
  button.type = "button";
  if (key) {
    const hint = document.createElement("kbd");
    hint.textContent = key;
    button.append(hint, " ");
  }
  button.append(label);
  button.setAttribute("aria-pressed", isAnswered(place) && answers[place] === label);
  button.addEventListener("click", () => answer(label));
  return button;
}

function tell() {
  const number = Object.keys(answers).length;
  $("count").textContent = `${place + 1} of ${queue.items.length} · ${number} answered`;
  $("bar").style.width = `${(100 * number) / queue.items.length}%`;
  for (const id of ["json", "csv"]) $(id).disabled = number === 0;
}

function find() {
  const words = $("search").value.trim().toLowerCase();
  const found = words ? queue.classes.filter((label) => label.toLowerCase().includes(words)).slice(0, MAX_FOUND) : [];
  $("found").replaceChildren(...found.map((label) => choice(label, "")));
}

function answer(label) {
  answers[place] = label;
  keep();
  move(1);
}

function move(step) {
  place = Math.min(queue.items.length - 1, Math.max(0, place + step));
  show();
}

function withdraw() {
  delete answers[place];
  keep();
  show();
}

/** To the next picture without an answer, if there is one. */
function skip() {
  const open = queue.items.map((_, number) => number).filter((number) => !isAnswered(number));
  place = open.find((number) => number > place) ?? open[0] ?? place;
  show();
}

function rows() {
  return queue.items
    .map((item, number) => ({ item, label: answers[number], number }))
    .filter(({ number }) => isAnswered(number))
    .map(({ item, label }) => ({
      uri: item.uri,
      etag: item.etag,
      label,
      predicted: item.label,
      confidence: item.confidence,
    }));
}

function save(name, type, text) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

function saveJson() {
  const about = { format: "imgcls-answers", version: 1, store: queue.store, model: queue.model };
  const content = { ...about, fingerprint: queue.fingerprint, answers: rows() };
  save("answers.json", "application/json", `${JSON.stringify(content, null, 1)}\n`);
}

function saveCsv() {
  const cell = (value) => `"${String(value ?? "").replaceAll('"', '""')}"`;
  const names = ["uri", "etag", "label", "predicted", "confidence"];
  const lines = [names, ...rows().map((row) => names.map((name) => row[name]))];
  save("answers.csv", "text/csv", lines.map((line) => `${line.map(cell).join(",")}\r\n`).join(""));
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target === $("search")) {
    const [first] = $("found").children;
    if (event.key === "Enter" && first) first.click();
    if (event.key === "Escape") $("search").blur();
    return;
  }
  // A button that was reached by Tab is pressed by Enter. A key that is held down would answer pictures unseen.
  if (event.key === "Enter" && event.target.closest("button")) return;
  if (event.repeat && !event.key.startsWith("Arrow")) return;
  const number = KEYS.indexOf(event.key);
  if (number >= 0 && number < shownLabels.length) answer(shownLabels[number]);
  else if (event.key === "Enter" && shownLabels.includes(queue.items[place].label)) answer(queue.items[place].label);
  else if (event.key === "u") answer(UNSURE);
  else if (event.key === "ArrowRight") move(1);
  else if (event.key === "ArrowLeft") move(-1);
  else if (event.key === "Backspace") withdraw();
  else if (event.key === "n") skip();
  else if (event.key === "/" && !$("find").hidden) $("search").focus();
  else return;
  event.preventDefault();
});

// After a click Enter answers again; clicks by keys have no detail.
document.addEventListener("click", (event) => {
  if (event.detail) event.target.closest("button")?.blur();
});
$("search").addEventListener("input", find);
$("unsure").addEventListener("click", () => answer(UNSURE));
$("back").addEventListener("click", () => move(-1));
$("next").addEventListener("click", () => move(1));
$("json").addEventListener("click", saveJson);
$("csv").addEventListener("click", saveCsv);
if (queue.items.length) show();
