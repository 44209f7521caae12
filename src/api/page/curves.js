import { byId, el, setText } from './elements.js';
import { duration, rate, timeOfDay } from './format.js';
import { SPAN_SECONDS } from './series.js';
import uPlot from './uplot.js';

const HEIGHT_PX = 116;
/** Below this a chart's axis is as wide as its longest figure; above it all charts begin at the same place. */
const NARROW_PX = 240;
const AXIS_PX = 54;
const DIGIT_PX = 6.2;
const LEAST_SPAN_SECONDS = 60;
const seconds = (value) => (value === null ? '–' : duration(value * 1_000));

const CURVES = [
  { name: 'lag', title: 'Lag', format: seconds, least: 0.1 },
  { name: 'changes', title: 'Changes', format: (value) => `${rate(value)}/s`, least: 5 },
  { name: 'published', title: 'Published', format: (value) => `${rate(value)}/s`, least: 5 },
  { name: 'latency', title: 'Commit → listing, p99', format: seconds, least: 0.1 },
];

/** The four curves of the last ten minutes. Each says in words what it shows; pointing at one reads all at that time. */
export function mountCurves({ store, series }) {
  const grid = byId('curves');
  const charts = CURVES.map((curve) => createChart(grid, curve, series));
  const resize = new ResizeObserver(() => {
    for (const chart of charts) chart.resize();
  });
  resize.observe(grid);
  const unwatch = store.watch(() => {
    for (const chart of charts) chart.draw();
  });
  return {
    recolour: () => {
      for (const chart of charts) chart.recolour();
    },
    unmount: () => {
      unwatch();
      resize.disconnect();
      for (const chart of charts) chart.destroy();
      grid.replaceChildren();
    },
  };
}

function createChart(grid, { name, title, format, least }, series) {
  const [value, range] = [el('span', { class: 'value' }, '–'), el('span', { class: 'note' }, 'waiting')];
  const plot = el('div', { class: 'plot', role: 'img', 'aria-label': title });
  const figure = el(
    'figure',
    { class: `curve curve-${name}` },
    el('figcaption', {}, el('h3', {}, title), value, range),
    plot,
  );
  grid.append(figure);
  let colours = readColours(figure);
  let pointed = null;

  const describe = () => {
    const values = series.curves[name];
    const index = pointed ?? values.length - 1;
    setText(value, values.length === 0 ? '–' : format(values[index] ?? null));
    if (pointed !== null) {
      setText(range, `at ${timeOfDay(series.times[index] * 1_000)}`);
      return;
    }
    const real = values.filter((one) => one !== null);
    const most = real.length === 0 ? null : Math.max(...real);
    setText(range, most === null ? 'nothing yet' : `most ${format(most)}`);
    plot.setAttribute(
      'aria-label',
      `${title} over the last 10 minutes: now ${value.textContent}, ${range.textContent}`,
    );
  };

  const point = (index) => {
    pointed = index;
    describe();
  };
  const options = chartOptions({ title, format, least }, { series, point, colours: () => colours });
  const chart = new uPlot(options, [series.times, series.curves[name]], plot);

  return {
    draw() {
      if (figure.offsetParent === null) return; // Behind another view.
      chart.setData([series.times, series.curves[name]]);
      describe();
    },
    resize: () => chart.setSize({ width: Math.max(160, plot.clientWidth), height: HEIGHT_PX }),
    recolour() {
      colours = readColours(figure);
      chart.redraw(false);
    },
    destroy: () => chart.destroy(),
  };
}

/** What uPlot is told. `colours()` are those of the moment; `point(index)` hears which time is pointed at, null: none. */
function chartOptions({ title, format, least }, { series, point, colours }) {
  const axis = {
    stroke: () => colours().axis,
    grid: { stroke: () => colours().grid, width: 1 },
    ticks: { show: false },
    font: '11px "Segoe UI", Roboto, Ubuntu, "Noto Sans", "Liberation Sans", Arial, sans-serif',
  };
  return {
    width: 300,
    height: HEIGHT_PX,
    padding: [10, 10, 0, 4],
    legend: { show: false },
    cursor: { y: false, drag: { x: false, y: false }, sync: { key: 'curves' }, points: { size: 7 } },
    scales: {
      x: { time: true, range: () => visibleSpan(series) },
      y: { range: (_, __, most) => [0, Math.max(least, (most ?? 0) * 1.15)] },
    },
    axes: [
      { ...axis, size: 22, space: 80, values: (_, ticks) => ticks.map(tickOf) },
      {
        ...axis,
        size: ({ width }, labels) => (width < NARROW_PX ? widthOf(labels) : AXIS_PX),
        space: 34,
        values: (_, ticks) => ticks.map(format),
      },
    ],
    series: [
      {},
      {
        label: title,
        stroke: () => colours().line,
        fill: () => colours().fill,
        width: 1.5,
        points: { show: false },
      },
    ],
    hooks: { setCursor: [({ cursor }) => point(cursor.idx ?? null)] },
  };
}

/** uPlot asks once before there are any. */
const widthOf = (labels) => 12 + DIGIT_PX * Math.max(3, ...(labels ?? []).map(({ length }) => length));

/** Up to now; grows to ten minutes as they pass, so that the first one is not a line at the edge. */
function visibleSpan({ times }) {
  const now = Date.now() / 1_000;
  const seen = times.length === 0 ? 0 : now - times[0];
  return [now - Math.min(SPAN_SECONDS, Math.max(LEAST_SPAN_SECONDS, seen)), now];
}

/** Seconds only where a tick is not on the minute. */
const tickOf = (at) => (at % 60 === 0 ? timeOfDay(at * 1_000).slice(0, 5) : timeOfDay(at * 1_000));

/** The style sheet's colours, resolved for the theme: a canvas knows no custom properties. */
function readColours(figure) {
  const style = getComputedStyle(figure);
  return {
    line: style.color,
    fill: style.outlineColor,
    axis: style.textDecorationColor,
    grid: style.borderBottomColor,
  };
}
