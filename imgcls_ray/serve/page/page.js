// Labels pictures with the service that this page came from.
//
// Names of files and labels are anyone's text: they reach the page through textContent alone. Each picture is a request
// of its own, so that a bad one costs one card and every answer shows as soon as it is there.

const MAX_IN_FLIGHT = 4; // leaves connections of the browser's six per host for the page itself
const MAX_RETRIES = 5;
const MAX_PAUSE_S = 60;
const MAX_NEWS = 20;
const KEY = "imgcls-api-key";

const $ = (id) => document.getElementById(id);
const percent = new Intl.NumberFormat("en", {
  style: "percent",
  minimumFractionDigits: 1,
  maximumFractionDigits: 1,
});

const jobs = new Set(); // one for each card
let queue = [];
let inFlight = 0;
let isLocked = false; // until someone gives a key, nothing is sent
let fingerprint = "";
let everything = new AbortController(); // what "Clear" ends

/** What went wrong with one picture, by its code and in words. */
class Refused extends Error {
  constructor(code, message, mayRetry) {
    super(message);
    this.code = code;
    this.mayRetry = mayRetry;
  }
}

/** The service wants a key, or another one. */
class Locked extends Error {}

// Requests

/** Ask the service; says what to do about every answer that is none. */
async function ask(path, options, onPause) {
  for (let retry = 1; ; retry++) {
    const key = sessionStorage.getItem(KEY);
    const headers = { ...options.headers, ...(key && { authorization: `Bearer ${key}` }) };
    const start = performance.now();
    let response, text;
    try {
      response = await fetch(path, { ...options, headers });
      text = await response.text();
    } catch (error) {
      if (options.signal?.aborted) throw error;
      throw new Refused("no_connection", "the service cannot be reached", true);
    }
    const ms = performance.now() - start;
    const answer = parse(text);
    if (response.ok && answer) return { answer, ms };
    if (response.status === 401) {
      // Requests overlap: what was refused may be a key that has been replaced in the meantime.
      if (key === sessionStorage.getItem(KEY)) lock(key);
      throw new Locked();
    }
    if (response.status !== 503 || retry > MAX_RETRIES) {
      // Without the service's own words it was something between here and there, a proxy for one.
      const { code, message } = answer?.error ?? {};
      throw new Refused(
        code ?? `http_${response.status}`,
        message ?? "the answer is not the service's",
        response.status >= 500,
      );
    }
    const seconds = Math.min(Number(response.headers.get("retry-after")) || 1, MAX_PAUSE_S);
    onPause?.(seconds, retry);
    await pause(seconds, options.signal);
  }
}

function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

function pause(seconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, 1000 * seconds);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    });
  });
}

// The model

async function showModel() {
  try {
    const { answer } = await ask("v1/model", {}, () => {
      $("model-facts").textContent = "The model is not loaded yet …";
    });
    fingerprint = answer.fingerprint;
    document.title = `${answer.name} – imgcls`;
    $("model-name").textContent = answer.name;
    const code = Object.assign(document.createElement("code"), {
      textContent: fingerprint.slice(0, 12),
      title: `Fingerprint ${fingerprint}`,
    });
    const count = answer.class_names.length;
    $("model-facts").replaceChildren(`${count} ${count === 1 ? "class" : "classes"} · `, code);
  } catch (error) {
    $("model-facts").textContent = error instanceof Locked ? "An API key is needed." : error.message;
  }
}

// The key

function lock(refusedKey) {
  isLocked = true;
  const wasHidden = $("key-form").hidden;
  $("key-form").hidden = false;
  $("key-help").textContent = refusedKey
    ? "The service does not know this key."
    : "The service asks for a key. It is kept until this tab is closed.";
  // Whoever is typing already is not interrupted.
  if (wasHidden) $("key").focus();
}

$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(KEY, $("key").value.trim());
  $("key").value = "";
  $("key-form").hidden = true;
  isLocked = false;
  showModel();
  sendNext();
});

// Pictures

function add(files) {
  const added = Array.from(files, makeJob);
  $("cards").prepend(...added.map((job) => job.card));
  for (const job of added) {
    jobs.add(job);
    enqueue(job);
  }
}

function makeJob(file) {
  const card = $("card").content.firstElementChild.cloneNode(true);
  const job = { file, card, url: URL.createObjectURL(file), predictions: null, numAsked: 0 };
  const image = card.querySelector("img");
  image.addEventListener("load", () => release(job));
  image.addEventListener("error", () => {
    release(job);
    // TIFF and others: the service reads what this browser does not.
    const kind = /\.([a-z0-9]{1,5})$/i.exec(file.name)?.[1] ?? "file";
    image.replaceWith(Object.assign(document.createElement("span"), { className: "kind", textContent: kind }));
  });
  image.src = job.url;
  find(job, ".name").textContent = file.name;
  find(job, ".name").title = file.name;
  find(job, ".retry").addEventListener("click", () => enqueue(job));
  return job;
}

/** An address keeps its file in memory for as long as it is there. */
function release(job) {
  URL.revokeObjectURL(job.url);
}

function enqueue(job) {
  job.predictions = null;
  show(job, "waiting", "Queued");
  queue.push(job);
  sendNext();
}

