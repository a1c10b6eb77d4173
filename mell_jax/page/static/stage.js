// The stage has a tile for every device and a dot for every request, which travels from
// tile to tile when it moves.

const TRAVEL_MS = 900;
const GAP = 8;
const QUEUE = 20; // the height of the strip of those that wait
const HEAD = 20; // of a tile
const FOOT = 14;
const LEAST_TILE = 66;

/** Returns columns, rows and sizes of tiles that fill a width and are well legible. */
function layOut(count, width) {
  const most = width < 700 ? 470 : 268;
  let best = null;
  for (let columns = 1; columns <= count; columns++) {
    const rows = Math.ceil(count / columns);
    const wide = (width - GAP * (columns - 1)) / columns;
    const high = clamp((most - QUEUE - GAP * (rows - 1)) / rows, LEAST_TILE, 0.62 * wide);
    if (wide < 56) break;
    const isTall = rows * (high + GAP) > most + 2 * GAP;
    const empty = rows * columns - count;
    const value = Math.min(wide, 2.2 * high) * (isTall ? 0.4 : 1) * (1 - empty / (rows * columns));
    if (best === null || value > best.value) best = { value, columns, rows, wide, high };
  }
  return best || { columns: count, rows: 1, wide: width / count, high: LEAST_TILE };
}

function tileBox(plan, index) {
  const column = index % plan.columns;
  const row = Math.floor(index / plan.columns);
  return {
    x: column * (plan.wide + GAP), y: QUEUE + row * (plan.high + GAP),
    wide: plan.wide, high: plan.high,
  };
}

const stage = { slots: new Map(), boxes: new Map(), plan: null, key: "" };

function drawStage(canvas, nowMs) {
  const moment = model.moment;
  const tiles = moment.tiles;
  const width = canvas.clientWidth;
  const key = `${tiles.length} ${width}`;
  if (key !== stage.key) {
    stage.key = key;
    stage.plan = layOut(tiles.length, width);
    const rows = stage.plan.rows;
    canvas.style.height = `${Math.ceil(QUEUE + rows * (stage.plan.high + GAP) - GAP)}px`;
    stage.boxes.clear();
    tiles.forEach((tile, i) => stage.boxes.set(tile.device, tileBox(stage.plan, i)));
  }
  const { context } = contextOf(canvas);
  for (const tile of tiles) drawTile(context, tile, nowMs);
  drawQueue(context, width);
  settleSlots();
  drawDots(context, nowMs);
}

function drawTile(context, tile, nowMs) {
  const box = stage.boxes.get(tile.device);
  const isOn = tile.state !== "parked" && tile.state !== "drained" && tile.state !== "lost";
  context.beginPath();
  context.roundRect(box.x + 0.5, box.y + 0.5, box.wide - 1, box.high - 1, 8);
  context.fillStyle = isOn ? COLOURS.tile : COLOURS.parked;
  context.fill();
  context.setLineDash(isOn ? [] : [4, 5]);
  context.strokeStyle = isOn ? colourOf(tile.device, { alpha: 0.55 }) : COLOURS.line;
  if (tile.state === "lost") context.strokeStyle = COLOURS.bad;
  if (tile.state === "opening" && !isCalm) {
    context.setLineDash([6, 6]);
    context.lineDashOffset = -nowMs / 40;
  }
  context.stroke();
  context.setLineDash([]);
  context.lineDashOffset = 0;
  const y = box.y + HEAD / 2 + 2;
  const name = tile.name || `${tile.device}`;
  write(context, name, box.x + 9, y, { size: 13, weight: 700, colour: isOn ? colourOf(tile.device) : COLOURS.faint });
  if (box.wide >= 110) {
    const left = box.x + 17 + context.measureText(name).width;
    const paused = tile.paused ? `, ${tile.paused} paused` : "";
    const words = tile.state === "serving" ? `${tile.rows} streams${paused}` : tile.state;
    write(context, words, left, y, { colour: isOn ? COLOURS.soft : COLOURS.faint });
  }
  if (isOn && tile.capacity) drawPages(context, tile, box);
}

