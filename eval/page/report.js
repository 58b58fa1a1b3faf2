'use strict';
// Draws the report page; eval/report.py packs the data. Text from files is only ever set as text content.

// ---- data -----------------------------------------------------------------------------------------------------------

const data = JSON.parse(document.getElementById('data').textContent);
const SCORED = data.tiou.length > 0;    // against a ground truth
const TRUE_POSITIVE = 0, NOT_JUDGED = 6;    // indices into data.kinds
const MOST = 2000;    // bars that a panel draws
const LISTED = 500;    // videos that the list shows at a time
const NAMES_OF_REGIONS = ['consistent background', 'inconsistent', 'consistent action'];

const TYPES = {u1: Uint8Array, u2: Uint16Array, u4: Uint32Array, f4: Float32Array, f8: Float64Array};

// The columns, those that are packed as [type, base64] as typed arrays.
function unpack(columns) {
  const result = {...columns};
  for (const [name, value] of Object.entries(columns)) {
    if (!Array.isArray(value) || !(value[0] in TYPES)) continue;
    const raw = atob(value[1]), bytes = new Uint8Array(raw.length);
    for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
    result[name] = new TYPES[value[0]](bytes.buffer);
  }
  return result;
}

const instances = unpack(data.instances), detections = unpack(data.detections);
const curves = data.curves && unpack(data.curves);

function groupByVideo(column) {
  const groups = data.videos.map(() => []);
  column.forEach((video, row) => groups[video].push(row));
  return groups;
}

const instancesOf = groupByVideo(instances.video), detectionsOf = groupByVideo(detections.video);
const tagsOf = groupByVideo(instances.tag_video);
const curveOf = new Map(curves ? curves.video.map((video, row) => [video, row]) : []);
const pairOf = new Map(
  curves ? curves.pair_video.map((video, row) => [`${video} ${curves.pair_label[row]}`, row]) : []);
const lengthOf = data.videos.map((_, video) => {
  const curve = curveOf.get(video);
  if (data.durations[video]) return data.durations[video];
  if (curve !== undefined) return Math.max(1e-3, curves.seconds[curve] * curves.count);
  let end = 1;    // second
  for (const g of instancesOf[video]) end = Math.max(end, instances.end[g]);
  for (const row of detectionsOf[video]) end = Math.max(end, detections.end[row]);
  return end;
});

const kindOf = (row, tiou) => detections.kind[tiou * detections.score.length + row];
const isFound = (row, tiou) => instances.found[tiou * instances.start.length + row];
const chosen = label => state.label < 0 || state.label === label;

// The axis of scores. Where they hardly differ it is made wide enough for a browser's numbers.
let lowest = Infinity, highest = -Infinity;
for (const score of detections.score) {
  lowest = Math.min(lowest, score);
  highest = Math.max(highest, score);
}
if (lowest === Infinity) [lowest, highest] = [0, 1];
const largest = Math.max(Math.abs(lowest), Math.abs(highest));
if (highest - lowest <= 1e-9 * largest || !largest)
  [lowest, highest] = [lowest - (largest || 1) / 2, highest + (largest || 1) / 2];
// Of the score slider.
const decimals = Math.max(0, -Math.floor(Math.log10((highest - lowest) / 50))), step = 10 ** -decimals;
const stepDown = score => Number((Math.floor(score / step) * step).toFixed(decimals));
const LOWEST = stepDown(lowest), BEGIN = Math.max(LOWEST, stepDown(data.threshold));
const TIOU = Math.max(0, data.tiou.indexOf('0.5'));

const state = {
  tiou: TIOU,
  video: 0, from: 0, to: 1,               // the part of the video in view, seconds
  time: null,                             // marked, or where the video plays
  label: -1, query: '', sort: 0,          // which videos are listed, in which order; -1: all classes
  first: 0, end: LISTED,                  // which of them the list has drawn
  threshold: BEGIN,
  hidden: new Set(),                      // kinds of detections
  opened: new Set(),                      // videos whose other classes are shown
  by: 'average', falling: true, row: 0,   // the order of the classes; whose precision and recall are shown
};

// ---- small tools ----------------------------------------------------------------------------------------------------

const $ = selector => document.querySelector(selector);
const percent = (value, digits = 1) => value === null || Number.isNaN(value) ? '–' : (100 * value).toFixed(digits);
const mean = values => values.reduce((a, b) => a + b, 0) / values.length;
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
const minus = text => String(text).replace('-', '−');
const seconds = value => minus(value.toFixed(value < 100 ? 2 : 1));
const shorten = name => name.length > 60 ? name.slice(0, 60) + '…' : name;
const thousands = number => number.toLocaleString('en');
const plural = (number, noun) => `${thousands(number)} ${noun}${number === 1 ? '' : 's'}`;
const scoreText = (score, digits) =>
  minus(score.toFixed(digits)) + (data.unit && ` × ${data.unit.replace('e+', 'e')}`);
const roughly = score => scoreText(score, Math.min(3, decimals));
const exactly = score => scoreText(score, Math.max(3, decimals));

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name === 'text') node.textContent = value;
    else if (name.startsWith('on')) node.addEventListener(name.slice(2), value);
    else if (name.startsWith('--')) node.style.setProperty(name, value);
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

const html = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
const svg = (tag, attributes = {}, ...children) =>
  fill(document.createElementNS('http://www.w3.org/2000/svg', tag), attributes, children);
const text = (x, y, content, attributes = {}) => svg('text', {x, y, text: content, ...attributes});
// A whole drawing: as wide as its place when drawn, and scaled with it on paper.
const picture = (width, height, attributes, ...parts) =>
  svg('svg', {viewBox: `0 0 ${width} ${height}`, height, ...attributes}, ...parts);
// N with a subscript, among texts: N_c is the number of instances of a class.
const symbol = () => html('span', {}, 'N', html('sub', {text: 'c'}));
const rect = (x, y, width, height, attributes = {}) => svg('rect', {
  x: x.toFixed(2), y: y.toFixed(2), width: Math.max(0, width).toFixed(2), height: Math.max(0, height).toFixed(2),
  ...attributes});
const line = (x1, y1, x2, y2, attributes = {}) => svg('line', {x1, y1, x2, y2, ...attributes});

function ticks(from, to, wanted) {
  const raw = (to - from) / wanted, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map(f => f * power).find(s => s >= raw * 0.999), values = [];
  for (let i = Math.ceil(from / step - 1e-9); i * step <= to + step * 1e-9; i++) values.push(i * step);
  const digits = Math.max(0, -Math.floor(Math.log10(step)));
  return values.map(value => ({value, label: minus(value.toFixed(digits))}));
}

function tooltip(event, content) {
  const box = $('#tooltip');
  box.hidden = !content;
  if (!content) return;
  box.replaceChildren(...[content].flat());
  const {width, height} = box.getBoundingClientRect();
  box.style.left = clamp(event.clientX + 14, 4, innerWidth - width - 4) + 'px';
  box.style.top = (event.clientY + height + 22 < innerHeight ? event.clientY + 16 : event.clientY - height - 10) + 'px';
}

const explain = content => ({
  onpointermove: event => tooltip(event, typeof content === 'function' ? content() : content),
  onpointerleave: () => tooltip()});

// ---- average precision ----------------------------------------------------------------------------------------------

// The places of the hits among detections by falling score, and from each hit on the best precision: the envelope.
function envelope(rows, tiou, rankOf = (row, place) => place) {
  const ranks = [], precision = [];
  rows.forEach((row, place) => { if (kindOf(row, tiou) === TRUE_POSITIVE) ranks.push(rankOf(row, place)); });
  for (let i = ranks.length - 1; i >= 0; i--)
    precision[i] = Math.max((i + 1) / (ranks[i] + 1), precision[i + 1] || 0);
  return {ranks, precision};
}

const firstOfClass = new Map();
detections.label.forEach((label, row) => {
  if (!firstOfClass.has(label)) firstOfClass.set(label, [row, row]);
  firstOfClass.get(label)[1] = row + 1;
});

