'use strict';
// Draws the report page; eval/report.py packs the data. Text from files is only ever set as text content.

// ---- data -----------------------------------------------------------------------------------------------------------

const data = JSON.parse(document.getElementById('data').textContent);
const TRUE_POSITIVE = 0, NOT_JUDGED = 6;    // indices into data.kinds
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
const curveOf = new Map(curves ? curves.video.map((video, row) => [video, row]) : []);
const pairOf = new Map(
  curves ? curves.pair_video.map((video, row) => [`${video} ${curves.pair_label[row]}`, row]) : []);
const lengthOf = data.videos.map((_, video) => {
  const curve = curveOf.get(video);
  if (data.durations[video]) return data.durations[video];
  if (curve !== undefined) return curves.seconds[curve] * curves.count;
  let end = 1;
  for (const g of instancesOf[video]) end = Math.max(end, instances.end[g]);
  for (const row of detectionsOf[video]) end = Math.max(end, detections.end[row]);
  return end;
});

const kindOf = (row, tiou) => detections.kind[tiou * detections.score.length + row];
const isFound = (row, tiou) => instances.found[tiou * instances.start.length + row];
const chosen = label => state.label < 0 || state.label === label;

let lowest = Infinity, highest = -Infinity;
for (const score of detections.score) {
  lowest = Math.min(lowest, score);
  highest = Math.max(highest, score);
}
if (!(highest > lowest)) [lowest, highest] = lowest < Infinity ? [lowest - 0.5, lowest + 0.5] : [0, 1];
// Of the score slider.
const decimals = Math.max(0, -Math.floor(Math.log10((highest - lowest) / 50))), step = 10 ** -decimals;

const state = {
  tiou: Math.max(0, data.tiou.indexOf('0.5')),
  video: 0, from: 0, to: 1,               // the part of the video in view, seconds
  label: -1, query: '', sort: 0,          // which videos are listed, in which order; -1: all classes
  threshold: Number((Math.floor(lowest / step) * step).toFixed(decimals)),
  hidden: new Set(),                      // kinds of detections
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
  box.textContent = content;
  const {width, height} = box.getBoundingClientRect();
  box.style.left = clamp(event.clientX + 14, 4, innerWidth - width - 4) + 'px';
  box.style.top = (event.clientY + height + 22 < innerHeight ? event.clientY + 16 : event.clientY - height - 10) + 'px';
}

const explain = content => ({onpointermove: event => tooltip(event, content), onpointerleave: () => tooltip()});

// ---- average precision ----------------------------------------------------------------------------------------------

// The places of the hits among detections by falling score, and from each hit on the best precision: the envelope.
function envelope(rows, tiou) {
  const ranks = [], precision = [];
  rows.forEach((row, rank) => { if (kindOf(row, tiou) === TRUE_POSITIVE) ranks.push(rank); });
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
  return {
    counts, ap: ap.length ? mean(ap) : NaN, instances: own.length,
    missed: own.filter(row => !isFound(row, state.tiou)).length,
    concerns: state.label < 0 || own.length + rows.length > 0};
}

// ---- summary and classes --------------------------------------------------------------------------------------------

function setTiou(index) {
  state.tiou = clamp(index, 0, data.tiou.length - 1);
  [...$('#tiou').children].forEach((button, k) => button.setAttribute('aria-checked', k === state.tiou));
  drawAll();
}

function drawSummary() {
  const tile = (name, value) => html('div', {}, html('b', {text: percent(value, 2)}), name);
  $('#summary .tiles').replaceChildren(...Object.entries(data.averages).map(([span, value]) =>
    tile(`mAP, average ${span === 'all' ? 'of all' : span} (%)`, value)));
  $('#summary .map').replaceChildren(
    html('thead', {}, html('tr', {}, html('th', {text: 'tIoU'}),
      ...data.tiou.map((key, index) => html('th', {text: key, class: index === state.tiou ? 'chosen' : ''})))),
    html('tbody', {}, html('tr', {}, html('th', {text: 'mAP (%)'}), ...data.mean_ap.map((value, index) =>
      html('td', {text: percent(value, 2), class: index === state.tiou ? 'heat chosen' : 'heat', '--share': value})))));
  $('#summary .facts').textContent = data.facts;
  $('#summary .notes').replaceChildren(...data.notes.map(note => html('li', {text: note})));
}

