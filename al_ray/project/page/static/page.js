"use strict";

// What a person answers goes into an outbox and from there to the server, one after the other, until the server has
// confirmed it. The next text is shown at once, since it is here already; what is not confirmed is said at the top.

const $ = id => document.getElementById(id);
const MAX_BUTTONS = 30, N_DIGITS = 9, N_FOUND = 50, N_BARS = 12, LONG = 600;
const RETRY_MS = [500, 1000, 2000, 4000, 8000];

const state = {
  annotator: "", classes: [], tasks: [], hand: null, shown: null, review: null, status: null,
  outbox: [], sending: false, failures: 0, isLockedOut: false, lookedMs: 0, lookedSince: null, allClasses: false, timer: 0,
};

// ---- small things ---------------------------------------------------------------------------------------------------

function make(tag, attributes = {}, ...children) {
  const made = tag.startsWith("svg:") ? document.createElementNS("http://www.w3.org/2000/svg", tag.slice(4)) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function name(text) {
  const made = make("bdi", { dir: "auto" });
  made.textContent = visible(text);
  return made;
}

// Control characters and those that turn the direction of what follows are shown instead of obeyed.
const HIDDEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u202a-\u202e\u2066-\u2069\ufeff\ufff9-\ufffb]|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g;
function visible(text) {
  return text.replace(/\r\n/g, "\n").replace(HIDDEN, c => `⟦U+${c.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")}⟧`);
}

const percent = share => `${Math.round(share * 100)} %`;
const points = gain => `${gain < 0 ? "−" : "+"}${Math.abs(gain * 100).toFixed(1)}`;
const count = (n, one, many) => `${n.toLocaleString("en")} ${n === 1 ? one : many}`;
const words = text => text.replaceAll("_", " ");