function rowsOfClass(label) {
  const [first, end] = firstOfClass.get(label) || [0, 0];
  return Array.from({length: end - first}, (_, i) => first + i);
}

// Of a whole class: its rank counts the detections too that are not on the page.
const envelopeOfClass = (label, tiou) =>
  envelope(rowsOfClass(label), tiou, (row, place) => detections.rank ? detections.rank[row] : place);

// What the list shows of a video: AP as if it were the only one, missed instances, kinds of detections.
function summarize(video) {
  const own = instancesOf[video].filter(row => chosen(instances.label[row]));
  const rows = detectionsOf[video].filter(row => chosen(detections.label[row]));
  const counts = new Array(data.kinds.length).fill(0), positives = new Map();
  for (const row of rows) counts[kindOf(row, state.tiou)]++;
  for (const row of own) positives.set(instances.label[row], (positives.get(instances.label[row]) || 0) + 1);
  const ap = [...positives].map(([label, number]) =>
    envelope(rows.filter(row => detections.label[row] === label), state.tiou)
      .precision.reduce((a, b) => a + b, 0) / number);
  let best = -Infinity;
  for (const row of rows) best = Math.max(best, detections.score[row]);
  return {
    counts, best, total: rows.length, ap: ap.length ? mean(ap) : NaN, instances: own.length,
    missed: own.filter(row => !isFound(row, state.tiou)).length,
    concerns: state.label < 0 || own.length + rows.length > 0 ||
      tagsOf[video].some(row => chosen(instances.tag_label[row]))};
}

// ---- summary and classes --------------------------------------------------------------------------------------------

function setTiou(index) {
  if (!SCORED) return;
  state.tiou = clamp(index, 0, data.tiou.length - 1);
  markTiou();
  drawAll();
}

function markTiou() {
  [...$('#tiou').children].forEach((button, k) =>
    fill(button, {'aria-checked': k === state.tiou, tabindex: k === state.tiou ? 0 : -1}, []));
}

function drawSummary() {
  const tile = (name, value) => html('div', {}, html('b', {text: value}), name);
  $('#summary .tiles').replaceChildren(...SCORED ? Object.entries(data.averages).map(([span, value]) =>
    tile(`mAP, average ${span === 'all' ? 'of all' : span} (%)`, percent(value, 2))) : [
    tile('detections', thousands(detections.number.reduce((a, b) => a + b, 0))),
    tile('videos', thousands(data.videos.length)), tile('classes detected', thousands(foundClasses.length))]);
  $('#summary .facts').textContent = data.facts;
  $('#summary .notes').replaceChildren(...data.notes.map(note => html('li', {text: note})));
  if (SCORED) $('#summary .map').replaceChildren(
    html('thead', {}, html('tr', {}, html('th', {text: 'tIoU'}),
      ...data.tiou.map((key, index) => html('th', {text: key, class: index === state.tiou ? 'chosen' : ''})))),
    html('tbody', {}, html('tr', {}, html('th', {text: 'mAP (%)'}), ...data.mean_ap.map((value, index) =>
      html('td', {text: percent(value, 2), class: index === state.tiou ? 'heat chosen' : 'heat', '--share': value})))));
}

// Without a ground truth: the classes that are detected, the surest first.
const foundClasses = [...firstOfClass].map(([label, [first, end]]) => ({
  label, detections: end - first, best: detections.score[first],
  videos: new Set(detections.video.subarray(first, end)).size,
})).sort((a, b) => b.best - a.best);

function drawFoundClasses() {
  const row = c => html('tr', {
    tabindex: 0, onclick: () => showVideos(2, c.label),
    onkeydown: event => { if (event.key === 'Enter') showVideos(2, c.label); }},
  html('th', {text: data.labels[c.label], title: data.labels[c.label]}), html('td', {text: thousands(c.detections)}),
  html('td', {text: thousands(c.videos)}), html('td', {text: exactly(c.best)}));
  $('.ap').replaceChildren(
    html('thead', {}, html('tr', {}, ...['Class', 'Detections', 'Videos', 'Best score'].map(name =>
      html('th', {text: name})))),
    html('tbody', {}, ...foundClasses.map(row)));
  hintAtMore();
}

function sortedClasses() {
  const columns = {name: c => data.labels[c.label], instances: c => c.instances, average: c => mean(c.ap)};
  const value = columns[state.by] || (c => c.ap[state.by]);
  const compare = (a, b) => value(a) < value(b) ? -1 : value(a) > value(b) ? 1 : a.label - b.label;
  return [...data.classes].sort((a, b) => state.falling ? compare(b, a) : compare(a, b));
}

function sparkline(label, number) {
  const {ranks, precision} = envelopeOfClass(label, state.tiou);
  const steps = ranks.map((_, i) => `V${(19 - 18 * precision[i]).toFixed(1)}H${(64 * (i + 1) / number).toFixed(1)}`);
  return svg('svg', {class: 'spark', viewBox: '0 0 64 20', 'aria-hidden': 'true'},
    svg('path', {d: 'M0 19' + steps.join('') + 'V19Z'}));
}

function columnHeader(key, content, title) {
  const sorted = state.by === key;
  const sort = () => {
    state.falling = sorted ? !state.falling : key !== 'name';
    state.by = key;
    drawClasses();
    $('.ap th[aria-sort] button').focus();
  };
  const arrow = sorted ? (state.falling ? ' ↓' : ' ↑') : '';
  const order = sorted && {'aria-sort': state.falling ? 'descending' : 'ascending'};
  return html('th', {class: key === state.tiou ? 'chosen' : '', ...order},
    html('button', {type: 'button', text: content + arrow, title, onclick: sort}));
}

function drawClasses() {
  const cell = (value, more = '') => html('td', {text: percent(value), class: 'heat ' + more, '--share': value});
  const choose = (row, c) => {
    $('.ap [aria-selected=true]').setAttribute('aria-selected', false);
    row.setAttribute('aria-selected', true);
    state.row = data.classes.indexOf(c);
    drawPrecisionRecall();
  };
  const row = c => html('tr', {
    'aria-selected': data.classes[state.row] === c, tabindex: 0, onclick: event => choose(event.currentTarget, c),
    onkeydown: event => { if (event.key === 'Enter') choose(event.currentTarget, c); }},
  html('th', {text: data.labels[c.label], title: data.labels[c.label]}), html('td', {text: c.instances}),
  html('td', {}, sparkline(c.label, c.instances)), cell(mean(c.ap)),
  ...c.ap.map((value, k) => cell(value, k === state.tiou ? 'chosen' : '')));
  $('.ap').replaceChildren(
    html('thead', {}, html('tr', {},
      columnHeader('name', 'Class', 'Sort by name'), columnHeader('instances', 'N', 'Instances'),
      html('th', {text: 'P-R', title: 'Precision over recall at the chosen tIoU'}),
      columnHeader('average', 'AP', 'Average over the tIoUs (%)'),
      ...data.tiou.map((key, k) => columnHeader(k, key, `AP at tIoU ${key} (%)`)))),
    html('tbody', {}, ...sortedClasses().map(row)));
  hintAtMore();
  drawPrecisionRecall();
}

// Says what of the table of classes is out of sight.
function hintAtMore() {
  const box = $('#classes .scroll'), rows = [...$('.ap tbody').children], {bottom} = box.getBoundingClientRect();
  const below = rows.filter(row => row.getBoundingClientRect().bottom > bottom + 2).length;
  const right = box.scrollLeft + box.clientWidth < box.scrollWidth - 2;
  $('#classes .more').textContent = [
    below ? `↓ ${plural(below, 'more class').replace('classs', 'classes')}` : '', right ? 'more columns →' : '',
  ].filter(Boolean).join(' · ');
}

