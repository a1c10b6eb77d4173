// The page listens to its server, or plays the film that it has inside.

const FRAME_MS = 30; // between two pictures, at least
const AWAY_S = 5; // a controller tells of itself every half second
const RETRY_MS = 2000;
const SILENT_MS = 5000;
const REMEMBERED_S = 16; // of a film at its own speed
const SPEEDS = [1, 5, 20, 60, 240];
const byId = (id) => document.getElementById(id);
const canvases = { stage: byId("stage"), lanes: byId("lanes"), gaps: byId("gaps"), history: byId("history") };
const player = makePlayer(byId("film").textContent);
let isStale = true; // the charts show an earlier moment
let drawnMs = -Infinity;

/** Returns what plays a film; null where there is none. */
function makePlayer(text) {
  if (!text.trim()) return null;
  const film = JSON.parse(text);
  const moments = film.moments;
  return {
    film, moments,
    startS: moments[0].at, endS: moments[moments.length - 1].at,
    at: moments[0].at, next: 0, speed: film.speed, isPlaying: true, tickMs: null,
    most: Math.max(...moments.map((each) => Math.max(each.in_use, each.bound, ...each.rivals.map((r) => r.devices)))),
  };
}

function show(moment, nowMs) {
  if (!receive(moment, nowMs)) return;
  isStale = true;
  tellNumbers(moment);
  chooseWindow(canvases.lanes);
}

function put(id, text) {
  const element = byId(id);
  if (element.textContent !== text) element.textContent = text;
}

function tellNumbers(moment) {
  const { totals, tiles } = moment;
  put("in-use", `${moment.in_use}`);
  put("all", `${player === null ? tiles.length : player.most}`);
  put("open", short(moment.dots.numbers.length + moment.dots.left_out));
  put("bound", `${moment.bound}`);
  tellRivals(moment.rivals);
  put("moves", short(totals.moves));
  put("called-off", `${short(totals.called_off)} called off`);
  put("bytes", short(totals.bytes, "B"));
  put("each", totals.moves ? `${short(totals.bytes / totals.moves, "B")} each` : "");
  put("broken", `${totals.broken}`);
  byId("broken").className = totals.broken ? "bad" : "good";
  put("tokens", `${short(totals.tokens)} tokens so far`);
  tellSaved(moment);
  put("followed", `${moment.lanes.filter((lane) => !lane.is_over).length}`);
  const gaps = recentGaps();
  for (const kind of ["unmoved", "moved", "after"]) {
    put(`${kind}-p50`, seconds(quantile(gaps.bounds, gaps[kind], 0.5)));
    put(`${kind}-p99`, seconds(quantile(gaps.bounds, gaps[kind], 0.99)));
    put(`${kind}-count`, short(gaps[kind].reduce((sum, count) => sum + count, 0)));
  }
}

function tellRivals(rivals) {
  const place = byId("rivals");
  place.replaceChildren(...rivals.flatMap((rival) => {
    const key = document.createElement("span");
    key.className = "key rival";
    const count = document.createElement("b");
    count.textContent = rival.is_over ? "–" : `${rival.devices}`;
    return [key, `${nameOf(rival)} would use `, count];
  }));
}

function nameOf(rival) {
  return rival.policy.replaceAll("_", " ");
}

function tellSaved(moment) {
  const { totals, rivals } = moment;
  const all = player === null ? moment.tiles.length : player.most;
  put("saved", deviceTime(all * moment.at - totals.device_s));
  const rival = rivals.find((each) => !each.is_over);
  const beside = rival === undefined
    ? `of ${deviceTime(all * moment.at)}, all on`
    : `${deviceTime(rival.device_s - totals.device_s)} against ${nameOf(rival)}`;
  put("saved-beside", beside);
}

function draw(nowMs) {
  requestAnimationFrame(draw);
  if (player !== null) advance(nowMs);
  if (model.moment === null || nowMs - drawnMs < FRAME_MS) return;
  drawnMs = nowMs;
  drawStage(canvases.stage, nowMs);
  drawLanes(canvases.lanes, nowMs);
  if (isStale) {
    drawGaps(canvases.gaps);
    drawHistory(canvases.history);
    isStale = false;
  }
}

// -- live ------------------------------------------------------------------------

function listen() {
  const source = new EventSource("fleet/events");
  let heardMs = performance.now();
  source.onmessage = (event) => {
    heardMs = performance.now();
    byId("trouble").hidden = true;
    const moment = JSON.parse(event.data);
    tellAge(moment.age);
    show(moment, heardMs);
  };
  const again = () => {
    source.close();
    clearInterval(watch);
    tellTrouble("The server does not answer; trying again");
    setTimeout(listen, RETRY_MS);
  };
  source.onerror = again;
  const watch = setInterval(() => {
    if (performance.now() - heardMs > SILENT_MS) again();
  }, 1000);
}

/** Says so when places are those that a controller told long ago. */
function tellAge(age) {
  if (age === null || age < AWAY_S) return;
  tellTrouble(`The controller is away: places and moves are those of ${Math.round(age)} s ago`);
}

function tellTrouble(text) {
  put("trouble", text);
  byId("trouble").hidden = false;
}

// -- a film ----------------------------------------------------------------------

function advance(nowMs) {
  const passedMs = player.tickMs === null ? 0 : Math.min(200, nowMs - player.tickMs);
  player.tickMs = nowMs;
  if (player.isPlaying) {
    player.at = Math.min(player.endS, player.at + (player.speed * passedMs) / 1000);
    if (player.at >= player.endS) setPlaying(false);
  }
  while (player.next < player.moments.length && player.moments[player.next].at <= player.at) {
    show(player.moments[player.next++], nowMs);
  }
  if (player.isPlaying) {
    byId("seek").value = `${(1000 * (player.at - player.startS)) / (player.endS - player.startS)}`;
  }
  put("clock", `${Math.round(player.at)} of ${Math.round(player.endS)} s`);
}

function setPlaying(isPlaying) {
  player.isPlaying = isPlaying;
  put("play", isPlaying ? "Pause" : "Play");
}

/** Goes to a time of the film: what came before is known, what moves is at rest. */
function seek(at) {
  player.at = at;
  forgetAll();
  player.next = 0;
  while (player.next < player.moments.length && player.moments[player.next].at <= at) {
    receive(player.moments[player.next++], -TRAVEL_MS);
  }
  if (model.moment !== null) tellNumbers(model.moment);
  isStale = true;
}

function startPlayer() {
  model.keepsHistory = true;
  model.rememberedS = REMEMBERED_S * player.speed;
  byId("player").hidden = false;
  put("title", player.film.title);
  put("span", "of the moments before");
  put("legend", `a tick for every ${player.film.tick_tokens} tokens`);
  for (const speed of [...new Set([...SPEEDS, player.film.speed])].sort((a, b) => a - b)) {
    byId("speed").append(new Option(`${speed} x`, `${speed}`, speed === player.speed, speed === player.speed));
  }
  byId("speed").addEventListener("change", (event) => {
    player.speed = Number(event.target.value);
    model.rememberedS = REMEMBERED_S * player.speed;
  });
  byId("play").addEventListener("click", () => {
    if (!player.isPlaying && player.at >= player.endS) seek(player.startS);
    setPlaying(!player.isPlaying);
  });
  byId("seek").addEventListener("input", (event) => {
    seek(player.startS + (Number(event.target.value) / 1000) * (player.endS - player.startS));
  });
}

if (player === null) listen();
else startPlayer();
addEventListener("resize", () => { isStale = true; });
requestAnimationFrame(draw);