/** Draws a device's pages: used, reserved for those to come, cached, free. */
function drawPages(context, tile, box) {
  const x = box.x + 8;
  const y = box.y + box.high - FOOT;
  const wide = box.wide - 16;
  const scale = wide / tile.capacity;
  context.fillStyle = "#222b3d";
  context.fillRect(x, y, wide, 6);
  const used = Math.min(wide, tile.used * scale);
  const reserved = Math.min(wide - used, tile.reserved * scale);
  context.fillStyle = colourOf(tile.device);
  context.fillRect(x, y, used, 6);
  context.fillStyle = COLOURS.text;
  context.fillRect(x + used, y, reserved, 6);
  context.fillStyle = colourOf(tile.device, { light: 40, alpha: 0.55 });
  context.fillRect(x + used + reserved, y, Math.min(wide - used - reserved, tile.cached * scale), 6);
  const share = Math.round((100 * (tile.used + tile.reserved)) / tile.capacity);
  const size = box.wide < 110 ? 10 : 11.5;
  write(context, `${share}%`, box.x + box.wide - 8, box.y + HEAD / 2 + 2, { size, align: "right" });
}

function drawQueue(context, width) {
  const waiting = model.moment.waiting;
  if (waiting) write(context, `${waiting} wait for a place`, width - 2, QUEUE / 2 - 2, { align: "right", colour: COLOURS.rival });
  const parts = [["used", COLOURS.unmoved], ["reserved for a move", COLOURS.text], ["cached", "#34496e"], ["free", "#222b3d"]];
  let x = 2;
  for (const [name, colour] of parts) {
    context.fillStyle = colour;
    context.fillRect(x, QUEUE / 2 - 5, 14, 6);
    write(context, name, x + 19, QUEUE / 2 - 1.5, { size: 11.5 });
    x += 19 + context.measureText(name).width + 16;
  }
}

/** Gives every dot a place in its tile that it keeps while it is there. */
function settleSlots() {
  const taken = new Map();
  for (const device of stage.boxes.keys()) taken.set(device, new Set());
  const homeless = [];
  for (const dot of model.dots.values()) {
    for (const device of dot.slots.keys()) {
      const isWanted = device === dot.device || device === dot.target || device === dot.from;
      if (!isWanted) dot.slots.delete(device);
      else if (taken.has(device)) taken.get(device).add(dot.slots.get(device));
    }
    for (const device of [dot.device, dot.target]) {
      if (taken.has(device) && !dot.slots.has(device)) homeless.push([dot, device]);
    }
  }
  for (const [dot, device] of homeless) {
    const used = taken.get(device);
    let slot = 0;
    while (used.has(slot)) slot++;
    used.add(slot);
    dot.slots.set(device, slot);
  }
  stage.slots = new Map([...taken].map(([device, used]) => [device, Math.max(16, ...used) + 1]));
}

/** Returns where a dot lies in a tile, and how wide its cell is. */
function placeOf(dot, device) {
  const box = stage.boxes.get(device);
  if (box === undefined) return { x: stage.plan.wide * stage.plan.columns - 150, y: QUEUE / 2, cell: 8 };
  const wide = box.wide - 16;
  const high = box.high - HEAD - FOOT - 6;
  const slots = stage.slots.get(device) || 16;
  let cell = clamp(Math.sqrt((wide * high) / slots), 3, 40);
  while (cell > 3 && Math.floor(wide / cell) * Math.floor(high / cell) < slots) cell -= 0.25;
  const columns = Math.max(1, Math.floor(wide / cell));
  const slot = dot.slots.get(device) || 0;
  return {
    x: box.x + 8 + cell * ((slot % columns) + 0.5),
    y: box.y + HEAD + 2 + cell * (Math.floor(slot / columns) + 0.5),
    cell,
  };
}