function drawPrecisionRecall() {
  const c = data.classes[state.row], rows = rowsOfClass(c.label), now = state.tiou;
  const rowOf = new Map(rows.map((row, place) => [detections.rank ? detections.rank[row] : place, row]));
  const box = $('#pr .chart'), width = box.clientWidth, height = clamp(width * 0.72, 220, 420);
  const x = recall => 38 + recall * (width - 50), y = precision => 24 + (1 - precision) * (height - 60);
  const parts = ticks(0, 1, 5).flatMap(({value, label}) => [
    line(x(0), y(value), x(1), y(value), {class: 'axis'}), text(x(0) - 6, y(value) + 4, label, {'text-anchor': 'end'}),
    text(x(value), y(0) + 16, label, {'text-anchor': 'middle'})]);
  parts.push(text(x(0.5), height - 2, 'recall', {'text-anchor': 'middle'}), text(x(0) - 24, 12, 'precision'));

  let shown;
  data.tiou.forEach((_, k) => {
    const found = envelopeOfClass(c.label, k);
    const steps = found.precision.map((p, i) => `V${y(p).toFixed(1)}H${x((i + 1) / c.instances).toFixed(1)}`);
    const d = `M${x(0)} ${y(found.precision[0] || 0)}${steps.join('')}V${y(0)}`;
    if (k !== now) parts.push(svg('path', {d, class: 'faint'}));
    else shown = {...found, d};
  });
  const dot = svg('circle', {r: 4, class: 'bar blue', visibility: 'hidden'});
  parts.push(
    svg('path', {d: `${shown.d}H${x(0)}Z`, class: 'area blue'}), svg('path', {d: shown.d, class: 'curve blue'}), dot);
  $('#pr figcaption').replaceChildren(data.labels[c.label], html('small', {
    text: `AP ${percent(c.ap[now])} % at tIoU ${data.tiou[now]}; ${shown.ranks.length} of ${c.instances} instances ` +
          `found by ${thousands(c.detections)} detections; grey: the other tIoUs`}),
    html('button', {type: 'button', text: 'its videos, lowest AP first', onclick: () => showVideos(1, c.label)}),
    copyButton());
  box.replaceChildren(picture(width, height, {
    role: 'img', 'aria-label': 'Precision over recall',
    onpointerleave: () => { dot.setAttribute('visibility', 'hidden'); tooltip(); },
    onpointermove: event => {
      const recall = (event.clientX - box.getBoundingClientRect().left - x(0)) / (x(1) - x(0));
      const i = clamp(Math.ceil(recall * c.instances) - 1, 0, shown.ranks.length - 1);
      if (i < 0) return;
      const number = shown.ranks[i] + 1, score = detections.score[rowOf.get(shown.ranks[i])];
      fill(dot, {cx: x((i + 1) / c.instances), cy: y(shown.precision[i]), visibility: 'visible'}, []);
      tooltip(event, `recall ${percent((i + 1) / c.instances)} %, precision ${percent((i + 1) / number)} %\n` +
                     `score ≥ ${exactly(score)}: ${i + 1} of ${number} right`);
    }}, ...parts));
}

// ---- errors ---------------------------------------------------------------------------------------------------------

function drawErrors() {
  const errors = data.errors, k = state.tiou;
  $('.at-tiou').textContent = data.tiou[k];
  drawProfile(errors.shares[k]);
  drawGain(errors.gain[k], errors.gain[k].map((_, kind) => mean(errors.gain.map(gain => gain[kind]))));
  $('#gain small').textContent = `points on top of ${percent(errors.mean_ap[k], 2)} %, the mAP of the ` +
    `${thousands(errors.kept)} detections judged; in grey the mean over the tIoUs`;
  drawBins($('#missed .chart'), 'missed', 'red', c => c.missed[k], errors.missed[k]);
  drawBins($('#sensitivity .chart'), 'normalized mAP', 'blue', c => c.normalized[k], errors.normalized[k]);
}

const percentAxis = (left, right, y) => ticks(0, 1, 4).flatMap(({value}) => [
  line(left, y(value), right, y(value), {class: 'axis'}),
  text(left - 6, y(value) + 4, 100 * value, {'text-anchor': 'end'})]);

function drawProfile(shares) {
  const box = $('#profile .chart'), width = box.clientWidth, height = 250, left = 34;
  const step = (width - left) / shares.length, y = share => 8 + (1 - share) * (height - 36);
  const parts = percentAxis(left, width, y);
  shares.forEach((row, depth) => {
    let top = 0;
    row.forEach((share, kind) => {
      top += share;
      const tip = () => [`${data.kinds[kind]}: ${percent(share, 2)} %\nof the best ${depth + 1} `, symbol()];
      parts.push(rect(left + step * (depth + 0.1), y(top), step * 0.8, y(0) - y(share), {
        class: `kind k${kind}`, ...explain(tip)}));
    });
    parts.push(text(left + step * (depth + 0.5), height - 12, depth + 1, {'text-anchor': 'middle'}));
  });
  const unit = svg('text', {x: width, y: height, 'text-anchor': 'end'}, '× N', svg('tspan', {
    dy: 3, 'font-size': 8, text: 'c'}));
  parts.push(text(0, height, '%'), unit);
  const attributes = {class: 'stack', role: 'img', 'aria-label': 'Kinds of the best detections'};
  box.replaceChildren(picture(width, height + 6, attributes, ...parts));
  $('#profile .legend').replaceChildren(...shares.at(-1).map((share, kind) =>
    html('span', {}, html('i', {class: `swatch k${kind}`}), `${data.kinds[kind]} ${percent(share, 2)} %`)));
}

function drawGain(gain, means) {
  const box = $('#gain .chart'), width = box.clientWidth, row = 56, left = 124, most = Math.max(0.01, ...gain);
  const length = value => Math.max(0, value) / most * (width - left - 90);
  const parts = gain.flatMap((value, index) => [
    text(left - 8, row * index + 32, data.kinds[index + 1], {'text-anchor': 'end', class: 'strong'}),
    rect(left, row * index + 10, length(value), row - 20, {
      class: `kind link k${index + 1}`, onclick: () => showVideos(FIRST_KIND + index, -1),
      ...explain('Click for the videos with most errors of this kind')}),
    text(left + length(value) + 6, row * index + 32, minus(percent(value, 2)), {class: 'strong'}),
    text(width, row * index + 32, minus(percent(means[index], 2)), {'text-anchor': 'end'})]);
  parts.push(line(left, 0, left, row * gain.length, {class: 'axis'}));
  const attributes = {role: 'img', 'aria-label': 'Gain in mAP without a kind'};
  box.replaceChildren(picture(width, row * gain.length, attributes, ...parts));
}

function drawBins(box, what, colour, valuesOf, whole) {
  const characteristics = data.errors.characteristics;
  const width = box.clientWidth, height = 204, left = 34, gap = 18;
  const number = characteristics.reduce((sum, c) => sum + c.bins.length, 0);
  const step = (width - left - gap * (characteristics.length - 1)) / number;
  const y = value => 36 + (1 - value) * (height - 80);
  const parts = percentAxis(left, width, y), words = [], middle = {'text-anchor': 'middle'};
  let x = left;
  // The number on a bar: above it, or above the dashed line where that would strike it out.
  const above = top => top - 16 < y(whole) && y(whole) < top + 1 ? Math.min(top, y(whole)) - 5 : top - 5;
  for (const c of characteristics) {
    const title = c.title.replace(width < 400 ? /number of | in the video/g : ' in the video', '');    // on a phone
    words.push(text(x + step * c.bins.length / 2, height - 8, title, {...middle, class: 'strong'}));
    valuesOf(c).forEach((value, b) => {
      const note = `${what} ${percent(value)} %\n${c.title} ${c.ranges[b]}\n${thousands(c.instances[b])} instances`;
      const top = y(value || 0);
      parts.push(rect(x + step * 0.1, top, step * 0.8, y(0) - top, {class: `bar ${colour}`, ...explain(note)}));
      words.push(
        text(x + step / 2, above(top), percent(value, 0), {...middle, class: 'strong'}),
        text(x + step / 2, height - 28, c.bins[b], {...middle, ...explain(note)}));
      x += step;
    });
    x += gap;
  }
  parts.push(line(left, y(whole), width, y(whole), {class: 'reference'}), ...words,
    text(width, 10, `- - all instances: ${percent(whole)} %`, {'text-anchor': 'end'}));
  box.replaceChildren(picture(width, height, {role: 'img', 'aria-label': what}, ...parts));
}

