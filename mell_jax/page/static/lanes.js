// A lane has a tick for every token of one stream, in the colour of the device that made
// it: after a move the colour changes, and the ticks go on.

const LANE = 13; // pixels
const LABEL = 46;
const WINDOWS_S = [0.5, 1, 2, 4, 8, 12];
const TIME_STEPS_S = [0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 300];
const DELAY_S = 1.1; // behind the fleet, so that ticks come in evenly
const HELD_MS = 4000; // a lane is not given to another stream before

const lanes = { shown: [], windowS: 8, offset: null, count: 0 };

/** Returns the time of the fleet that is shown now. */
function shownAt(nowMs) {
  if (player !== null) return player.at;
  const offset = model.moment.at - model.arrivedMs / 1000;
  // The moment that was under way for the shortest time tells it best.
  lanes.offset = lanes.offset === null || Math.abs(offset - lanes.offset) > 2
    ? offset : Math.max(offset, lanes.offset - 0.0005);
  return Math.min(lanes.offset + nowMs / 1000 - DELAY_S, model.moment.at);
}

function drawLanes(canvas, nowMs) {
  const { context, width, height } = contextOf(canvas);
  lanes.count = Math.max(1, Math.floor((height - 16) / LANE));
  const at = shownAt(nowMs);
  const windowS = lanes.windowS * (player === null ? 1 : player.speed);
  assign(nowMs, at - windowS);
  const right = width - 6;
  const scale = (right - LABEL) / windowS;
  drawTime(context, { height, right, scale, windowS });
  lanes.shown.forEach((held, row) => {
    if (held === null) return;
    const lane = held.lane;
    const y = row * LANE + LANE / 2 + 2;
    const isMoved = lane.moves.length > 0;
    write(context, `#${lane.request}`, LABEL - 8, y, {
      size: 10.5, align: "right", colour: isDone(lane) ? COLOURS.faint : isMoved ? COLOURS.text : COLOURS.soft,
    });
    drawTicks(context, lane, { y, at, right, scale });
  });
}

function drawTime(context, { height, right, scale, windowS }) {
  const step = TIME_STEPS_S.find((each) => each >= windowS / 6) || 600;
  for (let back = 0; back <= windowS; back += step) {
    const x = Math.round(right - back * scale) + 0.5;
    context.strokeStyle = COLOURS.line;
    context.lineWidth = 1;
    context.beginPath();
    context.moveTo(x, 0);
    context.lineTo(x, height - 14);
    context.stroke();
    const isLast = back === 0;
    const words = isLast ? "now" : `${Number(back.toFixed(1))} s ago`;
    if (x < LABEL + 20) continue;
    write(context, words, isLast ? right : x, height - 6, { size: 10.5, align: isLast ? "right" : "center", colour: COLOURS.faint });
  }
}

function drawTicks(context, lane, { y, at, right, scale }) {
  const since = at - (right - LABEL) / scale;
  const byDevice = new Map();
  for (const tick of lane.ticks) {
    if (tick < since || tick > at) continue;
    const device = deviceAt(lane, tick);
    if (!byDevice.has(device)) byDevice.set(device, []);
    byDevice.get(device).push(right - (at - tick) * scale);
  }
  for (const [device, places] of byDevice) {
    context.fillStyle = colourOf(device, { alpha: isDone(lane) ? 0.6 : 1 });
    context.beginPath();
    for (const x of places) context.rect(x - 0.75, y - 4, 1.5, 8);
    context.fill();
  }
  const marks = lane.moves.filter(([time]) => time >= since && time <= at);
  marks.forEach(([time, source, target], i) => {
    const room = i + 1 < marks.length ? (marks[i + 1][0] - time) * scale : Infinity;
    drawMark(context, { x: right - (at - time) * scale, y, words: `${source}→${target}`, room });
  });
}

/** Draws a move, with words if there is room before the next one. */
function drawMark(context, { x, y, words, room }) {
  context.strokeStyle = COLOURS.text;
  context.lineWidth = 2;
  context.beginPath();
  context.moveTo(x, y - 6);
  context.lineTo(x, y + 6);
  context.stroke();
  context.font = `600 9.5px ${FONT}`;
  const wide = context.measureText(words).width + 6;
  if (wide + 4 > room) return;
  context.fillStyle = "rgba(10,13,19,0.82)";
  context.fillRect(x + 2, y - 5.5, wide, 11);
  write(context, words, x + 5, y, { size: 9.5, weight: 600, colour: COLOURS.text });
}

/** Gives streams lanes: those that have moved first, and nobody jumps about. */
function assign(nowMs, since) {
  const held = lanes.shown;
  held.length = Math.min(held.length, lanes.count);
  while (held.length < lanes.count) held.push(null);
  for (let i = 0; i < held.length; i++) {
    if (held[i] !== null && !isWorthShowing(held[i].lane, since)) held[i] = null;
  }
  const shown = new Set(held.filter((each) => each !== null).map((each) => each.lane.request));
  const others = [...model.lanes.values()].filter((lane) => !shown.has(lane.request) && !isDone(lane) && lane.ticks.length);
  others.sort((a, b) => b.moves.length - a.moves.length || a.request - b.request);
  for (const lane of others) {
    let row = held.indexOf(null);
    if (row < 0 && lane.moves.length) {
      row = held.findIndex((each) => !each.lane.moves.length && nowMs - each.sinceMs > HELD_MS);
    }
    if (row < 0) break;
    held[row] = { lane, sinceMs: nowMs };
  }
}

/** Returns whether a lane is told of still; others stay until their ticks are past. */
function isWorthShowing(lane, since) {
  const isEmpty = !lane.ticks.length || lane.ticks[lane.ticks.length - 1] < since;
  return !(isDone(lane) && isEmpty) && model.lanes.get(lane.request) === lane;
}

/** Returns whether a stream has ended, or is not followed any more. */
function isDone(lane) {
  return lane.isOver || (player === null && lane.seen < model.count);
}

/** Chooses how many seconds are shown, so that ticks can be told apart. */
function chooseWindow(canvas) {
  if (player !== null) return;
  const rates = [];
  for (const lane of model.lanes.values()) {
    const ticks = lane.ticks;
    if (ticks.length > 20) rates.push(20 / (ticks[ticks.length - 1] - ticks[ticks.length - 21]));
  }
  if (!rates.length) return;
  rates.sort((a, b) => a - b);
  const wanted = (canvas.clientWidth - LABEL) / (2.8 * rates[rates.length >> 1]);
  lanes.windowS = WINDOWS_S.filter((each) => each <= wanted).pop() || WINDOWS_S[0];
}