function sortedClasses() {
  const columns = {name: c => data.labels[c.label], instances: c => c.instances, average: c => mean(c.ap)};
  const value = columns[state.by] || (c => c.ap[state.by]);
  const compare = (a, b) => value(a) < value(b) ? -1 : value(a) > value(b) ? 1 : a.label - b.label;
  return [...data.classes].sort((a, b) => state.falling ? compare(b, a) : compare(a, b));
}

function sparkline(label, number) {
  const {ranks, precision} = envelope(rowsOfClass(label), state.tiou);
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
  drawPrecisionRecall();
}

function drawPrecisionRecall() {
  const c = data.classes[state.row], rows = rowsOfClass(c.label), now = state.tiou;
  const box = $('#pr .chart'), width = box.clientWidth, height = clamp(width * 0.72, 220, 420);
  const x = recall => 38 + recall * (width - 50), y = precision => 24 + (1 - precision) * (height - 60);
  const parts = ticks(0, 1, 5).flatMap(({value, label}) => [
    line(x(0), y(value), x(1), y(value), {class: 'axis'}), text(x(0) - 6, y(value) + 4, label, {'text-anchor': 'end'}),
    text(x(value), y(0) + 16, label, {'text-anchor': 'middle'})]);
  parts.push(text(x(0.5), height - 2, 'recall', {'text-anchor': 'middle'}), text(x(0) - 24, 12, 'precision'));

  let shown;
  data.tiou.forEach((_, k) => {
    const found = envelope(rows, k);
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
          `found by ${thousands(rows.length)} detections; grey: the other tIoUs`}),
    html('button', {type: 'button', text: 'its videos, lowest AP first', onclick: () => showVideos(1, c.label)}));
  box.replaceChildren(svg('svg', {
    height, role: 'img', 'aria-label': 'Precision over recall',
    onpointerleave: () => { dot.setAttribute('visibility', 'hidden'); tooltip(); },
    onpointermove: event => {
      const recall = (event.clientX - box.getBoundingClientRect().left - x(0)) / (x(1) - x(0));
      const i = clamp(Math.ceil(recall * c.instances) - 1, 0, shown.ranks.length - 1);
      if (i < 0) return;
      const number = shown.ranks[i] + 1, score = detections.score[rows[shown.ranks[i]]];
      fill(dot, {cx: x((i + 1) / c.instances), cy: y(shown.precision[i]), visibility: 'visible'}, []);
      tooltip(event, `recall ${percent((i + 1) / c.instances)} %, precision ${percent((i + 1) / number)} %\n` +
                     `score ≥ ${minus(score.toFixed(3))}: ${i + 1} of ${number} right`);
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
      const tip = `${data.kinds[kind]}: ${percent(share, 2)} %\nof the best ${depth + 1} N_c`;
      parts.push(rect(left + step * (depth + 0.1), y(top), step * 0.8, y(0) - y(share), {
        class: `kind k${kind}`, ...explain(tip)}));
    });
    parts.push(text(left + step * (depth + 0.5), height - 12, depth + 1, {'text-anchor': 'middle'}));
  });
  parts.push(text(0, height + 2, '%'), text(width, height + 2, '× N_c', {'text-anchor': 'end'}));
  const attributes = {height: height + 4, class: 'stack', role: 'img', 'aria-label': 'Kinds of the best detections'};
  box.replaceChildren(svg('svg', attributes, ...parts));
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
  const attributes = {height: row * gain.length, role: 'img', 'aria-label': 'Gain in mAP without a kind'};
  box.replaceChildren(svg('svg', attributes, ...parts));
}