// ---- the list of videos ---------------------------------------------------------------------------------------------

const orders = !SCORED ? [
  ['name', null],
  ['most detections', (a, b) => b.total - a.total],
  ['highest score', (a, b) => b.best - a.best],
] : [
  ['name', null],
  ['lowest AP', (a, b) => a.ap - b.ap],
  ['highest AP', (a, b) => b.ap - a.ap],
  ['most missed instances', (a, b) => b.missed - a.missed],
  ...data.kinds.slice(1, NOT_JUDGED).map((name, i) =>
    [`most errors: ${name}`, (a, b) => b.counts[i + 1] - a.counts[i + 1]]),
];
const FIRST_KIND = orders.length - NOT_JUDGED + 1;    // the place of the first kind of error among the orders
let listed = [], summaries = [];

const item = video => html(
  'div', {class: 'video', role: 'option', id: 'video-' + video, onclick: () => showVideo(video)},
  html('span', {}, html('b', {text: data.videos[video], title: data.videos[video]}),
    html('em', {text: noteOn(summaries[video])})),
  html('i'));

function noteOn({ap, missed, total, best}) {
  if (!SCORED) return total ? `${plural(total, 'detection')} · best ${roughly(best)}` : 'none';
  return Number.isNaN(ap) ? 'not annotated' : (missed ? `${missed} missed · ` : '') + `AP ${percent(ap, 0)}`;
}

function drawList() {
  summaries = data.videos.map((_, video) => summarize(video));
  const query = state.query.toLowerCase(), compare = orders[state.sort][1];
  listed = [...data.videos.keys()].filter(v => summaries[v].concerns && data.videos[v].toLowerCase().includes(query));
  if (compare) listed.sort((a, b) => {
    const [first, second] = [summaries[a], summaries[b]];
    return Number.isNaN(first.ap) - Number.isNaN(second.ap) || compare(first, second) || a - b;
  });
  [state.first, state.end] = [0, LISTED];
  drawItems();
  $('.listed').textContent = `${thousands(listed.length)} of ${thousands(data.videos.length)}`;
  if (listed.length && !listed.includes(state.video)) showVideo(listed[0]);
  else drawTimeline();
  markListed();
}

function drawItems() {
  const rows = listed.slice(state.first, state.end).map(video => {
    const row = item(video), judged = summaries[video].counts.slice(0, NOT_JUDGED);
    const total = judged.reduce((a, b) => a + b, 0);
    let end = 0;
    const stops = judged.map((count, kind) =>
      `var(--k${kind}) ${end / total * 100}% ${(end += count) / total * 100}%`);
    if (total) row.querySelector('i').style.background = `linear-gradient(to right, ${stops.join(', ')})`;
    return row;
  });
  const more = (number, first, end) => number <= 0 ? [] : [html('button', {
    type: 'button', class: 'rest', text: `${thousands(number)} more`, onclick: () => {
      [state.first, state.end] = [first, end];
      drawItems();
    }})];
  $('#list').replaceChildren(
    ...more(state.first, Math.max(0, state.first - LISTED), state.end), ...rows,
    ...more(listed.length - state.end, state.first, state.end + LISTED));
  if (!listed.length) $('#list').append(html('p', {class: 'empty', text: 'No such video.'}));
  markItem();
}

function markItem() {
  const list = $('#list');
  list.querySelector('[aria-selected=true]')?.setAttribute('aria-selected', false);
  document.getElementById('video-' + state.video)?.setAttribute('aria-selected', true);
  list.setAttribute('aria-activedescendant', 'video-' + state.video);
}

// Marks the video that is shown, and brings it into sight.
function markListed() {
  const list = $('#list'), place = listed.indexOf(state.video);
  if (place >= 0 && (place < state.first || place >= state.end)) {
    [state.first, state.end] = [Math.max(0, place - LISTED / 2), place + LISTED / 2];
    drawItems();
  } else markItem();
  const row = document.getElementById('video-' + state.video);    // scroll the list alone, not the page
  if (!row) return;
  const top = row.offsetTop - list.offsetTop;
  if (top < list.scrollTop) list.scrollTop = top;
  const below = top + row.offsetHeight - list.clientHeight;
  if (below > list.scrollTop) list.scrollTop = below;
}

// Goes to the videos, in another order and of a class.
function showVideos(sort, label) {
  state.sort = sort;
  $('#sort').value = sort;
  setLabel(label);
  if (listed.length) showVideo(listed[0]);
  $('#videos').scrollIntoView();
}

function showVideo(video) {
  state.video = video;
  [state.from, state.to, state.time] = [0, lengthOf[video], null];
  loadClip();
  markListed();
  drawTimeline();
}

function stepVideo(by) {
  const place = listed.indexOf(state.video) + by;
  if (place >= 0 && place < listed.length) showVideo(listed[place]);
}

// ---- the timeline ---------------------------------------------------------------------------------------------------

const LEFT = 44, RIGHT = 14;
let plotWidth = 0;    // of the timeline in pixels, from LEFT to RIGHT
const at = time => LEFT + (time - state.from) / (state.to - state.from) * plotWidth;
const timeAt = x => state.from + (x - LEFT) / plotWidth * (state.to - state.from);
const inView = (start, end) => end >= state.from && start <= state.to;
const clip = (start, end) => {
  const left = Math.max(LEFT, at(start));
  return [left, Math.max(2, Math.min(LEFT + plotWidth, at(end)) - left)];
};

// The classes of a video: first those annotated there, each group by its best score.
function classesOf(video) {
  const classes = new Map();
  const of = label => {
    if (!classes.has(label)) classes.set(label, {label, rows: [], instances: [], tagged: false, best: -Infinity});
    return classes.get(label);
  };
  for (const g of instancesOf[video]) of(instances.label[g]).instances.push(g);
  for (const row of tagsOf[video]) of(instances.tag_label[row]).tagged = true;
  for (const row of detectionsOf[video]) {
    const own = of(detections.label[row]);
    own.rows.push(row);
    own.best = Math.max(own.best, detections.score[row]);
  }
  const annotated = c => c.instances.length > 0 || c.tagged;
  const sorted = [...classes.values()].filter(c => chosen(c.label)).sort((a, b) =>
    annotated(b) - annotated(a) || b.best - a.best || a.label - b.label);
  const first = state.label < 0 ? sorted.filter(annotated).length || 3 : sorted.length;
  return [sorted.slice(0, first), sorted.slice(first)];
}

function drawTimeline() {
  const video = state.video, box = $('#timeline');
  if (!data.videos.length) return;
  plotWidth = Math.max(1, box.clientWidth - LEFT - RIGHT);    // a page in the background may have no width
  const rows = detectionsOf[video].filter(row => chosen(detections.label[row]));
  const reached = rows.filter(row => detections.score[row] >= state.threshold);
  const visible = reached.filter(row => !state.hidden.has(kindOf(row, state.tiou)));
  const [first, others] = classesOf(video);

  const {ap, missed, instances: number} = summaries[video], curve = curveOf.get(video);
  $('#viewer h3').textContent = data.videos[video];
  $('#viewer .facts').textContent = [
    `${seconds(lengthOf[video])} s`, curve === undefined ? '' : `${curves.snippets[curve]} snippets`,
    number ? `${number - missed} of ${number} instances found` : SCORED ? 'no instance annotated' : '',
    number ? `AP ${percent(ap)} % by itself` : '',
  ].filter(Boolean).join(' · ');
  $('#threshold-value').textContent = scoreText(state.threshold, decimals);
  let everywhere = 0;
  for (const score of detections.score) everywhere += score >= state.threshold;
  $('#shown').replaceChildren(
    html('b', {text: visible.length}), ` of ${thousands(detections.number[video])} detections`,
    html('small', {text: ` (${thousands(everywhere)} of ${thousands(detections.score.length)} in all videos)`}));
  drawKinds(reached);
  box.replaceChildren(
    drawMinimap(video),
    ...first.map(c => drawClass(video, c)),
    ...(others.length ? [drawOthers(video, first, others)] : []),
    ...(curve === undefined ? [] : [drawActionness(video, curve)]),
    html('div', {id: 'cursor', hidden: ''}), html('div', {id: 'brush', hidden: ''}),
    html('div', {id: 'playhead', hidden: ''}));
  placePlayhead();
  keepAddress();
}