function drawDots(context, nowMs) {
  let most = 1;
  for (const dot of model.dots.values()) most = Math.max(most, dot.pages);
  const resting = new Map(); // dots that stay, by device: one path each
  const travelling = [];
  for (const dot of model.dots.values()) {
    const isMoving = dot.from !== null && nowMs - dot.movedMs < TRAVEL_MS && !isCalm;
    if (!isMoving) dot.from = null;
    if (dot.device < 0 && !isMoving) continue;
    if (isMoving || dot.target >= 0) travelling.push(dot);
    if (isMoving) continue;
    if (!resting.has(dot.device)) resting.set(dot.device, []);
    resting.get(dot.device).push(dot);
  }
  for (const [device, dots] of resting) {
    context.fillStyle = colourOf(device);
    context.beginPath();
    for (const dot of dots) {
      const place = placeOf(dot, device);
      const radius = radiusOf(dot, { most, cell: place.cell, nowMs });
      context.moveTo(place.x + radius, place.y);
      context.arc(place.x, place.y, radius, 0, 2 * Math.PI);
    }
    context.fill();
  }
  for (const dot of travelling) {
    if (dot.from !== null) drawTravel(context, dot, { most, nowMs });
    else drawIntent(context, dot, { most, nowMs });
  }
}

function radiusOf(dot, { most, cell, nowMs }) {
  let radius = 0.46 * cell * (0.35 + 0.65 * Math.sqrt(dot.pages / most));
  if (dot.goneMs !== null) radius *= clamp(1 - (nowMs - dot.goneMs) / FADE_MS, 0, 1);
  else radius *= clamp((nowMs - dot.bornMs) / FADE_MS, 0.2, 1);
  return Math.max(0.5, radius);
}

/** Draws a request that goes on elsewhere already, on its way there. */
function drawTravel(context, dot, { most, nowMs }) {
  const start = placeOf(dot, dot.from);
  const end = placeOf(dot, dot.device);
  const share = clamp((nowMs - dot.movedMs) / TRAVEL_MS, 0, 1);
  const lift = 26 + 0.12 * Math.hypot(end.x - start.x, end.y - start.y);
  const at = (t) => {
    const s = ease(clamp(t, 0, 1));
    return [start.x + s * (end.x - start.x), start.y + s * (end.y - start.y) - 4 * lift * s * (1 - s)];
  };
  context.lineCap = "round";
  for (let i = 7; i >= 1; i--) {
    context.strokeStyle = colourOf(dot.device, { alpha: 0.5 * (1 - i / 8) });
    context.lineWidth = 3.5 * (1 - i / 9);
    context.beginPath();
    context.moveTo(...at(share - 0.02 * i));
    context.lineTo(...at(share - 0.02 * (i - 1)));
    context.stroke();
  }
  const [x, y] = at(share);
  const radius = Math.max(5, radiusOf(dot, { most, cell: end.cell, nowMs }));
  context.beginPath();
  context.arc(x, y, radius, 0, 2 * Math.PI);
  context.fillStyle = colourOf(dot.device, { light: 76 });
  context.fill();
  context.lineWidth = 1.5;
  context.strokeStyle = "#fff";
  context.stroke();
}

/** Draws that a request is about to go: a ring around it, and its place to come. */
function drawIntent(context, dot, { most, nowMs }) {
  const place = placeOf(dot, dot.device);
  const goal = placeOf(dot, dot.target);
  const radius = radiusOf(dot, { most, cell: place.cell, nowMs });
  context.lineWidth = 1.2;
  context.strokeStyle = "rgba(255,255,255,0.85)";
  context.beginPath();
  context.arc(place.x, place.y, radius + 1.5, 0, 2 * Math.PI);
  context.stroke();
  context.strokeStyle = colourOf(dot.target, { alpha: 0.8 });
  context.setLineDash([2, 2]);
  context.beginPath();
  context.arc(goal.x, goal.y, radius, 0, 2 * Math.PI);
  context.stroke();
  context.setLineDash([]);
}