function drawBins(box, what, colour, valuesOf, whole) {
  const characteristics = data.errors.characteristics;
  const width = box.clientWidth, height = 190, left = 34, gap = 18;
  const number = characteristics.reduce((sum, c) => sum + c.bins.length, 0);
  const step = (width - left - gap * (characteristics.length - 1)) / number;
  const y = value => 22 + (1 - value) * (height - 66);
  const parts = percentAxis(left, width, y), words = [], middle = {'text-anchor': 'middle'};
  let x = left;
  for (const c of characteristics) {
    const title = c.title.replace(' in the video', '');
    words.push(text(x + step * c.bins.length / 2, height - 8, title, {...middle, class: 'strong'}));
    valuesOf(c).forEach((value, b) => {
      const note = `${what} ${percent(value)} %\n${c.title} ${c.ranges[b]}\n${thousands(c.instances[b])} instances`;
      const top = y(value || 0);
      parts.push(rect(x + step * 0.1, top, step * 0.8, y(0) - top, {class: `bar ${colour}`, ...explain(note)}));
      words.push(
        text(x + step / 2, top - 4, percent(value, 0), {...middle, class: 'strong'}),
        text(x + step / 2, height - 28, c.bins[b], {...middle, ...explain(note)}));
      x += step;
    });
    x += gap;
  }
  parts.push(line(left, y(whole), width, y(whole), {class: 'reference'}), ...words,
    text(width, 10, `- - all instances: ${percent(whole)} %`, {'text-anchor': 'end'}));
  box.replaceChildren(svg('svg', {height, role: 'img', 'aria-label': what}, ...parts));
}

// ---- the list of videos ---------------------------------------------------------------------------------------------

const orders = [
  ['name', null],
  ['lowest AP', (a, b) => a.ap - b.ap],
  ['highest AP', (a, b) => b.ap - a.ap],
  ['most missed instances', (a, b) => b.missed - a.missed],
  ...data.kinds.slice(1, NOT_JUDGED).map((name, i) =>
    [`most errors: ${name}`, (a, b) => b.counts[i + 1] - a.counts[i + 1]]),
];
const FIRST_KIND = orders.length - NOT_JUDGED + 1;    // the place of the first kind of error among the orders
let listed = [], summaries = [];
const items = data.videos.map((name, video) => html(
  'div', {class: 'video', role: 'option', id: 'video-' + video, onclick: () => showVideo(video)},
  html('span', {}, html('b', {text: name, title: name}), html('em')), html('i')));

function drawList() {
  summaries = data.videos.map((_, video) => summarize(video));
  const query = state.query.toLowerCase(), compare = orders[state.sort][1];
  listed = [...data.videos.keys()].filter(v => summaries[v].concerns && data.videos[v].toLowerCase().includes(query));
  if (compare) listed.sort((a, b) => {
    const [first, second] = [summaries[a], summaries[b]];
    return Number.isNaN(first.ap) - Number.isNaN(second.ap) || compare(first, second) || a - b;
  });
  for (const video of listed) {
    const {counts, ap, missed} = summaries[video];
    const judged = counts.slice(0, NOT_JUDGED), total = judged.reduce((a, b) => a + b, 0);
    let end = 0;
    const stops = judged.map((count, kind) => `var(--k${kind}) ${end / total * 100}% ${(end += count) / total * 100}%`);
    items[video].querySelector('em').textContent =
      Number.isNaN(ap) ? 'not annotated' : (missed ? `${missed} missed · ` : '') + `AP ${percent(ap, 0)}`;
    items[video].querySelector('i').style.background = total ? `linear-gradient(to right, ${stops.join(', ')})` : '';
  }
  $('#list').replaceChildren(...listed.map(video => items[video]));
  if (!listed.length) $('#list').append(html('p', {class: 'empty', text: 'No such video.'}));
  $('.listed').textContent = `${listed.length} of ${data.videos.length}`;
  if (listed.length && !listed.includes(state.video)) showVideo(listed[0]);
  else drawTimeline();
  markListed();
}