// The classes that a reader asks for last, closed until asked for.
function drawOthers(video, first, others) {
  const names = others.slice(0, 4).map(c => `${shorten(data.labels[c.label])} ${roughly(c.best)}`);
  const isAnnotated = first.some(c => c.instances.length || c.tagged);
  const words = others.length === 1 ? 'more class' : 'more classes';
  const keep = () => box.open ? state.opened.delete(video) : state.opened.add(video);    // it is about to turn
  const box = html('details', {class: 'block others'}, html('summary', {onclick: keep}, html('b', {text: `${others.length} ${words}`}),
    ` detected${isAnnotated ? ', not annotated here' : ''}: ${names.join(', ')}${others.length > 4 ? ', …' : ''}`),
  ...others.map(c => drawClass(video, c)));
  box.open = state.opened.has(video);
  return box;
}

function drawKinds(reached) {
  const counts = new Array(data.kinds.length).fill(0);
  for (const row of reached) counts[kindOf(row, state.tiou)]++;
  const toggle = kind => {
    if (!state.hidden.delete(kind)) state.hidden.add(kind);
    drawTimeline();
    $('.kinds').children[kind].focus();
  };
  const title = kind => kind === NOT_JUDGED ?
    'Behind the best of its class, ten for each of its instances, or of a class without instances' : '';
  $('.kinds').replaceChildren(...data.kinds.map((name, kind) => html('button', {
    type: 'button', 'aria-pressed': !state.hidden.has(kind), title: title(kind), onclick: () => toggle(kind)},
  html('i', {class: `swatch k${kind}`}), `${name} ${counts[kind]}`)));
}

function drawMinimap(video) {
  const whole = lengthOf[video], x = time => LEFT + clamp(time / whole, 0, 1) * plotWidth;
  const parts = [rect(LEFT, 6, plotWidth, 14, {fill: 'var(--hover)'})];
  for (const [from, to] of covered(instancesOf[video].filter(g => chosen(instances.label[g])), x))
    parts.push(rect(from, 8, to - from, 10, {class: 'instance'}));
  parts.push(rect(x(state.from), 4, Math.max(3, x(state.to) - x(state.from)), 18, {class: 'window', rx: 2}));
  return html('div', {}, wide(26, {class: 'minimap', 'aria-hidden': 'true'}, ...parts), timeAxis());
}

// The pixels that instances cover, as runs: as many as the picture is wide, be there a million of them.
function covered(rows, x) {
  const change = new Int32Array(Math.ceil(LEFT + plotWidth) + 3), runs = [];
  for (const g of rows) {
    const left = Math.floor(x(instances.start[g]));
    change[left]++;
    change[Math.max(left + 1, Math.ceil(x(instances.end[g])))]--;
  }
  let depth = 0;
  change.forEach((by, pixel) => {
    if (!depth && by > 0) runs.push([pixel, pixel + 1]);
    depth += by;
    if (depth) runs.at(-1)[1] = pixel + 1;
  });
  return runs;
}

const wide = (height, attributes, ...parts) => picture(LEFT + plotWidth + RIGHT, height, attributes, ...parts);

function timeAxis() {
  const parts = ticks(state.from, state.to, Math.max(2, plotWidth / 90)).flatMap(({value, label}) => [
    line(at(value), 0, at(value), 4, {class: 'axis'}), text(at(value), 15, label, {'text-anchor': 'middle'})]);
  return wide(20, {'aria-hidden': 'true'}, text(8, 15, 's'), ...parts);
}

const yAxis = (y, from, to, number) => ticks(from, to, number).flatMap(({value, label}) => [
  line(LEFT, y(value), LEFT + plotWidth, y(value), {class: 'axis'}),
  text(LEFT - 5, y(value) + 4, label, {'text-anchor': 'end'})]);

// Nested, and so cut at its edges.
const cropped = (height, ...children) =>
  svg('svg', {x: LEFT, y: 0, width: plotWidth, height, viewBox: `${LEFT} 0 ${plotWidth} ${height}`}, ...children);

function bands(own, top, height) {
  return own.map(g => {
    const [x, width] = clip(instances.start[g], instances.end[g]);
    return rect(x, top, width, height, {class: 'band'});
  });
}

function bestOverlap(row) {
  let best = null, most = 0;
  for (const g of instancesOf[detections.video[row]]) {
    const inner = Math.min(detections.end[row], instances.end[g]) - Math.max(detections.start[row], instances.start[g]);
    const outer = detections.end[row] - detections.start[row] + instances.end[g] - instances.start[g] - inner;
    if (inner > 0 && inner / outer > most) {
      most = inner / outer;
      best = g;
    }
  }
  return best === null ? 'overlaps no instance' : `tIoU ${most.toFixed(2)} with ${data.labels[instances.label[best]]}`;
}

function drawClass(video, {label, rows: all, instances: own, tagged, best}) {
  const name = data.labels[label], within = g => inView(instances.start[g], instances.end[g]);
  const rows = all.filter(row =>
    detections.score[row] >= state.threshold && !state.hidden.has(kindOf(row, state.tiou)));
  const near = rows.filter(row => inView(detections.start[row], detections.end[row]));
  const annotated = own.filter(within).slice(0, MOST), drawn = near.slice(0, MOST);
  // The panel grows with what it holds, and its axis begins at the threshold.
  const top = SCORED ? 26 : 10, height = rows.length ? clamp(70 + 2.5 * near.length, 90, 300) : SCORED ? 30 : 0;
  const bottom = Math.min(state.threshold, highest - step);
  const y = score => top + (highest - score) / (highest - bottom) * (height - top - 10);
  const parts = [...(SCORED ? [text(8, 15, 'truth')] : []), ...bands(annotated, 18, Math.max(0, height - 26))];
  for (const g of annotated) {
    const [x, width] = clip(instances.start[g], instances.end[g]), found = isFound(g, state.tiou);
    const tip = `${name}\n${seconds(instances.start[g])} to ${seconds(instances.end[g])} s\n` +
                `${found ? 'found' : 'missed'} at tIoU ${data.tiou[state.tiou]}`;
    parts.push(rect(x, 6, width, 11, {class: found ? 'instance' : 'instance lost', rx: 1, 'data-tip': tip}));
  }
  if (rows.length) parts.push(...yAxis(y, bottom, highest, 4));
  for (const row of drawn.reverse()) {    // the best on top
    const [x, width] = clip(detections.start[row], detections.end[row]);
    parts.push(rect(x, y(detections.score[row]) - 2.5, width, 5, {
      class: `hit kind k${kindOf(row, state.tiou)}`, rx: 1.5, 'data-row': row}));
  }

  const found = own.filter(g => isFound(g, state.tiou)).length, pair = pairOf.get(`${video} ${label}`);
  const count = rows.length ? `detections by score: ${thousands(rows.length)} of ${thousands(all.length)}` :
    all.length ? `${plural(all.length, 'detection')}, none in sight; the best has ${exactly(best)}` :
      'no detection';
  const limits = [
    own.length > MOST ? `the first ${thousands(MOST)} instances in view drawn` : '',
    near.length > MOST ? `the best ${thousands(MOST)} detections in view drawn` : ''].filter(Boolean).join(', ');
  const truth = own.length ? `${found} of ${own.length} found` : tagged ? 'said to happen here, not when' :
    SCORED ? 'not annotated in this video' : '';
  return html('div', {class: 'block'},
    html('p', {}, html('b', {text: name, title: name}), ...[truth, count, limits].filter(Boolean).map(words =>
      html('span', {text: words})),
    ...(pair === undefined ? [] : [key('line', 'selection score', 'blue'), key('line', 'class activation', 'red')]),
    copyButton()),
    wide(height, {role: 'img', 'aria-label': 'Instances, and detections by score'}, ...parts),
    ...(pair === undefined ? [] : drawScores(video, annotated, pair)));
}

