// What all pictures share: sizes, colours and words for numbers.

const COLOURS = {
  ground: "#0a0d13", panel: "#111622", tile: "#171e2d", parked: "#0c1018",
  line: "#1f2737", text: "#e8ecf4", soft: "#8a94a8", faint: "#3a4459",
  good: "#5fd38d", rival: "#e9b44c", moved: "#ff7ab8", unmoved: "#6fa8ff", bad: "#ff6b6b",
};
const FONT = 'system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif';
const isCalm = matchMedia("(prefers-reduced-motion: reduce)").matches;

/** Returns the colour of a device; neighbours differ. */
function colourOf(device, { light = 64, alpha = 1 } = {}) {
  if (device < 0) return `hsla(220, 12%, ${light}%, ${alpha})`;
  return `hsla(${(205 + device * 137.508) % 360}, 72%, ${light}%, ${alpha})`;
}

/** Returns a cleared context in CSS pixels, as sharp as the screen. */
function contextOf(canvas) {
  const scale = Math.min(2, devicePixelRatio || 1);
  const width = canvas.clientWidth;
  const height = canvas.clientHeight;
  const wide = Math.round(width * scale);
  const high = Math.round(height * scale);
  if (canvas.width !== wide || canvas.height !== high) {
    canvas.width = wide;
    canvas.height = high;
  }
  const context = canvas.getContext("2d");
  context.setTransform(scale, 0, 0, scale, 0, 0);
  context.clearRect(0, 0, width, height);
  return { context, width, height };
}

function write(context, text, x, y, { size = 12, colour = COLOURS.soft, align = "left", weight = 400 } = {}) {
  context.font = `${weight} ${size}px ${FONT}`;
  context.textAlign = align;
  context.textBaseline = "middle";
  context.fillStyle = colour;
  context.fillText(text, x, y);
}

function ease(share) {
  return share < 0.5 ? 4 * share ** 3 : 1 - (-2 * share + 2) ** 3 / 2;
}

function clamp(value, low, high) {
  return Math.max(low, Math.min(high, value));
}

const UNITS = [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]];

/** Returns a number in few letters, such as 12.3 k, or 12.3 kB. */
function short(value, of = "") {
  for (const [size, unit] of UNITS) {
    if (value >= size) return `${(value / size).toPrecision(3)} ${unit}${of}`;
  }
  return `${Math.round(value)} ${of}`.trim();
}

function seconds(value) {
  if (!Number.isFinite(value)) return "–";
  if (value < 0.0995) return `${(1000 * value).toPrecision(value < 0.00995 ? 2 : 3)} ms`;
  return value < 1 ? `${Math.round(1000 * value)} ms` : `${value.toPrecision(3)} s`;
}

/** Returns hours of devices, minutes where these say more. */
function deviceTime(value) {
  const hours = value / 3600;
  if (Math.abs(hours) >= 100) return `${hours.toFixed(0)}`;
  if (Math.abs(hours) >= 1) return `${hours.toFixed(1)}`;
  return `${hours.toFixed(Math.abs(hours) >= 0.1 ? 2 : 3)}`;
}