function sendNext() {
  while (!isLocked && inFlight < MAX_IN_FLIGHT && queue.length) {
    inFlight++;
    label(queue.shift(), everything.signal).finally(() => {
      inFlight--;
      sendNext();
    });
  }
  tellProgress();
}

async function label(job, signal) {
  show(job, "waiting", "Labelling …");
  job.numAsked = topK();
  try {
    // Before anything is sent: a file that has gone since it was chosen looks like a lost connection to fetch().
    const body = await job.file.arrayBuffer().catch(() => {
      throw new Refused("unreadable", "the browser cannot read this file", true);
    });
    // The service looks at the bytes. By the type alone it would take a .json file for a request in JSON.
    const type = job.file.type.startsWith("image/") ? job.file.type : "application/octet-stream";
    const { answer, ms } = await ask(
      `v1/classify?top_k=${job.numAsked}`,
      { method: "POST", body, signal, headers: { "content-type": type } },
      (seconds, retry) =>
        show(job, "waiting", `The service is busy: again in ${seconds} s (${retry} of ${MAX_RETRIES})`),
    );
    showLabels(job, answer, ms);
  } catch (error) {
    if (signal.aborted) return;
    if (error instanceof Locked) {
      queue.unshift(job);
      show(job, "waiting", isLocked ? "Waits for the API key" : "Queued");
    } else {
      showError(job, error);
    }
  }
}

function showLabels(job, answer, ms) {
  const { width, height, predictions } = answer.results[0];
  const { role } = answer.model;
  job.predictions = predictions;
  const facts = [`${width} × ${height}`, `${Math.round(ms)} ms`, ...(role === "stable" ? [] : [role])];
  find(job, ".facts").textContent = facts.join(" · ");
  show(job, "done");
  showBars(job);
  tell(`${job.file.name}: ${predictions[0].label}, ${percent.format(predictions[0].score)}`);
  // Models change while the service runs.
  if (role === "stable" && answer.model.fingerprint !== fingerprint) {
    fingerprint = answer.model.fingerprint;
    showModel();
  }
}

/** Fewer labels than were asked for are there already; more are to be asked for. */
function showBars(job) {
  if (job.numAsked < topK()) {
    enqueue(job);
    return;
  }
  const rows = job.predictions.slice(0, topK()).map(({ label, score }) => {
    const row = $("label").content.firstElementChild.cloneNode(true);
    row.querySelector(".label").textContent = label;
    row.querySelector(".score").textContent = percent.format(score);
    row.querySelector(".bar > span").style.width = `${100 * score}%`;
    return row;
  });
  find(job, ".labels").replaceChildren(...rows);
}

function showError(job, error) {
  find(job, ".facts").textContent = "";
  find(job, ".code").textContent = error.code ?? "page_error";
  find(job, ".message").textContent = error.message;
  find(job, ".retry").hidden = !error.mayRetry;
  show(job, "failed");
  tell(`${job.file.name}: ${error.message}`);
}

function show(job, state, step = "") {
  job.card.dataset.state = state;
  find(job, ".step").textContent = step;
}

function find(job, selector) {
  return job.card.querySelector(selector);
}

/** For those who hear the page; a log of its own, as cards change more often than is worth hearing. */
function tell(text) {
  $("news").append(Object.assign(document.createElement("p"), { textContent: text }));
  if ($("news").childElementCount > MAX_NEWS) $("news").firstElementChild.remove();
}

function tellProgress() {
  const open = [...jobs].filter((job) => job.card.dataset.state === "waiting").length;
  $("progress").textContent = open ? `${jobs.size - open}/${jobs.size}` : "";
  $("clear").disabled = jobs.size === 0;
}

// Tools

function topK() {
  return Number(document.querySelector("[name=top-k]:checked").value);
}

$("top-k").addEventListener("change", () => {
  for (const job of jobs) {
    if (job.predictions !== null) showBars(job);
  }
});

$("clear").addEventListener("click", () => {
  everything.abort();
  everything = new AbortController();
  queue = [];
  jobs.forEach(release);
  jobs.clear();
  $("cards").replaceChildren();
  $("news").replaceChildren();
  tellProgress();
  $("files").focus();
});

$("files").addEventListener("change", () => {
  add($("files").files);
  $("files").value = ""; // the same file may be chosen again
});

// Drop and paste

const hasFiles = (event) => event.dataTransfer?.types.includes("Files");

document.addEventListener("dragenter", (event) => {
  // The curtain covers the page, so that leaving it is leaving the window, and not a step from one part to another.
  if (hasFiles(event)) $("drop").hidden = false;
});
document.addEventListener("dragover", (event) => {
  if (hasFiles(event)) event.preventDefault();
});
$("drop").addEventListener("dragleave", () => {
  $("drop").hidden = true;
});
document.addEventListener("drop", (event) => {
  $("drop").hidden = true;
  if (!hasFiles(event)) return;
  event.preventDefault();
  add(event.dataTransfer.files);
});
document.addEventListener("paste", (event) => {
  if (event.clipboardData?.files.length) add(event.clipboardData.files);
});

showModel();