// An entry of a legend: a swatch or a line, and what it stands for.
const key = (shape, content, hue) =>
  html('span', {}, html('i', {class: shape, ...(hue && {'--colour': `var(--${hue})`})}), content);

// One curve of bytes from `offset` on, over the part in view, as a path; snippet i begins at i times its length.
function path(bytes, offset, video, y) {
  const length = curves.seconds[curveOf.get(video)];
  const first = Math.max(0, Math.floor(state.from / length));
  const last = Math.min(curves.count - 1, Math.ceil(state.to / length));
  let d = '';
  for (let i = first; i <= last; i++)
    d += `${d ? 'L' : 'M'}${at(i * length).toFixed(1)} ${y(bytes[offset + i] / 255).toFixed(1)}`;
  return d;
}

function drawScores(video, own, pair) {
  const height = 66, y = value => 6 + (1 - value) * (height - 12), offset = pair * curves.count;
  const low = curves.low[pair], high = curves.high[pair] > low ? curves.high[pair] : low + 1;
  const casAxis = yAxis(value => y((value - low) / (high - low)), low, high, 2);
  const panel = (axis, bytes, hue, name) => wide(height, {role: 'img', 'aria-label': name}, ...axis,
    cropped(height, ...bands(own, 0, height), svg('path', {class: 'curve ' + hue, d: path(bytes, offset, video, y)})));
  return [panel(yAxis(y, 0, 1, 2), curves.selection, 'blue', 'Selection score'),
          panel(casAxis, curves.cas, 'red', 'Class activation sequence')];
}

function drawActionness(video, curve) {
  const height = 120, y = value => 6 + (1 - value) * (height - 12);
  const offset = curve * curves.count, length = curves.seconds[curve], shapes = ['', '', ''];
  let end;
  for (let i = 0; i < curves.count; i = end) {
    const region = curves.region[offset + i];
    for (end = i + 1; end < curves.count && curves.region[offset + end] === region;) end++;
    const left = at(i * length).toFixed(1), right = at(end * length).toFixed(1);
    if (inView(i * length, end * length)) shapes[region] += `M${left} 0H${right}V${height}H${left}Z`;
  }
  const median = (hue, which) => {
    const level = y(curves.medians[which][curve]);
    return line(LEFT, level, LEFT + plotWidth, level, {class: `median ${hue}`});
  };
  return html('div', {class: 'block'},
    html('p', {}, html('b', {text: 'Actionness'}),
      key('line', 'class-aware', 'blue'), key('line', 'class-agnostic', 'red'), html('span', {text: '- - medians'}),
      ...[2, 0, 1].map(region => key(`swatch r${region}`, NAMES_OF_REGIONS[region])), copyButton()),
    wide(height, {role: 'img', 'aria-label': 'Actionness'}, ...yAxis(y, 0, 1, 2), cropped(height,
      ...shapes.map((d, region) => svg('path', {d, class: 'r' + region})), median('blue', 0), median('red', 1),
      svg('path', {class: 'curve blue', d: path(curves.aware, offset, video, y)}),
      svg('path', {class: 'curve red', d: path(curves.agnostic, offset, video, y)}))),
    timeAxis());
}

// ---- moving along the timeline --------------------------------------------------------------------------------------

function setView(from, to) {
  const whole = lengthOf[state.video], span = clamp(to - from, Math.min(whole, 0.5), whole);
  state.from = clamp(from, 0, whole - span);
  state.to = state.from + span;
  drawTimeline();
}

function zoom(factor, around = (state.from + state.to) / 2) {
  setView(around - (around - state.from) * factor, around + (state.to - around) * factor);
}

const pan = share => setView(state.from + share * (state.to - state.from), state.to + share * (state.to - state.from));

// What the tooltip says at a point: the detection or instance there, else the curves at that time.
function describe(event) {
  const {tip} = event.target.dataset, row = Number(event.target.dataset.row ?? -1);
  if (tip) return tip;
  if (row >= 0) return [
    data.labels[detections.label[row]],
    `${seconds(detections.start[row])} to ${seconds(detections.end[row])} s, ` +
      `score ${exactly(detections.score[row])}`,
    ...(SCORED ? [data.kinds[kindOf(row, state.tiou)], bestOverlap(row)] : [])].join('\n');

  const time = timeAt(event.clientX - $('#timeline').getBoundingClientRect().left), curve = curveOf.get(state.video);
  if (time < state.from || time > state.to) return '';
  if (curve === undefined) return `${seconds(time)} s`;
  const snippet = clamp(Math.floor(time / curves.seconds[curve]), 0, curves.count - 1);
  const index = curve * curves.count + snippet;
  const value = byte => (byte / 255).toFixed(2);
  const lines = [
    `${seconds(time)} s, snippet ${snippet} of 0 … ${curves.count - 1}`, NAMES_OF_REGIONS[curves.region[index]],
    `actionness ${value(curves.aware[index])} aware, ${value(curves.agnostic[index])} agnostic`];
  for (const [label, name] of data.labels.entries()) {
    const pair = chosen(label) ? pairOf.get(`${state.video} ${label}`) : undefined;
    if (pair === undefined) continue;
    const place = pair * curves.count + snippet;
    const cas = curves.low[pair] + (curves.high[pair] - curves.low[pair]) * curves.cas[place] / 255;
    lines.push(`${shorten(name)}: selection ${value(curves.selection[place])}, activation ${minus(cas.toFixed(1))}`);
  }
  return lines.join('\n');
}

function listenToTimeline() {
  const box = $('#timeline');
  let drag = null;
  const place = event => clamp(event.clientX - box.getBoundingClientRect().left, LEFT, LEFT + plotWidth);
  const slide = x => {
    const half = (state.to - state.from) / 2, centre = (x - LEFT) / plotWidth * lengthOf[state.video];
    setView(centre - half, centre + half);
  };
  box.addEventListener('pointerdown', event => {
    if (event.button || event.target.closest('button, summary')) return;
    drag = {row: event.target.dataset.row, from: place(event), map: Boolean(event.target.closest('.minimap'))};
    box.setPointerCapture(event.pointerId);
    if (drag.map) slide(drag.from);
  });
  box.addEventListener('pointermove', event => {
    const x = place(event);
    if (drag && drag.map) return slide(x);
    $('#cursor').hidden = false;
    $('#cursor').style.left = x + 'px';
    if (!drag) return tooltip(event, describe(event));
    $('#brush').hidden = Math.abs(x - drag.from) < 4;
    $('#brush').style.left = Math.min(x, drag.from) + 'px';
    $('#brush').style.width = Math.abs(x - drag.from) + 'px';
    tooltip(event, `${seconds(timeAt(Math.min(x, drag.from)))} to ${seconds(timeAt(Math.max(x, drag.from)))} s`);
  });
  box.addEventListener('pointerup', event => {
    const x = place(event), from = drag;
    drag = null;
    $('#brush').hidden = true;
    const times = from && [from.from, x].map(timeAt).sort((a, b) => a - b);
    if (!from || from.map) return;
    if (Math.abs(x - from.from) >= 4) return setView(...times);
    if (event.pointerType === 'touch') tooltip(event, describe(event));
    if (from.row === undefined) mark(timeAt(x));
    else mark(detections.start[from.row], detections.end[from.row]);
  });
  box.addEventListener('pointercancel', () => {
    drag = null;
    $('#brush').hidden = true;
  });
  box.addEventListener('pointerleave', () => {
    $('#cursor').hidden = true;
    tooltip();
  });
  box.addEventListener('dblclick', () => setView(0, lengthOf[state.video]));
  box.addEventListener('wheel', event => {
    if (event.ctrlKey || event.metaKey) zoom(Math.exp(event.deltaY / 300), timeAt(place(event)));
    else if (Math.abs(event.deltaX) > Math.abs(event.deltaY)) pan(event.deltaX / plotWidth);
    else return;
    event.preventDefault();
  }, {passive: false});
}