function markListed() {
  items.forEach((item, video) => item.setAttribute('aria-selected', video === state.video));
  $('#list').setAttribute('aria-activedescendant', 'video-' + state.video);
  const list = $('#list'), item = items[state.video];    // scroll the list alone, not the page
  if (!item.isConnected) return;
  const top = item.offsetTop - list.offsetTop;
  if (top < list.scrollTop) list.scrollTop = top;
  const below = top + item.offsetHeight - list.clientHeight;
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
  [state.from, state.to] = [0, lengthOf[video]];
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

function drawTimeline() {
  const video = state.video, box = $('#timeline');
  if (!data.videos.length) return;
  plotWidth = box.clientWidth - LEFT - RIGHT;
  const rows = detectionsOf[video].filter(row => chosen(detections.label[row]));
  const reached = rows.filter(row => detections.score[row] >= state.threshold);
  const visible = reached.filter(row => !state.hidden.has(kindOf(row, state.tiou)));
  const labels = new Set(instancesOf[video].map(g => instances.label[g]));
  detectionsOf[video].forEach(row => labels.add(detections.label[row]));

  const {ap, missed, instances: number} = summaries[video], curve = curveOf.get(video);
  $('#viewer h3').textContent = data.videos[video];
  $('#viewer .facts').textContent = [
    `${seconds(lengthOf[video])} s`, curve === undefined ? '' : `${curves.snippets[curve]} snippets`,
    number ? `${number - missed} of ${number} instances found` : 'no instance annotated',
    number ? `AP ${percent(ap)} % by itself` : '',
  ].filter(Boolean).join(' · ');
  $('#threshold-value').textContent = minus(state.threshold.toFixed(decimals));
  let everywhere = 0;
  for (const score of detections.score) everywhere += score >= state.threshold;
  $('#shown').replaceChildren(
    html('b', {text: visible.length}), ` of ${thousands(detectionsOf[video].length)} detections`,
    html('small', {text: ` (${thousands(everywhere)} of ${thousands(detections.score.length)} in all videos)`}));
  drawKinds(reached);
  box.replaceChildren(
    drawMinimap(video),
    ...[...labels].filter(chosen).sort((a, b) => a - b).map(label => drawClass(video, label, visible)),
    ...(curve === undefined ? [] : [drawActionness(video, curve)]),
    html('div', {id: 'cursor', hidden: ''}), html('div', {id: 'brush', hidden: ''}));
}

function drawKinds(reached) {
  const counts = new Array(data.kinds.length).fill(0);
  for (const row of reached) counts[kindOf(row, state.tiou)]++;
  const toggle = kind => {
    if (!state.hidden.delete(kind)) state.hidden.add(kind);
    drawTimeline();
    $('.kinds').children[kind].focus();
  };
  const title = kind =>
    kind === NOT_JUDGED ? 'Behind the 10 N_c best of its class, or of a class without instances' : '';
  $('.kinds').replaceChildren(...data.kinds.map((name, kind) => html('button', {
    type: 'button', 'aria-pressed': !state.hidden.has(kind), title: title(kind), onclick: () => toggle(kind)},
  html('i', {class: `swatch k${kind}`}), `${name} ${counts[kind]}`)));
}

function drawMinimap(video) {
  const whole = lengthOf[video], x = time => LEFT + clamp(time / whole, 0, 1) * plotWidth;
  const parts = [rect(LEFT, 6, plotWidth, 14, {fill: 'var(--hover)'})];
  for (const g of instancesOf[video].filter(g => chosen(instances.label[g]))) {
    const left = x(instances.start[g]);
    parts.push(rect(left, 8, Math.max(1, x(instances.end[g]) - left), 10, {class: 'instance'}));
  }
  parts.push(rect(x(state.from), 4, Math.max(3, x(state.to) - x(state.from)), 18, {class: 'window', rx: 2}));
  return html('div', {}, svg('svg', {class: 'minimap', height: 26, 'aria-hidden': 'true'}, ...parts), timeAxis());
}

function timeAxis() {
  const parts = ticks(state.from, state.to, Math.max(2, plotWidth / 90)).flatMap(({value, label}) => [
    line(at(value), 0, at(value), 4, {class: 'axis'}), text(at(value), 15, label, {'text-anchor': 'middle'})]);
  return svg('svg', {height: 20, 'aria-hidden': 'true'}, text(2, 15, 's'), ...parts);
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

function drawClass(video, label, visible) {
  const name = data.labels[label], rows = visible.filter(row => detections.label[row] === label);
  const all = instancesOf[video].filter(g => instances.label[g] === label);
  const own = all.filter(g => inView(instances.start[g], instances.end[g]));
  const height = rows.length ? 168 : 30, y = score => 26 + (highest - score) / (highest - lowest) * (height - 36);
  const parts = [text(2, 15, 'truth'), ...bands(own, 18, height - 26)];
  for (const g of own) {
    const [x, width] = clip(instances.start[g], instances.end[g]), found = isFound(g, state.tiou);
    const tip = `${name}\n${seconds(instances.start[g])} to ${seconds(instances.end[g])} s\n` +
                `${found ? 'found' : 'missed'} at tIoU ${data.tiou[state.tiou]}`;
    parts.push(rect(x, 6, width, 11, {class: found ? 'instance' : 'instance lost', rx: 1, 'data-tip': tip}));
  }
  if (rows.length) parts.push(...yAxis(y, lowest, highest, 4));
  for (const row of [...rows].reverse()) {    // the best on top
    if (!inView(detections.start[row], detections.end[row])) continue;
    const [x, width] = clip(detections.start[row], detections.end[row]);
    parts.push(rect(x, y(detections.score[row]) - 2.5, width, 5, {
      class: `hit kind k${kindOf(row, state.tiou)}`, rx: 1.5, 'data-row': row}));
  }
  if (rows.length && state.threshold > lowest)
    parts.push(line(LEFT, y(state.threshold), LEFT + plotWidth, y(state.threshold), {class: 'cut'}));

  const found = all.filter(g => isFound(g, state.tiou)).length, pair = pairOf.get(`${video} ${label}`);
  return html('div', {class: 'block'},
    html('p', {}, html('b', {text: name, title: name}),
      html('span', {text: all.length ? `${found} of ${all.length} found` : 'not annotated in this video'}),
      html('span', {text: `detections by score: ${rows.length}`}),
      ...(pair === undefined ? [] : [key('line', 'selection score', 'blue'), key('line', 'class activation', 'red')])),
    svg('svg', {height, role: 'img', 'aria-label': 'Instances, and detections by score'}, ...parts),
    ...(pair === undefined ? [] : drawScores(video, own, pair)));
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
  const panel = (axis, bytes, hue, name) => svg('svg', {height, role: 'img', 'aria-label': name}, ...axis,
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
      ...[2, 0, 1].map(region => key(`swatch r${region}`, NAMES_OF_REGIONS[region]))),
    svg('svg', {height, role: 'img', 'aria-label': 'Actionness'}, ...yAxis(y, 0, 1, 2), cropped(height,
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
      `score ${minus(detections.score[row].toFixed(3))}`,
    data.kinds[kindOf(row, state.tiou)], bestOverlap(row)].join('\n');

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
    if (event.button) return;
    drag = {from: place(event), map: Boolean(event.target.closest('.minimap'))};
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
    if (from && !from.map && Math.abs(x - from.from) >= 4) setView(...times);
    else if (from && event.pointerType === 'touch') tooltip(event, describe(event));
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
  if (target.id === 'list' && (event.key === 'ArrowDown' || event.key === 'ArrowUp'))
    stepVideo(event.key === 'ArrowDown' ? 1 : -1);
  else if (keys[event.key]) {
    const {top, bottom} = $('#viewer').getBoundingClientRect();
    const unseen = bottom < 100 || top > innerHeight - 100;    // do nothing that nobody sees
    if (unseen && !'tT?'.includes(event.key)) $('#videos').scrollIntoView();
    keys[event.key]();
  } else return;
  event.preventDefault();
}

function listen() {
  $('#tiou').replaceChildren(...data.tiou.map((key, index) => html('button', {
    type: 'button', role: 'radio', 'aria-checked': index === state.tiou, text: key, onclick: () => setTiou(index)})));
  $('#label').append(html('option', {value: -1, text: 'all classes'}),
    ...data.labels.map((name, label) => html('option', {value: label, text: shorten(name)})));
  $('#sort').append(...orders.map(([name], index) => html('option', {value: index, text: 'by ' + name})));
  fill($('#threshold'), {min: state.threshold, max: (Math.ceil(highest / step) * step).toFixed(decimals), step}, []);
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
  document.addEventListener('keydown', onKey);
  listenToTimeline();
  let width = innerWidth;
  addEventListener('resize', () => {
    if (innerWidth === width) return;    // a phone's address bar comes and goes
    width = innerWidth;
    drawAll();
  });
}

function drawAll() {
  drawSummary();
  drawClasses();
  drawErrors();
  drawList();
}

state.to = lengthOf[0];
state.row = data.classes.indexOf(sortedClasses()[0]);
listen();
drawAll();