function minutes(seconds) {
  if (seconds < 90) return `${Math.max(1, Math.round(seconds))} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

// Choices are kept in cookies: storage belongs to one port, and the port is another one after each start.
const kept = key => {
  const found = document.cookie.split("; ").find(each => each.startsWith(`al_ray_${key}=`));
  return found ? decodeURIComponent(found.slice(found.indexOf("=") + 1)) : "";
};
const keep = (key, value) => {
  document.cookie = `al_ray_${key}=${encodeURIComponent(value)}; max-age=31536000; path=/; SameSite=Strict`;
};

async function ask(path, body) {
  const options = body === undefined ? {} : {
    method: "POST", headers: { "content-type": "application/json", "x-al-ray": "page" }, body: JSON.stringify(body),
  };
  const answer = await fetch(path, { ...options, signal: AbortSignal.timeout(60000) });
  if (answer.ok) return answer.json();
  const error = new Error((await answer.text()).slice(0, 600));
  error.status = answer.status;
  throw error;
}

// ---- the text -------------------------------------------------------------------------------------------------------

const nextUrl = () => `api/next?annotator=${encodeURIComponent(state.annotator)}`;

function takeHand(hand) {
  const waiting = new Set(state.outbox.map(each => each.id));
  state.hand = hand;
  const fresh = hand.tasks.filter(task => !waiting.has(task.id));
  // A text under somebody's eyes is never replaced: a key that is pressed just then would answer another one.
  const stays = state.shown && !waiting.has(state.shown.id) ? fresh.find(task => task.id === state.shown.id) || state.shown : null;
  state.tasks = stays ? [stays, ...fresh.filter(task => task.id !== stays.id)] : fresh;
  if (!state.review) render();
  pollLater();
}

function render() {
  const task = state.review || state.tasks[0] || null;
  $("reading").hidden = !task;
  $("pause").hidden = Boolean(task);
  if (!task) {
    state.shown = null;
    $("text").textContent = "";
    delete $("text").dataset.id;
    renderPause();
    return;
  }
  const isNew = !state.shown || state.shown.id !== task.id || state.shown.isReview !== Boolean(state.review);
  if (isNew) {
    const text = visible(task.text);
    $("text").textContent = text;
    $("text").dataset.id = task.id;
    $("text").classList.toggle("long", text.length > LONG);
    $("text").scrollTop = 0;
    state.lookedMs = 0;
    state.lookedSince = document.hidden ? null : performance.now();
    $("note").value = state.review ? task.note : "";
    showNote(Boolean(state.review && task.note), false);
    $("find").value = "";
    closeFound();
  }
  state.shown = { ...task, isReview: Boolean(state.review) };
  renderAround();
}

function renderAround() {
  const task = state.shown, review = state.review;
  $("place").textContent = review ? `Your answers: ${review.back} of ${review.n}, newest first` : placeOf(task);
  const isGiven = index => review && review.label === state.classes[index];
  document.querySelectorAll("#classes button").forEach(button => {
    if (review) button.setAttribute("aria-pressed", String(Boolean(isGiven(Number(button.value)))));
    else button.removeAttribute("aria-pressed");
  });
  if (review) $("unsure").setAttribute("aria-pressed", String(review.label === null));
  else $("unsure").removeAttribute("aria-pressed");
  $("skip").hidden = Boolean(review);
  $("on").hidden = !review;
  renderHint();
}

function placeOf(task) {
  if (task.again) return "Skipped before";
  const status = state.status;
  if (!status || !status.n_asked || state.hand.state !== "asking") return "Text";
  const waiting = state.outbox.filter(each => each.kind === "answer" && !each.isReview).length;
  const place = Math.min(status.n_asked, status.n_asked - status.n_open + waiting + 1);
  return `Text ${place} of ${status.n_asked}`;
}

function renderHint() {
  const isOn = kept("hint") === "shown", task = state.shown;
  const hasOne = Boolean(task.prediction) && !state.review;
  $("hint").hidden = !hasOne;
  $("hint").setAttribute("aria-pressed", String(isOn));
  $("hint-text").textContent = isOn ? "Hide the model’s suggestion" : "Show the model’s suggestion";
  const suggestion = $("suggestion");
  suggestion.replaceChildren();
  if (state.review) suggestion.append("You said: ", state.review.label === null ? "not sure" : name(state.review.label), ". Choose again to change it.");
  else if (hasOne && isOn) suggestion.append("The model suggests ", name(task.prediction), ` (${percent(task.confidence)})`);
  // Why the model asks tells what it believes: it is hidden with the suggestion.
  $("reason").textContent = state.review ? "" : task.prediction && !isOn ? "" : visible(task.reason || "");
}

function renderPause() {
  const hand = state.hand, waiting = state.outbox.length;
  $("again").hidden = true;
  $("pause-bar").hidden = true;
  $("pause-back").hidden = !hand || !(state.status && state.status.annotators.some(([who]) => who === state.annotator));
  let title = "One moment …", text = "";
  if (waiting && state.failures) [title, text] = ["Not saved yet", "The next texts come when your answers have been saved."];
  else if (!hand || waiting) [title, text] = ["One moment …", "Your answer is being saved."];
  else if (hand.state === "computing" || hand.state === "asking") {
    const progress = hand.progress;
    title = "The next texts are being chosen";
    text = progress ? `${progress.doing[0].toUpperCase()}${progress.doing.slice(1)} …` : "The model learns from the answers …";
    $("pause-bar").hidden = false;
    if (progress && progress.share !== null) $("pause-bar").value = progress.share;
    else $("pause-bar").removeAttribute("value");
  } else if (hand.state === "waiting") {
    const others = Object.entries(hand.with_others).map(([who, n]) => `${visible(who)}: ${n}`).join(", ");
    title = "The rest of this batch is with others";
    text = `The next one comes when they are done, or after ten minutes without a sign of them (${others}).`;
  } else if (hand.state === "failed") {
    title = "The next texts could not be chosen";
    text = `${hand.message || ""} Your answers are saved.`;
    $("again").hidden = false;
  } else {
    title = "All done";
    text = `Nothing more is asked: ${hand.message || "every text has been asked for"}. You can close this page.`;
  }
  if (!state.annotator) [title, text] = ["Welcome", "Say who you are, and the first text comes."];
  setText($("pause-title"), title);
  setText($("pause-text"), text);
}

// What has not changed is not set again: a screen reader would read it again.
function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

// ---- answers --------------------------------------------------------------------------------------------------------

function looked() {
  const now = state.lookedSince === null ? 0 : performance.now() - state.lookedSince;
  return Math.round(state.lookedMs + now) / 1000;
}

function give(label) {
  if (!state.shown || !canAct()) return;
  const { id, isReview } = state.shown;
  send({
    kind: "answer", id, isReview,
    body: {
      annotator: state.annotator, id, label, submission: crypto.randomUUID(), seconds: looked(), note: $("note").value.trim(),
    },
  });
}

function skip() {
  if (!state.shown || state.review || !canAct()) return;
  const { id } = state.shown;
  send({ kind: "skip", id, body: { annotator: state.annotator, id } });
}

const canAct = () => Boolean(state.annotator) && !document.querySelector("dialog[open]");

function send(item) {
  state.outbox.push(item);
  state.tasks = state.tasks.filter(task => task.id !== item.id);
  state.review = null;
  state.shown = null;
  leaveField();
  render();
  tellSaved();
  pump();
}

function leaveField() {
  if (document.activeElement && document.activeElement.matches("input")) $("text").focus({ preventScroll: true });
}

async function pump() {
  if (state.sending) return;
  state.sending = true;
  while (state.outbox.length) {
    const item = state.outbox[0];
    try {
      const hand = await ask(item.kind === "skip" ? "api/skip" : "api/answer", item.body);
      state.outbox.shift();
      state.failures = 0;
      if (state.isLockedOut) closeTrouble();
      state.isLockedOut = false;
      tellSaved(item);
      takeHand(hand);
    } catch (error) {
      if ([400, 413, 415].includes(error.status)) {
        state.outbox.shift();
        trouble(`An answer was refused and is not saved: ${error.message}`);
        refresh();
      } else {
        state.failures += 1;
        lockedOut(error);
        tellSaved();
        render();
        const isGone = error.status === undefined;
        if (!isGone && !state.isLockedOut) trouble(`Not saved yet, it is tried again: ${error.message}`);
        await new Promise(done => setTimeout(done, RETRY_MS[Math.min(state.failures, RETRY_MS.length) - 1]));
      }
    }
  }
  state.sending = false;
  refreshStatus();
}

function lockedOut(error) {
  if (error.status !== 403) return;
  state.isLockedOut = true;
  trouble("This page is no longer let in: al-ray label was started anew. Open the address that it printed. What is not saved yet has to be answered again there.");
}

function tellSaved(item) {
  const n = state.outbox.length, saved = $("saved");
  saved.className = n && state.failures ? "bad" : item ? "good" : "";
  if (n && state.failures) saved.textContent = `${count(n, "answer", "answers")} not saved yet. Trying again …`;
  else if (n) saved.textContent = "Saving …";
  else if (item && item.kind === "skip") saved.textContent = "Skipped for now";
  else if (item) saved.textContent = item.body.label === null ? "Saved: not sure" : `Saved: ${visible(item.body.label)}`;
  else saved.textContent = "";
}

function trouble(text) {
  setText($("trouble-text"), visible(text));
  $("trouble").hidden = false;
}
function closeTrouble() { $("trouble").hidden = true; }

addEventListener("beforeunload", event => { if (state.outbox.length) event.preventDefault(); });

// ---- earlier answers ------------------------------------------------------------------------------------------------

async function back() {
  if (!canAct()) return;
  if (state.outbox.length) {
    $("saved").textContent = "One moment: the last answer is being saved.";
    return;
  }
  const steps = state.review ? state.review.back + 1 : 1;
  try {
    const found = await ask(`api/earlier?annotator=${encodeURIComponent(state.annotator)}&back=${steps}`);
    if (!found) {
      $("saved").textContent = state.review ? "That was your first answer." : "There is no earlier answer of yours.";
      return;
    }
    state.review = { ...found, back: steps };
    render();
  } catch (error) { lookedInVain(error); }
}

function goOn() {
  if (!state.review) return;
  state.review = null;
  state.shown = null;
  render();
}

// ---- looking at the server ------------------------------------------------------------------------------------------

async function refresh() {
  if (!state.annotator) return;
  try {
    takeHand(await ask(nextUrl()));
    foundAgain();
  } catch (error) { lookedInVain(error); }
}

async function refreshStatus() {
  try {
    state.status = await ask("api/status");
    renderStatus();
    if (state.shown && !state.review) $("place").textContent = placeOf(state.shown);
    if (!state.shown) renderPause();
    foundAgain();
  } catch (error) { lookedInVain(error); }
}

function lookedInVain(error) {
  lockedOut(error);
  if (state.isLockedOut) return;
  state.isAway = error.status === undefined;
  trouble(state.isAway ? "No answer from al-ray label. Is it still running? Nothing that was saved is lost; this page tries again." : error.message);
}

function foundAgain() {
  if (state.isAway || state.isLockedOut) closeTrouble();
  state.isAway = state.isLockedOut = false;
}

function pollEvery() {
  if (state.isAway || state.isLockedOut || document.hidden) return 3000;
  if (state.shown || !state.hand) return 5000;
  return { computing: 250, asking: 250, waiting: 1500 }[state.hand.state] || 4000;
}

function pollLater() {
  clearTimeout(state.timer);
  state.timer = setTimeout(poll, pollEvery());
}

async function poll() {
  if (!state.outbox.length && state.annotator) {
    const had = Boolean(state.shown);
    if (!had) await refresh();
    if (had || state.shown) await refreshStatus();
  }
  pollLater();
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden) {
    if (state.lookedSince !== null) state.lookedMs += performance.now() - state.lookedSince;
    state.lookedSince = null;
  } else if (state.shown) state.lookedSince = performance.now();
});

// ---- how far it is --------------------------------------------------------------------------------------------------

function renderStatus() {
  const s = state.status, done = s.n_asked - s.n_open;
  $("batch-bar").max = Math.max(1, s.n_asked);
  $("batch-bar").value = done;
  const left = s.seconds_per_answer && s.n_open ? `, about ${minutes(s.seconds_per_answer * s.n_open)} left` : "";
  setText($("batch-text"), s.n_asked ? `${done} of ${s.n_asked} answered${left}` : s.end ? "Nothing is asked any more" : "Not chosen yet");
  const rows = [["To learn from", s.n_labeled], ["To measure by", s.n_evaluation], ["Not sure", s.n_abstained], ["Texts in all", s.n_pool]];
  if (s.n_given) rows.splice(1, 0, ["of these, there from the start", s.n_given]);
  $("counts").replaceChildren(...rows.flatMap(([what, n]) => [make("dt", {}, what), make("dd", {}, n.toLocaleString("en"))]));
  renderBalance(s.class_counts);
  renderAccuracy(s);
  renderEnough(s.advice);
}

function renderBalance(counts) {
  const most = Math.max(1, ...counts.map(([, n]) => n));
  const ranked = counts.length > N_BARS ? [...counts].sort((a, b) => b[1] - a[1]) : counts;
  const shown = state.allClasses ? ranked : ranked.slice(0, N_BARS);
  $("balance").tBodies[0].replaceChildren(...shown.map(([label, n]) => {
    const bar = make("svg:svg", { viewBox: "0 0 100 12", preserveAspectRatio: "none", "aria-hidden": "true" },
      make("svg:rect", { class: "ground", width: 100, height: 12, rx: 2 }), make("svg:rect", { class: "share", width: 100 * n / most, height: 12, rx: 2 }));
    return make("tr", {}, make("th", { scope: "row", title: visible(label) }, name(label)), make("td", {}, bar), make("td", {}, n.toLocaleString("en")));
  }));
  $("all-classes").hidden = counts.length <= N_BARS;
  $("all-classes").setAttribute("aria-expanded", String(state.allClasses));
  $("all-classes").textContent = state.allClasses ? "Show fewer classes" : `Show all ${counts.length} classes`;
}

function renderAccuracy(s) {
  const last = s.curve.at(-1), accuracy = $("accuracy");
  accuracy.replaceChildren();
  if (last) {
    const range = `${percent(last.low)} to ${percent(last.high)}`;
    accuracy.append(make("b", {}, percent(last.accuracy)), `95 % interval: ${range}, from ${count(last.n_evaluated, "answer", "answers")}`);
  } else accuracy.append("Not known yet.");
  $("how").textContent = visible(s.how_estimated[0].toUpperCase() + s.how_estimated.slice(1)) + (/[.!?]$/.test(s.how_estimated) ? "" : ".");
  $("outlook").textContent = s.outlook ? `The next ${s.outlook.n_more} labels are likely to bring ${points(s.outlook.gain)} points ` +
    `(nine times of ten: ${points(s.outlook.low)} to ${points(s.outlook.high)}).` : "";
  $("curve").hidden = $("curve-data").hidden = !last;
  if (!last) return;
  drawCurve(s.curve);
  $("curve-data").querySelector("tbody").replaceChildren(...s.curve.map(p => make("tr", {}, make("td", {}, p.n_labeled.toLocaleString("en")),
    make("td", {}, percent(p.accuracy)), make("td", {}, `${percent(p.low)} to ${percent(p.high)}`), make("td", {}, String(p.n_evaluated)))));
}

function drawCurve(curve) {
  const [width, height, left, bottom, top] = [320, 180, 46, 22, 10];
  const most = curve.at(-1).n_labeled, least = curve.length > 1 ? curve[0].n_labeled : 0;
  const floor = Math.max(0, Math.floor(Math.min(...curve.map(p => p.low)) * 5) / 5);
  const x = n => left + (width - left - 10) * (most === least ? 1 : (n - least) / (most - least));
  const y = share => top + (height - top - bottom) * (1 - (share - floor) / (1 - floor || 1));
  const at = (p, share) => `${x(p.n_labeled).toFixed(1)},${y(share).toFixed(1)}`;
  const last = curve.at(-1);
  const label = `Learning curve: from ${percent(curve[0].accuracy)} at ${count(curve[0].n_labeled, "label", "labels")} to ${percent(last.accuracy)} at ${most}.`;
  const svg = make("svg:svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
  for (let i = 0; i <= 2; i++) {
    const share = floor + (1 - floor) * i / 2;
    svg.append(make("svg:line", { class: "grid", x1: left, x2: width - 4, y1: y(share), y2: y(share) }),
      make("svg:text", { x: left - 6, y: y(share) + 4, "text-anchor": "end" }, percent(share)));
  }
  svg.append(make("svg:text", { x: width - 4, y: height - 4, "text-anchor": "end" }, count(most, "label", "labels")));
  if (least !== most) svg.append(make("svg:text", { x: left, y: height - 4 }, String(least)));
  if (curve.length > 1) {
    svg.append(make("svg:polygon", { class: "band", points: [...curve.map(p => at(p, p.high)), ...[...curve].reverse().map(p => at(p, p.low))].join(" ") }),
      make("svg:polyline", { class: "line", points: curve.map(p => at(p, p.accuracy)).join(" ") }));
  } else svg.append(make("svg:line", { class: "line", x1: x(last.n_labeled), x2: x(last.n_labeled), y1: y(last.low), y2: y(last.high) }));
  if (curve.length <= 30) svg.append(...curve.map(p => make("svg:circle", { class: "dot", cx: x(p.n_labeled), cy: y(p.accuracy), r: 3.5 })));
  $("curve").replaceChildren(svg);
}

function renderEnough(advice) {
  $("enough-section").hidden = !advice.length;
  $("enough").replaceChildren(...advice.map(([rule, reason]) => {
    const said = make("span");
    said.textContent = reason === null ? "not yet" : `enough: ${visible(reason)}`;
    const what = words(visible(rule));
    return make("li", { class: reason === null ? "no" : "yes" }, what[0].toUpperCase() + what.slice(1), said);
  }));
}

// ---- classes: buttons, and a field to find one ----------------------------------------------------------------------

function buildClasses() {
  const n = state.classes.length > MAX_BUTTONS ? N_DIGITS : state.classes.length;
  $("classes").replaceChildren(...state.classes.slice(0, n).map((label, index) => {
    const button = make("button", { type: "button", value: index });
    if (index < N_DIGITS) {
      button.append(make("kbd", { "aria-hidden": "true" }, String(index + 1)));
      button.setAttribute("aria-keyshortcuts", String(index + 1));
    }
    button.append(name(label));
    button.title = visible(label);
    button.addEventListener("click", () => give(label));
    return button;
  }));
  $("finder").hidden = state.classes.length <= N_DIGITS;
}

const found = { labels: [], active: 0 };

function find() {
  const typed = $("find").value.trim().toLowerCase();
  const starts = state.classes.filter(label => label.toLowerCase().startsWith(typed));
  const holds = state.classes.filter(label => label.toLowerCase().includes(typed) && !starts.includes(label));
  found.labels = [...starts, ...holds].slice(0, N_FOUND);
  found.active = 0;
  $("found").replaceChildren(...found.labels.map((label, index) => {
    const option = make("li", { role: "option", id: `found-${index}` }, name(label));
    option.addEventListener("mousedown", event => { event.preventDefault(); give(label); });
    return option;
  }));
  if (!found.labels.length) {
    $("found").append(make("li", { class: "none", role: "option", "aria-disabled": "true", "aria-selected": "false" }, "No class has that in its name."));
  }
  $("found").hidden = false;
  $("find").setAttribute("aria-expanded", "true");
  activate(0);
}

function activate(index) {
  found.active = index;
  [...$("found").children].forEach((option, i) => option.setAttribute("aria-selected", String(i === index && found.labels.length > 0)));
  if (!found.labels.length) { $("find").removeAttribute("aria-activedescendant"); return; }
  $("find").setAttribute("aria-activedescendant", `found-${index}`);
  $("found").children[index].scrollIntoView({ block: "nearest" });
}

function closeFound() {
  $("found").hidden = true;
  $("find").setAttribute("aria-expanded", "false");
  $("find").removeAttribute("aria-activedescendant");
  if (state.classes.length <= N_DIGITS && document.activeElement !== $("find")) $("finder").hidden = true;
}

$("find").addEventListener("input", find);
$("find").addEventListener("focus", find);
$("find").addEventListener("blur", closeFound);
$("find").addEventListener("keydown", event => {
  const n = found.labels.length, isOpen = !$("found").hidden;
  if (event.key === "Escape") { $("find").value = ""; $("text").focus({ preventScroll: true }); }
  else if (event.key === "Enter" && isOpen && n) give(found.labels[found.active]);
  else if (event.key === "ArrowDown") { if (!isOpen) find(); else if (n) activate((found.active + 1) % n); }
  else if (event.key === "ArrowUp") { if (isOpen && n) activate((found.active + n - 1) % n); }
  else return;
  event.preventDefault();
  event.stopPropagation();
});

// ---- note, hint, dialogs, keys --------------------------------------------------------------------------------------

function showNote(isShown, takesFocus = true) {
  $("noting").hidden = !isShown;
  $("add-note").setAttribute("aria-expanded", String(isShown));
  if (isShown && takesFocus) $("note").focus();
}
$("note").addEventListener("keydown", event => {
  if (event.key !== "Enter" && event.key !== "Escape") return;
  event.preventDefault();
  event.stopPropagation();
  if (!$("note").value.trim()) showNote(false);
  $("text").focus({ preventScroll: true });
});

function toggleHint() {
  if (!state.shown || $("hint").hidden) return;
  keep("hint", kept("hint") === "shown" ? "hidden" : "shown");
  renderHint();
}

function askName() {
  $("name").value = state.annotator;
  $("name-dialog").showModal();
}
$("name-dialog").addEventListener("cancel", event => { if (!state.annotator) event.preventDefault(); });
$("name-form").addEventListener("submit", event => {
  event.preventDefault();
  const typed = $("name").value.trim();
  if (!typed) return;
  keep("annotator", typed);
  $("name-dialog").close();
  start(typed);
});

function start(annotator) {
  if (annotator !== state.annotator) Object.assign(state, { tasks: [], shown: null, review: null, hand: null });
  state.annotator = annotator;
  $("who").textContent = visible(annotator);
  $("who").setAttribute("aria-label", `You are ${visible(annotator)}: change the name`);
  render();
  refresh().then(refreshStatus);
}

const ACTIONS = {
  s: skip, b: back, Backspace: back, u: () => give(null), n: () => showNote(true), h: toggleHint, Escape: goOn,
  "?": () => $("help-dialog").showModal(),
  "/": () => { $("finder").hidden = false; $("find").focus(); },
};

document.addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing || document.querySelector("dialog[open]")) return;
  if (event.target.closest("input, textarea, select")) return;
  if (kept("keys") === "off") return;
  const isReading = !$("reading").hidden;
  if (/^[1-9]$/.test(event.key)) {
    const label = state.classes[Number(event.key) - 1];
    if (!isReading || label === undefined || event.repeat) return;
    event.preventDefault();
    give(label);
    return;
  }
  if (event.key === " " && isReading && !event.target.closest("button, summary, a")) {
    event.preventDefault();
    $("text").scrollBy({ top: (event.shiftKey ? -0.85 : 0.85) * $("text").clientHeight });
    return;
  }
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (!Object.hasOwn(ACTIONS, key) || event.repeat) return;
  if (!isReading && !["?", "b", "Backspace", "Escape"].includes(key)) return;
  event.preventDefault();
  ACTIONS[key]();
});

$("unsure").addEventListener("click", () => give(null));
$("skip").addEventListener("click", skip);
$("back").addEventListener("click", back);
$("pause-back").addEventListener("click", back);
$("on").addEventListener("click", goOn);
$("add-note").addEventListener("click", () => showNote($("noting").hidden));
$("hint").addEventListener("click", toggleHint);
$("who").addEventListener("click", askName);
$("help").addEventListener("click", () => $("help-dialog").showModal());
$("help-close").addEventListener("click", () => $("help-dialog").close());
$("trouble-close").addEventListener("click", closeTrouble);
$("again").addEventListener("click", () => ask("api/again", {}).then(refresh, lookedInVain));
$("all-classes").addEventListener("click", () => { state.allClasses = !state.allClasses; renderBalance(state.status.class_counts); });
$("keys-on").checked = kept("keys") !== "off";
$("keys-on").addEventListener("change", () => keep("keys", $("keys-on").checked ? "on" : "off"));

async function begin() {
  let project;
  try { project = await ask("api/project"); } catch (error) {
    lookedInVain(error);
    setTimeout(begin, 2000);
    return;
  }
  foundAgain();
  state.classes = project.classes;
  document.title = `Label: ${project.name}`;
  $("project").textContent = project.name;
  $("names").replaceChildren(...project.annotators.map(who => make("option", { value: who })));
  buildClasses();
  if (kept("annotator")) start(kept("annotator"));
  else {
    renderPause();
    askName();
    refreshStatus();
  }
  poll();
}
begin();