// ---- the video itself ----------------------------------------------------------------------------------------------

let until = null;    // where to stop, when a detection plays

const addressOf = video => data.clips && data.clips[video];
const clipIsThere = () => Boolean(addressOf(state.video)) && !$('#clip').hidden;

function loadClip() {
  const clip = $('#clip'), address = addressOf(state.video);
  until = null;
  $('.player').hidden = !address;
  if (address === clip.getAttribute('src')) return;
  clip.hidden = false;
  $('.player .note').hidden = true;
  if (address) clip.setAttribute('src', address);
  else if (clip.hasAttribute('src')) {
    clip.removeAttribute('src');
    clip.load();
  }
}

function plainAddress(address) {
  try {
    return decodeURIComponent(address);
  } catch {    // bytes that are no UTF-8
    return address;
  }
}

// Marks a time, and goes there with the video; with an end it plays until then.
function mark(time, end = null) {
  state.time = clamp(time, 0, lengthOf[state.video]);
  placePlayhead();
  keepAddress();
  if (!clipIsThere()) return;
  until = end;
  $('#clip').currentTime = state.time;
  if (end !== null) play();
}

// A browser may refuse to play before the reader has touched the page.
const play = () => $('#clip').play().catch(() => {});

function placePlayhead() {
  const line = $('#playhead');
  if (!line) return;
  line.hidden = state.time === null || !inView(state.time, state.time);
  line.style.left = at(state.time ?? 0) + 'px';
}

function followClip() {
  const clip = $('#clip'), {from, to} = state;
  if (state.time === null && !clip.currentTime) return;    // just loaded
  state.time = clip.currentTime;
  if (until !== null && clip.currentTime >= until) {
    until = null;
    clip.pause();
  }
  if (!clip.paused && (state.time > to || state.time < from) && to - from < lengthOf[state.video])
    setView(state.time, state.time + to - from);
  else placePlayhead();
}

function listenToClip() {
  const clip = $('#clip');
  const run = () => {
    followClip();
    if (!clip.paused) requestAnimationFrame(run);
  };
  clip.addEventListener('play', run);
  clip.addEventListener('seeking', () => { if (clip.readyState) followClip(); });
  clip.addEventListener('timeupdate', followClip);
  clip.addEventListener('pause', keepAddress);
  clip.addEventListener('loadedmetadata', () => { if (state.time !== null) clip.currentTime = state.time; });
  clip.addEventListener('error', () => {
    if (!clip.hasAttribute('src')) return;
    clip.hidden = true;
    $('.player .note').hidden = false;
    $('.player .note').textContent = `This browser cannot play ${plainAddress(clip.getAttribute('src'))}.`;
  });
  document.body.classList.toggle('has-clips', Boolean(data.clips));
}

function stepClip(by) {
  $('#clip').pause();
  mark((state.time ?? 0) + by);
}

function playOrPause() {
  until = null;
  if ($('#clip').paused) play();
  else $('#clip').pause();
}

// ---- the address of what is shown ----------------------------------------------------------------------------------

// #video=NAME&t=SECONDS&view=FROM,TO&class=NAME&tiou=0.5&score=0.4: all but the video only where it says something.
function addressNow() {
  const parts = new URLSearchParams({video: data.videos[state.video]});
  if (state.time !== null) parts.set('t', state.time.toFixed(2));
  if (state.from > 0 || state.to < lengthOf[state.video])
    parts.set('view', `${state.from.toFixed(2)},${state.to.toFixed(2)}`);
  if (state.label >= 0) parts.set('class', data.labels[state.label]);
  if (state.tiou !== TIOU) parts.set('tiou', data.tiou[state.tiou]);
  if (state.threshold !== BEGIN) parts.set('score', state.threshold.toFixed(decimals));
  return '#' + parts;
}

let begun = false, waiting = 0;    // nothing is written before the reader has done something

function keepAddress() {
  if (!begun) return;
  clearTimeout(waiting);
  waiting = setTimeout(() => history.replaceState(null, '', addressNow()), 200);
}

// Shows what the address of the page says; false where it says nothing of a video of this page.
function followAddress() {
  const parts = new URLSearchParams(location.hash.slice(1));
  const video = data.videos.indexOf(parts.get('video')), number = name => Number.parseFloat(parts.get(name));
  if (video < 0) return false;
  state.label = data.labels.indexOf(parts.get('class'));
  state.tiou = data.tiou.includes(parts.get('tiou')) ? data.tiou.indexOf(parts.get('tiou')) : TIOU;
  state.threshold = Number.isFinite(number('score')) ? number('score') : BEGIN;
  state.query = '';
  [$('#label').value, $('#threshold').value, $('#search').value] = [state.label, state.threshold, ''];
  markTiou();
  state.video = video;
  [state.from, state.to] = [0, lengthOf[video]];
  loadClip();
  const view = (parts.get('view') || '').split(',').map(Number.parseFloat);
  if (view.length === 2 && view[1] > view[0])
    [state.from, state.to] = view.map(time => clamp(time, 0, lengthOf[video]));
  if (state.to <= state.from) [state.from, state.to] = [0, lengthOf[video]];
  state.time = Number.isFinite(number('t')) ? clamp(number('t'), 0, lengthOf[video]) : null;
  if (state.time !== null && $('#clip').readyState) $('#clip').currentTime = state.time;
  drawAll();
  $('#videos').scrollIntoView();
  return true;
}

// ---- copying a panel as SVG ----------------------------------------------------------------------------------------

const PAINT = [
  'fill', 'fill-opacity', 'stroke', 'stroke-width', 'stroke-opacity', 'stroke-dasharray', 'stroke-linejoin',
  'paint-order', 'font-size', 'font-weight', 'text-anchor', 'visibility'];

// Colours as other programs read them.
const plainColour = value => value.replace(
  /color\(srgb ([\d.e-]+) ([\d.e-]+) ([\d.e-]+)(?: \/ ([\d.e-]+))?\)/, (_, r, g, b, alpha) => {
    const channels = [r, g, b].map(channel => Math.round(255 * channel));
    return alpha === undefined ? `rgb(${channels})` : `rgba(${channels}, ${alpha})`;
  });

// A drawing with its colours in it, as the style sheet gives them now.
function painted(original) {
  const copy = original.cloneNode(true), from = [original, ...original.querySelectorAll('*')];
  [copy, ...copy.querySelectorAll('*')].forEach((node, i) => {
    const style = getComputedStyle(from[i]);
    for (const name of ['class', 'role', 'aria-label', 'aria-hidden', 'data-row', 'data-tip', 'style'])
      node.removeAttribute(name);
    if (node.childElementCount && node.tagName !== 'text') return;
    for (const name of PAINT) node.setAttribute(name, plainColour(style.getPropertyValue(name)));
  });
  return copy;
}

const isClosed = node => node.tagName !== 'SUMMARY' && Boolean(node.parentElement.closest('details:not([open])')) &&
  !node.parentElement.closest('summary');

// The texts of a panel outside its drawings, one a line, and the swatches of its legend.
function words(box, frame) {
  const isLeftOut = node => node instanceof SVGElement || node.tagName === 'BUTTON' || isClosed(node);
  const walker = document.createTreeWalker(box, NodeFilter.SHOW_ELEMENT | NodeFilter.SHOW_TEXT, node =>
    isLeftOut(node) ? NodeFilter.FILTER_REJECT : NodeFilter.FILTER_ACCEPT), result = [];
  const range = document.createRange();
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const style = getComputedStyle(node.nodeType === Node.TEXT_NODE ? node.parentElement : node);
    if (node.tagName === 'I') {
      const {left, top, width, height} = node.getBoundingClientRect();
      const isLine = node.className === 'line', fill = isLine ? style.borderTopColor : style.backgroundColor;
      result.push(rect(left - frame.left, top - frame.top, width, isLine ? 2 : height, {fill: plainColour(fill)}));
    }
    if (node.nodeType !== Node.TEXT_NODE) continue;
    let row = null;
    for (const {index, 0: word} of node.data.matchAll(/\S+/g)) {
      range.setStart(node, index);
      range.setEnd(node, index + word.length);
      const {left, bottom, width} = range.getBoundingClientRect();
      if (!width) continue;
      if (row && Math.abs(row.bottom - bottom) < 2) row.element.textContent += ' ' + word;
      else {
        row = {bottom, element: text((left - frame.left).toFixed(1), (bottom - frame.top - 4).toFixed(1), word, {
          'font-size': style.fontSize, 'font-weight': style.fontWeight, fill: plainColour(style.color)})};
        result.push(row.element);
      }
    }
  }
  return result;
}

// Everything drawn in a part of the page as one SVG file that needs no style sheet.
function standalone(box) {
  const frame = box.getBoundingClientRect(), [width, height] = [frame.width, frame.height].map(Math.ceil);
  const card = getComputedStyle($('.card')).backgroundColor;
  const root = svg('svg', {
    viewBox: `0 0 ${width} ${height}`, width, height, 'font-family': 'Helvetica, Arial, sans-serif'},
  rect(0, 0, width, height, {fill: card}), ...words(box, frame));
  for (const original of box.querySelectorAll(':not(svg) > svg')) {
    const place = original.getBoundingClientRect();
    if (!place.width || isClosed(original)) continue;
    root.append(fill(painted(original), {
      x: (place.left - frame.left).toFixed(1), y: (place.top - frame.top).toFixed(1), width: place.width,
      height: place.height, overflow: 'visible'}, []));
  }
  return new XMLSerializer().serializeToString(root);
}

async function copy(content, button) {
  const before = button.textContent;
  try {
    await navigator.clipboard.writeText(content);
    button.textContent = 'copied';
  } catch {
    button.textContent = 'not allowed';
  }
  setTimeout(() => { button.textContent = before; }, 1500);
}

const copyButton = () => html('button', {type: 'button', class: 'copy', text: 'SVG', title: 'Copy as SVG',
  onclick: event => copy(standalone(event.target.closest('figure, .block')), event.target)});

// ---- controls and keys ----------------------------------------------------------------------------------------------

function setThreshold(value) {
  const slider = $('#threshold');
  slider.value = value;
  state.threshold = Number(slider.value);
  drawTimeline();
}

function setLabel(label) {
  state.label = label;
  $('#label').value = label;
  drawList();
}

function stepLabel(by) {
  const options = [...$('#label').options].map(option => Number(option.value));
  setLabel(options[(options.indexOf(state.label) + by + options.length) % options.length]);
}

// Of a video whose file plays.
const clipKeys = {
  ' ': playOrPause, ',': () => stepClip(-1 / 25), '.': () => stepClip(1 / 25), '<': () => stepClip(-1),
  '>': () => stepClip(1)};

const keys = {
  j: () => stepVideo(1), k: () => stepVideo(-1), c: () => stepLabel(1), C: () => stepLabel(-1),
  t: () => setTiou(state.tiou + 1), T: () => setTiou(state.tiou - 1),
  '[': () => setThreshold(state.threshold - 5 * step), ']': () => setThreshold(state.threshold + 5 * step),
  ArrowLeft: () => pan(-0.25), ArrowRight: () => pan(0.25),
  '+': () => zoom(0.5), '=': () => zoom(0.5), '-': () => zoom(2), 0: () => setView(0, lengthOf[state.video]),
  '/': () => $('#search').focus(), '?': () => $('#help').showModal(),
};

function onKey(event) {
  const target = event.target;
  if (event.ctrlKey || event.metaKey || event.altKey || $('#help').open) return;
  if (event.key === 'Escape') target.blur();
  if (target.matches('input[type=search], select')) return;
  if (target.matches('input') && event.key.startsWith('Arrow')) return;    // moves the slider
  if (event.key === ' ' && target.matches('button, summary, video')) return;    // presses it
  const action = keys[event.key] || (clipIsThere() && clipKeys[event.key]);
  if (target.getAttribute('role') === 'radio' && event.key.startsWith('Arrow')) {
    const on = event.key === 'ArrowRight' || event.key === 'ArrowDown';
    setTiou((state.tiou + (on ? 1 : -1) + data.tiou.length) % data.tiou.length);
    $('#tiou [aria-checked=true]').focus();
  } else if (target.id === 'list' && (event.key === 'ArrowDown' || event.key === 'ArrowUp'))
    stepVideo(event.key === 'ArrowDown' ? 1 : -1);
  else if (action) {
    const {top, bottom} = $('#viewer').getBoundingClientRect();
    const unseen = bottom < 100 || top > innerHeight - 100;    // do nothing that nobody sees
    if (unseen && !'tT?'.includes(event.key)) $('#videos').scrollIntoView();
    action();
  } else return;
  event.preventDefault();
}

function listen() {
  $('#tiou').replaceChildren(...data.tiou.map((key, index) => html('button', {
    type: 'button', role: 'radio', text: key, onclick: () => setTiou(index)})));
  markTiou();
  $('#label').append(html('option', {value: -1, text: 'all classes'}),
    ...data.labels.map((name, label) => html('option', {value: label, text: shorten(name)})));
  $('#sort').append(...orders.map(([name], index) => html('option', {value: index, text: 'by ' + name})));
  fill($('#threshold'), {min: LOWEST, max: (Math.ceil(highest / step) * step).toFixed(decimals), step}, []);
  $('#threshold').value = state.threshold;
  $('#threshold').addEventListener('input', event => setThreshold(event.target.value));
  $('#search').addEventListener('input', event => { state.query = event.target.value; drawList(); });
  $('#label').addEventListener('change', event => setLabel(Number(event.target.value)));
  $('#sort').addEventListener('change', event => { state.sort = Number(event.target.value); drawList(); });
  $('#previous').addEventListener('click', () => stepVideo(-1));
  $('#next').addEventListener('click', () => stepVideo(1));
  $('#zoom-in').addEventListener('click', () => zoom(0.5));
  $('#zoom-out').addEventListener('click', () => zoom(2));
  $('#zoom-reset').addEventListener('click', () => setView(0, lengthOf[state.video]));
  $('#help-button').addEventListener('click', () => $('#help').showModal());
  $('#link').addEventListener('click', event => copy(location.href.split('#')[0] + addressNow(), event.target));
  $('#viewer .copy').addEventListener('click', event => copy(standalone($('#timeline')), event.target));
  for (const caption of document.querySelectorAll('.charts figcaption')) caption.append(copyButton());
  $('#classes .scroll').addEventListener('scroll', hintAtMore);
  document.addEventListener('keydown', onKey);
  addEventListener('hashchange', followAddress);
  listenToTimeline();
  listenToClip();
  let width = innerWidth;
  addEventListener('resize', () => {
    if (innerWidth === width) return;    // a phone's address bar comes and goes
    width = innerWidth;
    drawAll();
  });
}

function drawAll() {
  drawSummary();
  if (SCORED) {
    drawClasses();
    drawErrors();
  } else drawFoundClasses();
  drawList();
}

addEventListener('error', event => {
  $('#broken').hidden = false;
  $('#broken').textContent = `The page is not whole, its script failed: ${event.message}`;
});
document.body.classList.toggle('unscored', !SCORED);
if (data.videos.length) state.to = lengthOf[0];
state.row = data.classes.indexOf(sortedClasses()[0]);
listen();
loadClip();
if (!followAddress()) drawAll();
begun = true;
