'use strict';
// Draws the report page from the data that eval/report.py packs. Names from files are only ever set as text content.
// Abbreviations in this file: g is an index of an instance, row of a detection, e of an event, k of a tIoU threshold.

// ---- data -----------------------------------------------------------------------------------------------------------

const data = JSON.parse(document.getElementById('data').textContent);
const SCORED = data.tiou.length > 0;    // with ground truth
const TRUE_POSITIVE = 0, UNCLASSIFIED = 6;    // indices into data.types
const MAX_BARS = 2000;    // instances or detections drawn per panel
const REGIONS = ['consistent background', 'inconsistent', 'consistent action'];
const DEFINITIONS = [    // of data.types; α: the chosen tIoU threshold
  'matched to an instance of its class, tIoU ≥ α',
  'tIoU ≥ α, but a better detection is matched to the instance',
  'tIoU ≥ α with an instance of another class',
  '0.1 ≤ tIoU < α with an instance of its class',
  '0.1 ≤ tIoU < α with an instance of another class',
  'tIoU < 0.1 with every instance',
  'not matched and excluded from the error analysis: not among the 10 N best of its class, which has N instances'];

// Return columns with those that are packed as [type, base64] as typed arrays.
function unpack(columns) {
  const types = {u1: Uint8Array, u2: Uint16Array, u4: Uint32Array, f4: Float32Array, f8: Float64Array};
  const result = {...columns};
  for (const [name, value] of Object.entries(columns)) {
    if (!Array.isArray(value) || !(value[0] in types)) continue;
    const raw = atob(value[1]), bytes = new Uint8Array(raw.length);
    for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
    result[name] = new types[value[0]](bytes.buffer);
  }
  return result;
}

const instances = unpack(data.instances), detections = unpack(data.detections);
const curves = data.curves && unpack(data.curves), events = unpack(data.events);

// Return the rows of every video.
function groupByVideo(column) {
  const groups = data.videos.map(() => []);
  column.forEach((video, row) => groups[video].push(row));
  return groups;
}

const instancesOf = groupByVideo(instances.video), detectionsOf = groupByVideo(detections.video);
const eventsOf = groupByVideo(events.video);    // by start
const tagsOf = groupByVideo(instances.tag_video);    // video-level labels
const curveOf = new Map(curves ? curves.video.map((video, row) => [video, row]) : []);
const pairOf = new Map(    // rows of the per-class curves
  curves ? curves.pair_video.map((video, row) => [`${video} ${curves.pair_label[row]}`, row]) : []);
const typeOf = (row, k) => detections.type[k * detections.score.length + row];
const isMatched = (g, k) => instances.found[k * instances.start.length + g];

// The range of the scores and the step of the slider. Equal scores get a range around them.
let [lowest, highest] = data.range;
const axisFrom = Math.min(0, lowest);    // of the scores in the timeline
const margin = Math.max(1, Math.abs(highest)) / 2;
if (highest - lowest <= 1e-9 * margin) [lowest, highest] = [lowest - margin, highest + margin];
const decimals = Math.min(9, Math.max(0, -Math.floor(Math.log10((highest - lowest) / 50)))), step = 10 ** -decimals;
const roundDown = score => Number((Math.floor(score / step) * step).toFixed(decimals));

const state = {
  k: Math.max(0, data.tiou.indexOf('0.5')),      // index of the tIoU threshold
  video: 0, from: 0, to: data.durations[0] ?? 1,     // the visible part of a video, in seconds
  time: null,                                    // marked time, or that of the playing video
  label: -1, query: '', order: 0,                // filters and order of the video list; -1: all classes
  threshold: Math.max(roundDown(lowest), roundDown(data.threshold)),
  hidden: new Set(),                             // types of detections that are hidden
  opened: new Set(),                             // videos whose other classes are unfolded
  sortBy: 'average', descending: true,           // order of the table of classes
  row: 0,                                        // class in the precision-recall plot, index into data.classes
};
const isChosen = label => state.label < 0 || state.label === label;

// ---- formatting, elements, SVG --------------------------------------------------------------------------------------

const $ = selector => document.querySelector(selector);
const mean = values => values.reduce((a, b) => a + b, 0) / values.length;
const clamp = (value, low, high) => Math.max(low, Math.min(value, high));
const minus = text => String(text).replace('-', '−');
const percent = (value, digits = 1) => value === null || Number.isNaN(value) ? '–' : (100 * value).toFixed(digits);
const seconds = value => minus(value.toFixed(value < 100 ? 2 : 1));
const clock = value => {    // 1:02.5
  const tenths = Math.round(10 * value);
  return `${Math.floor(tenths / 600)}:${(tenths % 600 / 10).toFixed(1).padStart(4, '0')}`;
};
const timeSpan = (from, to) => `${seconds(from)} to ${seconds(to)} s`;
const scoreText = (score, digits = Math.max(3, decimals)) => minus(score.toFixed(digits));
const truncate = name => name.length > 60 ? name.slice(0, 60) + '…' : name;
const thousands = number => number.toLocaleString('en');
const plural = (number, noun) => `${thousands(number)} ${noun}${number === 1 ? '' : noun.endsWith('s') ? 'es' : 's'}`;

// Set attributes of an element ('text', 'onEVENT' and '--PROPERTY' are special) and append children.
function fill(node, attributes, ...children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name === 'text') node.textContent = value;
    else if (name.startsWith('on')) node.addEventListener(name.slice(2), value);
    else if (name.startsWith('--')) node.style.setProperty(name, value);
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

const html = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, ...children);
const svg = (tag, attributes = {}, ...children) =>
  fill(document.createElementNS('http://www.w3.org/2000/svg', tag), attributes, ...children);
const text = (x, y, content, attributes = {}) => svg('text', {x, y, text: content, ...attributes});
const middle = {'text-anchor': 'middle'}, end = {'text-anchor': 'end'};
const line = (x1, y1, x2, y2, attributes = {}) => svg('line', {x1, y1, x2, y2, ...attributes});
const rect = (x, y, width, height, attributes = {}) => svg('rect', {
  x: x.toFixed(2), y: y.toFixed(2), width: Math.max(0, width).toFixed(2), height: Math.max(0, height).toFixed(2),
  ...attributes});
// A drawing is as wide as its box when it is drawn, and scaled when it is printed.
const drawing = (width, height, label, ...parts) =>
  svg('svg', {viewBox: `0 0 ${width} ${height}`, height, role: 'img', 'aria-label': label}, ...parts);

// Return round values from `from` to `to`, about `wanted` of them, with labels.
function ticks(from, to, wanted) {
  const raw = (to - from) / wanted, power = 10 ** Math.floor(Math.log10(raw)), values = [];
  const size = [1, 2, 5, 10].map(factor => factor * power).find(candidate => candidate >= raw * 0.999);
  for (let i = Math.ceil(from / size - 1e-9); i * size <= to + size * 1e-9; i++) values.push(i * size);
  const digits = Math.max(0, -Math.floor(Math.log10(size)));
  return values.map(value => ({value, label: minus(value.toFixed(digits))}));
}

// Return the grid lines and labels of a vertical axis; `y` maps a value to pixels.
const yAxis = (left, right, y, marks) => marks.flatMap(({value, label}) => [
  line(left, y(value), right, y(value), {class: 'axis'}), text(left - 5, y(value) + 4, label, end)]);
const percentMarks = ticks(0, 1, 4).map(({value}) => ({value, label: 100 * value}));

// Show a tooltip at the pointer, or hide it.
function tooltip(event, content) {
  const box = $('#tooltip');
  box.hidden = !content;
  if (!content) return;
  box.textContent = content;
  const {width, height} = box.getBoundingClientRect();
  box.style.left = clamp(event.clientX + 14, 4, innerWidth - width - 4) + 'px';
  box.style.top = (event.clientY + height + 22 < innerHeight ? event.clientY + 16 : event.clientY - height - 10) + 'px';
}

const withTooltip = content => ({
  onpointermove: event => tooltip(event, typeof content === 'function' ? content(event) : content),
  onpointerleave: () => tooltip()});

// Return the entries of a description list.
const definitions = pairs => pairs.flatMap(([term, meaning]) =>
  [html('dt', {}, term), html('dd', {text: meaning})]);

// Return the attributes of a table row that acts as a button.
const rowButton = action => ({
  tabindex: 0, onclick: action, onkeydown: event => { if (event.key === 'Enter') action(event); }});

// ---- average precision ----------------------------------------------------------------------------------------------

// Return the ranks of the true positives among `rows` (by falling score) and the interpolated precision at each.
function precisionEnvelope(rows, k, rankOf = (row, index) => index) {
  const ranks = [], precision = [];
  rows.forEach((row, index) => { if (typeOf(row, k) === TRUE_POSITIVE) ranks.push(rankOf(row, index)); });
  for (let i = ranks.length - 1; i >= 0; i--)
    precision[i] = Math.max((i + 1) / (ranks[i] + 1), precision[i + 1] || 0);
  return {ranks, precision};
}

const rangeOfClass = new Map();    // the detections are sorted by class, then by falling score
detections.label.forEach((label, row) => {
  if (!rangeOfClass.has(label)) rangeOfClass.set(label, [row, row]);
  rangeOfClass.get(label)[1] = row + 1;
});

function rowsOfClass(label) {
  const [first, last] = rangeOfClass.get(label) || [0, 0];
  return Array.from({length: last - first}, (_, i) => first + i);
}

// Ranks of a class include the detections that are not on the page.
const rankInClass = (row, index) => detections.rank ? detections.rank[row] : index;
const envelopeOfClass = (label, k) => precisionEnvelope(rowsOfClass(label), k, rankInClass);

const chosenEvents = video => eventsOf[video].filter(e => isChosen(events.label[e]));

// Return what the list shows of a video: its AP without the other videos, missed instances, types of detections.
function summarize(video) {
  const own = instancesOf[video].filter(g => isChosen(instances.label[g]));
  const rows = detectionsOf[video].filter(row => isChosen(detections.label[row]));
  const counts = new Array(data.types.length).fill(0), positives = new Map();
  let best = -Infinity;
  for (const row of rows) {
    counts[typeOf(row, state.k)]++;
    best = Math.max(best, detections.score[row]);
  }
  for (const g of own) positives.set(instances.label[g], (positives.get(instances.label[g]) || 0) + 1);
  const ap = [...positives].map(([label, number]) =>
    precisionEnvelope(rows.filter(row => detections.label[row] === label), state.k)
      .precision.reduce((a, b) => a + b, 0) / number);
  return {
    counts, best, events: chosenEvents(video).length, ap: ap.length ? mean(ap) : NaN, instances: own.length,
    missed: own.filter(g => !isMatched(g, state.k)).length,
    isListed: state.label < 0 || own.length + rows.length > 0 ||
      tagsOf[video].some(row => isChosen(instances.tag_label[row]))};
}

// ---- summary --------------------------------------------------------------------------------------------------------

function drawSummary() {
  const tile = (name, value) => html('div', {}, html('b', {text: value}), name);
  $('#summary .tiles').replaceChildren(...SCORED ? Object.entries(data.averages).map(([span, value]) =>
    tile(`average mAP (%)\ntIoU ${span}`, percent(value, 2))) : [
    tile('events', thousands(events.label.length)),
    tile('detections', thousands(detections.total.reduce((a, b) => a + b, 0))),
    tile('videos', thousands(data.videos.length)), tile('detected classes', thousands(detectedClasses.length))]);
  $('#summary .facts').replaceChildren(...definitions(data.facts));
  $('#summary .notes').replaceChildren(...data.notes.map(note => html('li', {text: note})));
  if (!SCORED) return;
  const mark = k => k === state.k ? ' chosen' : '';
  $('#summary .map').replaceChildren(
    html('thead', {}, html('tr', {}, html('th', {text: 'tIoU'}),
      ...data.tiou.map((key, k) => html('th', {text: key, class: mark(k)})))),
    html('tbody', {}, html('tr', {}, html('th', {text: 'mAP (%)'}), ...data.mean_ap.map((value, k) =>
      html('td', {text: percent(value, 2), class: 'heat' + mark(k), '--share': value})))));
}

// ---- training -------------------------------------------------------------------------------------------------------

// Draw lines over the steps, with 0 on the axis. A line is {name, values, class}, a mark [name, step, value].
function drawSteps(box, height, steps, lines, number, marks = []) {
  const width = box.clientWidth, left = 42, bottom = height - 20, last = steps.at(-1);
  const values = lines.flatMap(each => each.values);
  const low = Math.min(0, ...values), high = 1.04 * Math.max(1e-9, ...values);
  const x = step => left + step / Math.max(1, last) * (width - left - 12);
  const y = value => 6 + (high - value) / (high - low) * (bottom - 6);
  const path = own => own.map((value, i) => value === null ? '' :
    `${i && own[i - 1] !== null ? 'L' : 'M'}${x(steps[i]).toFixed(1)} ${y(value).toFixed(1)}`).join('');
  const describeAt = at => {
    const i = steps.reduce((best, step, j) => Math.abs(x(step) - at) < Math.abs(x(steps[best]) - at) ? j : best, 0);
    return [`step ${thousands(Math.round(steps[i]))}`, ...lines.map(({name, values: own}) =>
      `${name} ${own[i] === null ? '–' : own[i].toFixed(2)}`).reverse()].join('\n');
  };
  box.replaceChildren(fill(drawing(width, height, `${lines.at(-1).name} by step`,
    ...yAxis(left, width - 12, y, ticks(low, high, number)),
    ...ticks(0, Math.max(1, last), Math.max(2, width / 110)).map(({value, label}) =>
      text(x(value), height - 4, label, middle)),
    ...lines.map(each => svg('path', {d: path(each.values), class: `curve ${each.class}`})),
    ...marks.map(([, step, value]) => svg('circle', {cx: x(step), cy: y(value), r: 4, class: 'bar blue'}))),
  withTooltip(event => describeAt(event.clientX - box.getBoundingClientRect().left))));
}

function drawTraining() {
  const {name, metrics, losses, marks, settings, about, versions} = data.training;
  const tiou = `tIoU ${data.tiou[state.k]}`;
  $('#metrics').hidden = !metrics;
  $('#loss').hidden = $('#terms').hidden = !losses;
  if (metrics) {
    const order = ['faint', 'red', 'blue'], keys = [['average', 'blue'], [tiou, 'red'], ['other tIoU', 'muted']];
    const lines = metrics.lines.map(([key, values]) => ({
      name: key, values, class: key === 'average' ? 'blue' : key === tiou ? 'red' : 'faint'}));
    $('#metrics small').replaceChildren(...keys.map(([key, hue]) => legendKey('line', key, hue)),
      ...marks.map(([weights, step, value]) =>
        html('span', {text: `${weights} weights: ${value.toFixed(2)} % at step ${thousands(step)}`})));
    drawSteps($('#metrics .chart'), 230, metrics.steps,
      lines.sort((a, b) => order.indexOf(a.class) - order.indexOf(b.class)), 4, marks);
  }
  if (losses) {
    const [total, ...terms] = losses.lines.map(([key, values]) => [{name: key, values, class: 'red'}]);
    $('#loss small').textContent = losses.about;
    drawSteps($('#loss .chart'), 230, losses.steps, total, 4);
    $('#terms .panels').replaceChildren(...terms.map(([term]) =>
      html('div', {}, html('b', {text: term.name}), html('div'))));
    terms.forEach((term, i) => drawSteps($('#terms .panels').children[i].lastChild, 84, losses.steps, term, 2));
  }
  $('#training h2 small').textContent = name;
  $('#settings small').textContent = about;
  $('#settings table').replaceChildren(...settings.map((row, i) => html('tr', {}, ...row.map(value =>
    html(i ? 'td' : 'th', {text: value})))));
  $('#settings .note').textContent = versions;
}

// ---- classes --------------------------------------------------------------------------------------------------------

// Without ground truth: the detected classes, by their best score.
const eventCounts = data.labels.map(() => 0);
for (const label of events.label) eventCounts[label]++;
const detectedClasses = [...rangeOfClass].map(([label, [first, last]]) => ({
  label, detections: last - first, best: detections.score[first],
  videos: new Set(detections.video.subarray(first, last)).size,
})).sort((a, b) => b.best - a.best);

const className = label => html('th', {text: data.labels[label], title: data.labels[label]});

function drawDetectedClasses() {
  const row = c => html('tr', rowButton(() => showVideos(2, c.label)), className(c.label),
    ...[thousands(eventCounts[c.label]), thousands(c.detections), thousands(c.videos), scoreText(c.best)].map(value =>
      html('td', {text: value})));
  $('.ap').replaceChildren(
    html('thead', {}, html('tr', {}, ...['Class', 'Events', 'Detections', 'Videos', 'Best score'].map(name =>
      html('th', {text: name})))),
    html('tbody', {}, ...detectedClasses.map(row)));
  drawTableHint();
}

function sortedClasses() {
  const columns = {name: c => data.labels[c.label], instances: c => c.instances, average: c => mean(c.ap)};
  const value = columns[state.sortBy] || (c => c.ap[state.sortBy]);
  const compare = (a, b) => value(a) < value(b) ? -1 : value(a) > value(b) ? 1 : a.label - b.label;
  return [...data.classes].sort((a, b) => state.descending ? compare(b, a) : compare(a, b));
}

function columnHeader(key, content, title) {
  const isSorted = state.sortBy === key;
  const sort = () => {
    state.descending = isSorted ? !state.descending : key !== 'name';
    state.sortBy = key;
    drawClasses();
    $('.ap th[aria-sort] button').focus();
  };
  const [arrow, order] = !isSorted ? [''] : state.descending ? [' ↓', 'descending'] : [' ↑', 'ascending'];
  return html('th', {class: key === state.k ? 'chosen' : '', ...(order && {'aria-sort': order})},
    html('button', {type: 'button', text: content + arrow, title, onclick: sort}));
}

function drawClasses() {
  const cell = (value, more = '') => html('td', {text: percent(value), class: 'heat ' + more, '--share': value});
  const choose = (event, c) => {
    $('.ap [aria-selected=true]').setAttribute('aria-selected', false);
    event.currentTarget.setAttribute('aria-selected', true);
    state.row = data.classes.indexOf(c);
    drawPrecisionRecall();
  };
  const row = c => html('tr', {'aria-selected': data.classes[state.row] === c, ...rowButton(event => choose(event, c))},
    className(c.label), html('td', {text: c.instances}), cell(mean(c.ap)),
    ...c.ap.map((value, k) => cell(value, k === state.k ? 'chosen' : '')));
  $('.ap').replaceChildren(
    html('thead', {}, html('tr', {},
      columnHeader('name', 'Class', 'Sort by name'), columnHeader('instances', 'instances', 'Number of instances'),
      columnHeader('average', 'AP', 'Average over the tIoU thresholds (%)'),
      ...data.tiou.map((key, k) => columnHeader(k, key, `AP at tIoU ${key} (%)`)))),
    html('tbody', {}, ...sortedClasses().map(row)));
  drawTableHint();
  drawPrecisionRecall();
}

// Write below the table how much of it is outside its scroll box.
function drawTableHint() {
  const box = $('#classes .scroll'), {bottom} = box.getBoundingClientRect();
  const below = [...$('.ap tbody').children].filter(row => row.getBoundingClientRect().bottom > bottom + 2).length;
  const right = box.scrollLeft + box.clientWidth < box.scrollWidth - 2;
  $('#classes .more').textContent =
    [below ? `↓ ${plural(below, 'more class')}` : '', right ? 'more columns →' : ''].filter(Boolean).join(' · ');
}

function drawPrecisionRecall() {
  const c = data.classes[state.row], rows = rowsOfClass(c.label);
  const rowOfRank = new Map(rows.map((row, index) => [rankInClass(row, index), row]));
  const box = $('#pr .chart'), width = box.clientWidth, height = clamp(width * 0.72, 220, 420);
  const x = recall => 38 + recall * (width - 50), y = precision => 24 + (1 - precision) * (height - 60);
  const curvesByTiou = data.tiou.map((_, k) => {
    const curve = envelopeOfClass(c.label, k);
    const steps = curve.precision.map((p, i) => `V${y(p).toFixed(1)}H${x((i + 1) / c.instances).toFixed(1)}`);
    return {...curve, path: `M${x(0)} ${y(curve.precision[0] || 0)}${steps.join('')}V${y(0)}`};
  });
  const {ranks, path} = curvesByTiou[state.k];
  $('#pr figcaption').replaceChildren(data.labels[c.label], html('small', {
    text: `AP ${percent(c.ap[state.k])} % at tIoU ${data.tiou[state.k]}; ${ranks.length} of ${c.instances} instances ` +
          `matched by ${thousands(c.detections)} detections; gray: other tIoU thresholds`}),
  html('button', {type: 'button', text: 'show its videos, lowest AP first', onclick: () => showVideos(1, c.label)}),
  svgButton());

  const describeAt = at => {
    const recall = (at - x(0)) / (x(1) - x(0)), i = clamp(Math.ceil(recall * c.instances) - 1, 0, ranks.length - 1);
    return ranks.length ? `recall ${percent((i + 1) / c.instances)} %, precision ` +
      `${percent((i + 1) / (ranks[i] + 1))} %\nscore ≥ ${scoreText(detections.score[rowOfRank.get(ranks[i])])}: ` +
      `${i + 1} of ${ranks[i] + 1} are true positives` : '';
  };
  box.replaceChildren(fill(drawing(width, height, 'Precision over recall', ...yAxis(x(0), x(1), y, ticks(0, 1, 5)),
    ...ticks(0, 1, 5).map(({value, label}) => text(x(value), y(0) + 16, label, middle)),
    text(x(0.5), height - 2, 'recall', middle), text(x(0) - 24, 12, 'precision'),
    ...curvesByTiou.filter((_, k) => k !== state.k).map(other => svg('path', {d: other.path, class: 'faint'})),
    svg('path', {d: `${path}H${x(0)}Z`, class: 'area blue'}), svg('path', {d: path, class: 'curve blue'})),
  withTooltip(event => describeAt(event.clientX - box.getBoundingClientRect().left))));
}

// ---- errors ---------------------------------------------------------------------------------------------------------

function drawErrors() {
  const errors = data.errors, k = state.k;
  $('.at-tiou').textContent = data.tiou[k];
  drawProfile(errors.shares[k]);
  drawGain(errors.gain[k], errors.gain[k].map((_, type) => mean(errors.gain.map(gain => gain[type]))));
  drawBins($('#missed .chart'), 'missed', 'red', c => c.missed[k], errors.missed[k]);
  drawBins($('#sensitivity .chart'), 'normalized mAP', 'blue', c => c.normalized[k], errors.normalized[k]);
}

// Draw the shares of the error types among the top N_c, 2 N_c, ... 10 N_c detections as stacked bars.
function drawProfile(shares) {
  const box = $('#profile .chart'), width = box.clientWidth, height = 250, left = 34;
  const column = (width - left) / shares.length, y = share => 8 + (1 - share) * (height - 36);
  const parts = yAxis(left, width, y, percentMarks);
  shares.forEach((row, depth) => {
    let top = 0;
    row.forEach((share, type) => {
      top += share;
      parts.push(rect(left + column * (depth + 0.1), y(top), column * 0.8, y(0) - y(share), {
        class: `type type${type}`,
        ...withTooltip(`${data.types[type]}: ${percent(share, 2)} %\nof the ${depth ? depth + 1 + ' ' : ''}N best`)}));
    });
    parts.push(text(left + column * (depth + 0.5), height - 12, depth + 1, middle));
  });
  parts.push(text(0, height, '%'), text(width, height, '× N detections of each class', end));
  box.replaceChildren(fill(drawing(width, height + 6, 'Error types of the top detections', ...parts),
    {class: 'stack'}));
  $('#profile .legend').replaceChildren(...definitions(shares.at(-1).map((share, type) => [
    legendKey(`swatch type${type}`, `${data.types[type]} ${percent(share, 2)} %`), DEFINITIONS[type]])));
}

function drawGain(gain, means) {
  const box = $('#gain .chart'), width = box.clientWidth, row = 74, left = 124, largest = Math.max(0.01, ...gain);
  const length = value => Math.max(0, value) / largest * (width - left - 90);
  const parts = gain.flatMap((value, i) => [
    text(left - 8, row * i + 41, data.types[i + 1], {...end, class: 'strong'}),
    rect(left, row * i + 14, length(value), row - 28, {
      class: `type link type${i + 1}`, onclick: () => showVideos(FIRST_TYPE + i, -1),
      ...withTooltip(`${DEFINITIONS[i + 1]}\nClick for the videos with the most errors of this type`)}),
    text(left + length(value) + 6, row * i + 41, minus(percent(value, 2)), {class: 'strong'}),
    text(width, row * i + 41, minus(percent(means[i], 2)), end)]);
  parts.push(line(left, 0, left, row * gain.length, {class: 'axis'}));
  box.replaceChildren(drawing(width, row * gain.length, 'mAP gain from removing an error type', ...parts));
}

// Draw a bar per bin of each characteristic of the instances; `whole` is the value of all instances.
function drawBins(box, what, color, valuesOf, whole) {
  const characteristics = data.errors.characteristics;
  const width = box.clientWidth, height = 204, left = 34, gap = 18;
  const number = characteristics.reduce((sum, c) => sum + c.ranges.length, 0);
  const column = (width - left - gap * (characteristics.length - 1)) / number;
  const y = value => 36 + (1 - value) * (height - 80);
  const bars = yAxis(left, width, y, percentMarks), labels = [];
  // The number of a bar is above it, or above the dashed line where the line would cross the number.
  const above = top => top - 16 < y(whole) && y(whole) < top + 1 ? Math.min(top, y(whole)) - 5 : top - 5;
  let x = left;
  for (const c of characteristics) {
    const title = c.title.replace(width < 400 ? /number of | in the video/g : ' in the video', '');    // on a phone
    labels.push(text(x + column * c.ranges.length / 2, height - 8, title, {...middle, class: 'strong'}));
    valuesOf(c).forEach((value, b) => {
      const tip = withTooltip(
        `${what} ${percent(value)} %\n${c.title} ${c.ranges[b]}\n${plural(c.instances[b], 'instance')}`);
      const top = y(value || 0);
      bars.push(rect(x + column * 0.1, top, column * 0.8, y(0) - top, {class: `bar ${color}`, ...tip}));
      labels.push(
        text(x + column / 2, above(top), percent(value, 0), {...middle, class: 'strong'}),
        text(x + column / 2, height - 28, c.ranges[b], {...middle, ...tip, class: 'bin'}));
      x += column;
    });
    x += gap;
  }
  box.replaceChildren(drawing(width, height, what, ...bars,
    line(left, y(whole), width, y(whole), {class: 'reference'}), ...labels,
    text(width, 10, `- - all instances: ${percent(whole)} %`, end)));
}

// ---- video list -----------------------------------------------------------------------------------------------------

const orders = !SCORED ? [
  ['name', null],
  ['most events', (a, b) => b.events - a.events],
  ['highest score', (a, b) => b.best - a.best],
] : [
  ['name', null],
  ['lowest AP', (a, b) => a.ap - b.ap],
  ['highest AP', (a, b) => b.ap - a.ap],
  ['most missed instances', (a, b) => b.missed - a.missed],
  ...data.types.slice(1, UNCLASSIFIED).map((name, i) =>
    [`most errors: ${name}`, (a, b) => b.counts[i + 1] - a.counts[i + 1]]),
];
const FIRST_TYPE = orders.length - UNCLASSIFIED + 1;    // index of the first error type among the orders
let listed = [], summaries = [];    // videos in the list; summary of every video

// Filter and sort the videos. Where the current one is filtered out, the first one is shown.
function drawList() {
  summaries = data.videos.map((_, video) => summarize(video));
  const query = state.query.toLowerCase(), compare = orders[state.order][1];
  listed = [...data.videos.keys()].filter(v => summaries[v].isListed && data.videos[v].toLowerCase().includes(query));
  if (compare) listed.sort((a, b) => {
    const [first, second] = [summaries[a], summaries[b]];
    return Number.isNaN(first.ap) - Number.isNaN(second.ap) || compare(first, second) || a - b;
  });
  $('.listed').textContent = `${thousands(listed.length)} of ${thousands(data.videos.length)}`;
  $('#list').replaceChildren(...listed.map(listItem));
  if (!listed.length) $('#list').append(html('p', {class: 'empty', text: 'No matching video.'}));
  if (listed.length && !listed.includes(state.video)) showVideo(listed[0]);
  else {
    markItem();
    drawEventList();
    drawTimeline();
  }
}

function summaryText({ap, missed, events: number, best}) {
  if (!SCORED)
    return number ? `${plural(number, 'event')} · max ${scoreText(best, Math.min(3, decimals))}` : 'no event';
  return Number.isNaN(ap) ? 'not annotated' : (missed ? `${missed} missed · ` : '') + `AP ${percent(ap, 0)}`;
}

// Return an entry of the list, with the shares of the error types as a bar.
function listItem(video) {
  const counts = summaries[video].counts.slice(0, UNCLASSIFIED), total = counts.reduce((a, b) => a + b, 0);
  let last = 0;
  const stops = counts.map((count, type) =>
    `var(--type${type}) ${last / total * 100}% ${(last += count) / total * 100}%`);
  const bar = html('i', total ? {'--bar': `linear-gradient(to right, ${stops.join(', ')})`} : {});
  return html('div', {
    class: 'video', role: 'option', id: 'video-' + video, 'aria-selected': false, onclick: () => showVideo(video)},
  html('span', {}, html('b', {text: data.videos[video], title: data.videos[video]}),
    html('em', {text: summaryText(summaries[video])})), bar);
}

// Select the video that is shown, and scroll the list, and not the page, to it.
function markItem() {
  const list = $('#list'), item = $(`#video-${state.video}`);
  $('#list [aria-selected=true]')?.setAttribute('aria-selected', false);
  if (!item) return;
  item.setAttribute('aria-selected', true);
  list.setAttribute('aria-activedescendant', item.id);
  list.scrollTop = clamp(list.scrollTop, item.offsetTop + item.offsetHeight - list.clientHeight, item.offsetTop);
}

// Go to the videos of a class in another order.
function showVideos(order, label) {
  state.order = order;
  $('#sort').value = order;
  setLabel(label);
  if (listed.length) showVideo(listed[0]);
  $('#videos').scrollIntoView();
}

function showVideo(video) {
  Object.assign(state, {video, from: 0, to: data.durations[video], time: null});
  loadClip();
  markItem();
  drawEventList();
  drawTimeline();
}

// List the events of the video; a click plays it from there.
function drawEventList() {
  const item = e => html('li', {}, html('button', {type: 'button', 'data-event': e, onclick: () => playEvent(e)},
    html('span', {text: `${clock(events.start[e])} – ${clock(events.end[e])}`}),
    html('b', {text: data.labels[events.label[e]], title: data.labels[events.label[e]]}),
    html('em', {text: scoreText(events.score[e], 2)})));
  const rows = chosenEvents(state.video), none = 'No event: no detection reaches the minimum score.';
  $('#events').replaceChildren(...rows.length ? rows.map(item) : [html('li', {class: 'note', text: none})]);
  $('#events').scrollTop = 0;
}

function stepVideo(by) {
  const index = listed.indexOf(state.video) + by;
  if (index >= 0 && index < listed.length) showVideo(listed[index]);
}

// ---- timeline -------------------------------------------------------------------------------------------------------

const LEFT = 44, RIGHT = 14;    // margins in pixels
let plotWidth = 0;    // pixels from LEFT to RIGHT
const xOf = time => LEFT + (time - state.from) / (state.to - state.from) * plotWidth;
const timeOf = x => state.from + (x - LEFT) / plotWidth * (state.to - state.from);
const inView = (start, last) => last >= state.from && start <= state.to;
// Return left and width, in pixels, of the visible part of a segment.
const clip = (start, last) => {
  const left = Math.max(LEFT, xOf(start));
  return [left, Math.max(2, Math.min(LEFT + plotWidth, xOf(last)) - left)];
};
const wide = (height, label, ...parts) => drawing(LEFT + plotWidth + RIGHT, height, label, ...parts);
const legendKey = (shape, content, hue) =>
  html('span', {}, html('i', {class: shape, ...(hue && {'--color': `var(--${hue})`})}), content);

// Return the classes of a video as two lists: those annotated (else the best three), then the others, by best score.
function classesOf(video) {
  const classes = new Map();
  const of = label => {
    if (!classes.has(label)) classes.set(label, {label, rows: [], instances: [], tagged: false, best: -Infinity});
    return classes.get(label);
  };
  for (const g of instancesOf[video]) of(instances.label[g]).instances.push(g);
  for (const row of tagsOf[video]) of(instances.tag_label[row]).tagged = true;
  for (const row of detectionsOf[video]) {
    const c = of(detections.label[row]);
    c.rows.push(row);
    c.best = Math.max(c.best, detections.score[row]);
  }
  const isAnnotated = c => c.instances.length > 0 || c.tagged;
  const sorted = [...classes.values()].filter(c => isChosen(c.label)).sort((a, b) =>
    isAnnotated(b) - isAnnotated(a) || b.best - a.best || a.label - b.label);
  const number = state.label < 0 ? sorted.filter(isAnnotated).length || 3 : sorted.length;
  return [sorted.slice(0, number), sorted.slice(number)];
}

function drawTimeline() {
  const video = state.video, box = $('#timeline');
  if (!data.videos.length) return;
  plotWidth = Math.max(1, box.clientWidth - LEFT - RIGHT);    // a page in the background may have no width
  const rows = detectionsOf[video].filter(row =>
    isChosen(detections.label[row]) && detections.score[row] >= state.threshold);
  const visible = rows.filter(row => !state.hidden.has(typeOf(row, state.k)));
  const [first, others] = classesOf(video);
  const {ap, missed, instances: number} = summaries[video], curve = curveOf.get(video);
  $('#viewer h3').textContent = data.videos[video];
  $('#viewer .facts').textContent = [
    `${seconds(data.durations[video])} s`, curve === undefined ? '' : `${curves.snippets[curve]} snippets`,
    number ? `${number - missed} of ${plural(number, 'instance')} matched` : SCORED ? 'no annotated instance' : '',
    number ? `AP ${percent(ap)} % (this video only)` : '', plural(summaries[video].events, 'event'),
  ].filter(Boolean).join(' · ');
  $('#threshold-value').textContent = scoreText(state.threshold, decimals);
  const everywhere = detections.score.reduce((number, score) => number + (score >= state.threshold), 0);
  $('#shown').replaceChildren(
    html('b', {text: visible.length}), ` of ${thousands(detections.total[video])} detections`,
    html('small', {text: ` (${thousands(everywhere)} of ${thousands(detections.score.length)} in all videos)`}));
  drawTypes(rows);
  box.replaceChildren(
    drawOverview(video), drawEvents(video),
    ...first.map(c => drawClass(video, c)),
    ...(others.length ? [drawOthers(video, first, others)] : []),
    ...(curve === undefined ? [] : [drawActionness(video, curve)]),
    ...['cursor', 'brush', 'playhead'].map(id => html('div', {id, hidden: ''})));
  placePlayhead();
}

// Draw the buttons that hide a type of detections, with their counts.
function drawTypes(rows) {
  const counts = new Array(data.types.length).fill(0);
  for (const row of rows) counts[typeOf(row, state.k)]++;
  const toggle = type => {
    if (!state.hidden.delete(type)) state.hidden.add(type);
    drawTimeline();
    $('.types').children[type].focus();
  };
  $('.types').replaceChildren(...data.types.map((name, type) => html('button', {
    type: 'button', 'aria-pressed': !state.hidden.has(type), onclick: () => toggle(type),
    title: SCORED ? DEFINITIONS[type] : ''},
  html('i', {class: `swatch type${type}`}), `${name} ${counts[type]}`)));
}

// Draw the events in a lane for each class, above its instances.
function drawEvents(video) {
  const rows = chosenEvents(video), own = instancesOf[video].filter(g => isChosen(instances.label[g]));
  const labels = [...new Set([...rows.map(e => events.label[e]), ...own.map(g => instances.label[g])])];
  const laneHeight = own.length ? 36 : 32, parts = [];
  const draw = (all, indices, label, y, height, attributes) => indices.filter(i => all.label[i] === label &&
    inView(all.start[i], all.end[i])).slice(0, MAX_BARS).map(i => {
    const [x, width] = clip(all.start[i], all.end[i]);
    return rect(x, y, width, height, attributes(i));
  });
  labels.forEach((label, lane) => {
    const y = lane * laneHeight, name = data.labels[label], length = Math.floor(plotWidth / 8);
    parts.push(
      text(LEFT, y + 11, name.length > length ? name.slice(0, length - 1) + '…' : name, {class: 'strong'}),
      rect(LEFT, y + 15, plotWidth, 12, {class: 'track'}),
      ...draw(events, rows, label, y + 15, 12, e => ({class: 'event', rx: 1.5, 'data-event': e})),
      ...draw(instances, own, label, y + 29, 3, () => ({class: 'instance'})));
  });
  return html('div', {class: 'lanes'},
    html('p', {}, html('b', {text: 'Events'}), legendKey('swatch event', plural(rows.length, 'event')),
      ...(own.length ? [legendKey('swatch instance', 'ground truth')] : []), svgButton()),
    wide(labels.length * laneHeight, 'Events', ...parts));
}

// Draw the whole video in small, with its instances (without ground truth: its events) and the visible part.
function drawOverview(video) {
  const x = time => LEFT + clamp(time / data.durations[video], 0, 1) * plotWidth;
  const all = SCORED ? instances : events, rows = SCORED ? instancesOf[video] : eventsOf[video];
  const bars = rows.filter(row => isChosen(all.label[row])).map(row => {    // one path, however many
    const left = x(all.start[row]), width = Math.max(1, x(all.end[row]) - left);
    return `M${left.toFixed(1)} 8h${width.toFixed(1)}v10h-${width.toFixed(1)}z`;
  });
  return html('div', {}, fill(wide(26, 'Overview',
    rect(LEFT, 6, plotWidth, 14, {class: 'track'}),
    ...(bars.length ? [svg('path', {d: bars.join(''), class: SCORED ? 'instance' : 'event'})] : []),
    rect(x(state.from), 4, Math.max(3, x(state.to) - x(state.from)), 18, {class: 'window', rx: 2})),
  {class: 'overview'}), timeAxis());
}

const timeAxis = () => wide(20, 'Seconds', text(8, 15, 's'),
  ...ticks(state.from, state.to, Math.max(2, plotWidth / 90)).flatMap(({value, label}) =>
    [line(xOf(value), 0, xOf(value), 4, {class: 'axis'}), text(xOf(value), 15, label, middle)]));

const plotAxis = (y, from, to, number) => yAxis(LEFT, LEFT + plotWidth, y, ticks(from, to, number));

// Draw instances as shaded bands behind a panel.
const bands = (rows, top, height) => rows.map(g => {
  const [x, width] = clip(instances.start[g], instances.end[g]);
  return rect(x, top, width, height, {class: 'band'});
});

// Draw a class: its instances, its detections by score, and its curves.
function drawClass(video, {label, rows: all, instances: own, tagged, best}) {
  const name = data.labels[label], {k, threshold} = state;
  const rows = all.filter(row => detections.score[row] >= threshold && !state.hidden.has(typeOf(row, k)));
  const near = rows.filter(row => inView(detections.start[row], detections.end[row]));
  const annotated = own.filter(g => inView(instances.start[g], instances.end[g])).slice(0, MAX_BARS);
  // The panel grows with its number of detections.
  const top = SCORED ? 26 : 10, height = rows.length ? clamp(110 + 2.5 * near.length, 120, 300) : SCORED ? 30 : 0;
  const y = score => top + (highest - score) / (highest - axisFrom) * (height - top - 10);
  const parts = [...(SCORED ? [text(8, 15, 'GT')] : []), ...bands(annotated, 18, Math.max(0, height - 26))];
  for (const g of annotated) {
    const [x, width] = clip(instances.start[g], instances.end[g]), matched = isMatched(g, k);
    const tip = `${name}\n${timeSpan(instances.start[g], instances.end[g])}\n` +
                `${matched ? 'matched' : 'missed'} at tIoU ${data.tiou[k]}`;
    parts.push(rect(x, 6, width, 11, {class: matched ? 'instance' : 'instance missed', rx: 1, 'data-tip': tip}));
  }
  if (rows.length) parts.push(...plotAxis(y, axisFrom, highest, 4),
    line(LEFT, y(Math.max(threshold, axisFrom)), LEFT + plotWidth, y(Math.max(threshold, axisFrom)), {class: 'limit'}));
  for (const row of near.slice(0, MAX_BARS).reverse()) {    // the best is drawn last
    const [x, width] = clip(detections.start[row], detections.end[row]);
    parts.push(rect(x, y(detections.score[row]) - 2.5, width, 5, {
      class: `hit type type${typeOf(row, k)}`, rx: 1.5, 'data-row': row}));
  }
  const pair = pairOf.get(`${video} ${label}`);
  const facts = [
    own.length ? `${own.filter(g => isMatched(g, k)).length} of ${plural(own.length, 'instance')} matched` :
      tagged ? 'video-level label without times' : SCORED ? 'not annotated in this video' : '',
    rows.length ? `detections by score: ${thousands(rows.length)} of ${thousands(all.length)}` :
      all.length ? `${plural(all.length, 'detection')}, all hidden; best score ${scoreText(best)}` : 'no detection',
    own.length > MAX_BARS ? `only the first ${thousands(MAX_BARS)} instances in view drawn` : '',
    near.length > MAX_BARS ? `only the best ${thousands(MAX_BARS)} detections in view drawn` : ''];
  return html('div', {class: 'block'},
    html('p', {}, html('b', {text: name, title: name}),
      ...facts.filter(Boolean).map(fact => html('span', {text: fact})),
      ...(pair === undefined ? [] : [legendKey('line', 'A_score', 'blue'), legendKey('line', 'CAS', 'red')]),
      svgButton()),
    wide(height, 'Instances, and detections by score', ...parts),
    ...(pair === undefined ? [] : drawScores(video, annotated, pair)));
}

// Fold away the classes that are detected but not annotated.
function drawOthers(video, first, others) {
  const names = others.slice(0, 4).map(c =>
    `${truncate(data.labels[c.label])} ${scoreText(c.best, Math.min(3, decimals))}`);
  const isAnnotated = first.some(c => c.instances.length || c.tagged);
  const box = html('details', {class: 'block others'},
    html('summary', {}, html('b', {text: plural(others.length, 'more class')}),
      ` detected${isAnnotated ? ', not annotated here' : ''}: ${names.join(', ')}${others.length > 4 ? ', …' : ''}`),
    ...others.map(c => drawClass(video, c)));
  box.open = state.opened.has(video);
  box.addEventListener('toggle', () => box.open ? state.opened.add(video) : state.opened.delete(video));
  return box;
}

// Return the visible part of a curve of bytes that begins at `offset`; snippet i begins at i times its length.
function curvePath(bytes, offset, video, y, hue) {
  const length = curves.seconds[curveOf.get(video)];
  const last = Math.min(curves.count - 1, Math.ceil(state.to / length));
  const points = [];
  for (let i = Math.max(0, Math.floor(state.from / length)); i <= last; i++)
    points.push(`${xOf(i * length).toFixed(1)} ${y(bytes[offset + i] / 255).toFixed(1)}`);
  return svg('path', {class: 'curve ' + hue, d: 'M' + points.join('L')});
}

// A nested SVG cuts curves at the edges of the plot.
const cropped = (height, ...parts) =>
  svg('svg', {x: LEFT, y: 0, width: plotWidth, height, viewBox: `${LEFT} 0 ${plotWidth} ${height}`}, ...parts);

// Draw A_score and CAS of a class.
function drawScores(video, own, pair) {
  const height = 66, y = value => 6 + (1 - value) * (height - 12), offset = pair * curves.count;
  const low = curves.low[pair], high = curves.high[pair] > low ? curves.high[pair] : low + 1;
  const panel = (name, axis, bytes, hue) => wide(height, name, ...axis,
    cropped(height, ...bands(own, 0, height), curvePath(bytes, offset, video, y, hue)));
  return [
    panel('A_score', plotAxis(y, 0, 1, 2), curves.selection, 'blue'),
    panel('Class activation sequence', plotAxis(value => y((value - low) / (high - low)), low, high, 2),
      curves.cas, 'red')];
}

// Draw both actionness curves over the regions where they agree.
function drawActionness(video, curve) {
  const height = 120, y = value => 6 + (1 - value) * (height - 12);
  const offset = curve * curves.count, length = curves.seconds[curve], shapes = ['', '', ''];
  for (let i = 0, next; i < curves.count; i = next) {
    const region = curves.region[offset + i];
    for (next = i + 1; next < curves.count && curves.region[offset + next] === region;) next++;
    if (inView(i * length, next * length))
      shapes[region] += `M${xOf(i * length).toFixed(1)} 0H${xOf(next * length).toFixed(1)}V${height}` +
                        `H${xOf(i * length).toFixed(1)}Z`;
  }
  const median = (hue, which) => {
    const level = y(curves.medians[which][curve]);
    return line(LEFT, level, LEFT + plotWidth, level, {class: `median ${hue}`});
  };
  return html('div', {class: 'block'},
    html('p', {}, html('b', {text: 'Actionness'}),
      legendKey('line', 'class-aware', 'blue'), legendKey('line', 'class-agnostic', 'red'),
      html('span', {text: '- - medians'}),
      ...[2, 0, 1].map(region => legendKey(`swatch r${region}`, REGIONS[region])), svgButton()),
    wide(height, 'Actionness', ...plotAxis(y, 0, 1, 2), cropped(height,
      ...shapes.map((d, region) => svg('path', {d, class: 'r' + region})), median('blue', 0), median('red', 1),
      curvePath(curves.aware, offset, video, y, 'blue'), curvePath(curves.agnostic, offset, video, y, 'red'))),
    timeAxis());
}

// ---- moving along the timeline --------------------------------------------------------------------------------------

function setView(from, to) {
  const whole = data.durations[state.video], span = clamp(to - from, Math.min(whole, 0.5), whole);
  state.from = clamp(from, 0, whole - span);
  state.to = state.from + span;
  drawTimeline();
}

function zoom(factor, center = (state.from + state.to) / 2) {
  setView(center - (center - state.from) * factor, center + (state.to - center) * factor);
}

const pan = (share, span = state.to - state.from) => setView(state.from + share * span, state.to + share * span);
const showWhole = () => setView(0, data.durations[state.video]);

// Return the instance with the largest tIoU with a detection, as text.
function overlapText(row) {
  let best = null, largest = 0;
  for (const g of instancesOf[detections.video[row]]) {
    const inner = Math.min(detections.end[row], instances.end[g]) - Math.max(detections.start[row], instances.start[g]);
    const outer = detections.end[row] - detections.start[row] + instances.end[g] - instances.start[g] - inner;
    if (inner > 0 && inner / outer > largest) [best, largest] = [g, inner / outer];
  }
  return best === null ? 'overlaps no instance' :
    `tIoU ${largest.toFixed(2)} with ${data.labels[instances.label[best]]}`;
}

// Return the tooltip at a point of the timeline: the event, detection or instance, else the curves at that time.
function describe(event) {
  const {tip, row, event: e} = event.target.dataset;
  if (tip) return tip;
  if (e !== undefined) return `${data.labels[events.label[e]]}\n${timeSpan(events.start[e], events.end[e])}, ` +
    `score ${scoreText(events.score[e])}`;
  if (row !== undefined) return [
    data.labels[detections.label[row]],
    `${timeSpan(detections.start[row], detections.end[row])}, score ${scoreText(detections.score[row])}`,
    ...(SCORED ? [data.types[typeOf(Number(row), state.k)], overlapText(row)] : [])].join('\n');

  const time = timeOf(event.clientX - $('#timeline').getBoundingClientRect().left), curve = curveOf.get(state.video);
  if (time < state.from || time > state.to) return '';
  if (curve === undefined) return `${seconds(time)} s`;
  const snippet = clamp(Math.floor(time / curves.seconds[curve]), 0, curves.count - 1);
  const index = curve * curves.count + snippet, value = byte => (byte / 255).toFixed(2);
  const lines = [
    `${seconds(time)} s, snippet ${snippet} of 0 … ${curves.count - 1}`, REGIONS[curves.region[index]],
    `actionness: class-aware ${value(curves.aware[index])}, class-agnostic ${value(curves.agnostic[index])}`];
  for (const [label, name] of data.labels.entries()) {
    const pair = isChosen(label) ? pairOf.get(`${state.video} ${label}`) : undefined;
    if (pair === undefined) continue;
    const at = pair * curves.count + snippet;
    const cas = curves.low[pair] + (curves.high[pair] - curves.low[pair]) * curves.cas[at] / 255;
    lines.push(`${truncate(name)}: A_score ${value(curves.selection[at])}, CAS ${minus(cas.toFixed(1))}`);
  }
  return lines.join('\n');
}

function listenToTimeline() {
  const box = $('#timeline');
  let drag = null;
  const pointerX = event => clamp(event.clientX - box.getBoundingClientRect().left, LEFT, LEFT + plotWidth);
  const centerOn = x => {
    const half = (state.to - state.from) / 2, center = (x - LEFT) / plotWidth * data.durations[state.video];
    setView(center - half, center + half);
  };
  const stop = () => {
    drag = null;
    $('#brush').hidden = true;
  };
  box.addEventListener('pointerdown', event => {
    if (event.button || event.target.closest('button, summary')) return;
    drag = {
      ...event.target.dataset, x: pointerX(event), onOverview: Boolean(event.target.closest('.overview'))};
    box.setPointerCapture(event.pointerId);
    if (drag.onOverview) centerOn(drag.x);
  });
  box.addEventListener('pointermove', event => {
    const x = pointerX(event);
    if (drag?.onOverview) return centerOn(x);
    $('#cursor').hidden = false;
    $('#cursor').style.left = x + 'px';
    if (!drag) return tooltip(event, describe(event));
    const [left, right] = [Math.min(x, drag.x), Math.max(x, drag.x)], brush = $('#brush');
    brush.hidden = right - left < 4;
    brush.style.left = left + 'px';
    brush.style.width = right - left + 'px';
    tooltip(event, timeSpan(timeOf(left), timeOf(right)));
  });
  box.addEventListener('pointerup', event => {
    const begin = drag, x = pointerX(event);
    stop();
    if (!begin || begin.onOverview) return;
    if (Math.abs(x - begin.x) >= 4) return setView(timeOf(Math.min(x, begin.x)), timeOf(Math.max(x, begin.x)));
    if (event.pointerType === 'touch') tooltip(event, describe(event));
    if (begin.event !== undefined) playEvent(begin.event);
    else if (begin.row === undefined) mark(timeOf(x));
    else mark(detections.start[begin.row], detections.end[begin.row]);
  });
  box.addEventListener('pointercancel', stop);
  box.addEventListener('pointerleave', () => {
    $('#cursor').hidden = true;
    tooltip();
  });
  box.addEventListener('dblclick', showWhole);
  box.addEventListener('wheel', event => {
    if (event.ctrlKey || event.metaKey) zoom(Math.exp(event.deltaY / 300), timeOf(pointerX(event)));
    else if (Math.abs(event.deltaX) > Math.abs(event.deltaY)) pan(event.deltaX / plotWidth);
    else return;
    event.preventDefault();
  }, {passive: false});
}

// ---- video player ---------------------------------------------------------------------------------------------------

let stopTime = null;    // end of the detection that is played, Infinity for an event

const urlOf = video => data.clips && data.clips[video];
const canPlay = () => Boolean(urlOf(state.video)) && !$('#clip').hidden;
const play = () => $('#clip').play().catch(() => {});    // a browser may refuse before the first click

function loadClip() {
  const clip = $('#clip'), url = urlOf(state.video);
  stopTime = null;
  $('.player').hidden = !url;
  if (url === clip.getAttribute('src')) return;
  clip.hidden = false;
  $('.player .note').hidden = true;
  if (url) clip.setAttribute('src', url);
  else if (clip.hasAttribute('src')) {
    clip.removeAttribute('src');
    clip.load();
  }
}

// Mark a time and seek the video to it; with `last` play until then.
function mark(time, last = null) {
  state.time = clamp(time, 0, data.durations[state.video]);
  placePlayhead();
  if (!canPlay()) return;
  stopTime = last;
  $('#clip').currentTime = state.time;
  if (last !== null) play();
}

const playEvent = e => mark(events.start[e], Infinity);

function placePlayhead() {
  for (const button of document.querySelectorAll('#events button')) {
    const e = button.dataset.event, {time} = state;
    button.classList.toggle('now', time !== null && time >= events.start[e] && time < events.end[e]);
  }
  const playhead = $('#playhead');
  if (!playhead) return;
  playhead.hidden = state.time === null || !inView(state.time, state.time);
  playhead.style.left = xOf(state.time ?? 0) + 'px';
}

// Move the playhead, and the visible part, to the time of the video.
function followClip() {
  const clip = $('#clip'), {from, to} = state;
  if (state.time === null && !clip.currentTime) return;    // just loaded
  state.time = clip.currentTime;
  if (stopTime !== null && clip.currentTime >= stopTime) {
    stopTime = null;
    clip.pause();
  }
  if (!clip.paused && (state.time > to || state.time < from) && to - from < data.durations[state.video])
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
  clip.addEventListener('loadedmetadata', () => {
    $('.stage').style.setProperty('--ratio', clip.videoWidth / clip.videoHeight || 16 / 9);
    if (state.time !== null) clip.currentTime = state.time;
  });
  clip.addEventListener('error', () => {
    if (!clip.hasAttribute('src')) return;
    let name = clip.getAttribute('src');
    try { name = decodeURIComponent(name); } catch { /* the name is not UTF-8 */ }
    clip.hidden = true;
    $('.player .note').hidden = false;
    $('.player .note').textContent = `This browser cannot play ${name.replace(/^\.\//, '')}. ` +
      'If the file is there, convert it to H.264: ffmpeg -i OLD -c:v libx264 NEW.mp4';
  });
  document.body.classList.toggle('has-clips', Boolean(data.clips));
}

function playOrPause() {
  stopTime = null;
  return $('#clip').paused ? play() : $('#clip').pause();
}

// ---- panels as SVG files --------------------------------------------------------------------------------------------

const PAINT = [
  'fill', 'fill-opacity', 'stroke', 'stroke-width', 'stroke-opacity', 'stroke-dasharray', 'paint-order', 'font-size',
  'font-weight', 'text-anchor', 'visibility'];

// Return a copy of a drawing that needs no style sheet.
function withStyles(original) {
  const copy = original.cloneNode(true), sources = [original, ...original.querySelectorAll('*')];
  [copy, ...copy.querySelectorAll('*')].forEach((node, i) => {
    const style = getComputedStyle(sources[i]);
    for (const name of PAINT) node.setAttribute(name, style.getPropertyValue(name));
    for (const name of ['class', 'data-row', 'data-tip', 'data-event']) node.removeAttribute(name);
  });
  return copy;
}

// Save the drawings, titles and legends of a part of the page as one SVG file.
function saveSvg(box) {
  const frame = box.getBoundingClientRect(), {backgroundColor} = getComputedStyle($('.card'));
  const root = svg('svg', {width: frame.width, height: frame.height, 'font-family': 'sans-serif'},
    rect(0, 0, frame.width, frame.height, {fill: backgroundColor}));
  for (const node of box.querySelectorAll(':not(svg) > svg, i, b, figcaption, p > span, .legend > span')) {
    if (!node.checkVisibility()) continue;    // in a folded part
    const {left, top, width, height} = node.getBoundingClientRect(), style = getComputedStyle(node);
    const x = left - frame.left, y = top - frame.top;
    if (node.tagName === 'svg') root.append(fill(withStyles(node), {x, y, width, height}));
    else if (node.tagName === 'I')
      root.append(rect(x, y, width, height, {fill: style.backgroundColor, 'fill-opacity': style.opacity}));
    else root.append(text(x + (node.firstElementChild?.tagName === 'I' ? 22 : 0), y + 16,
      (node.tagName === 'FIGCAPTION' ? node.firstChild : node).textContent.trim(),
      {fill: style.color, 'font-size': style.fontSize, 'font-weight': style.fontWeight}));
  }
  const file = new Blob([new XMLSerializer().serializeToString(root)], {type: 'image/svg+xml'});
  const title = box.id === 'timeline' ? data.videos[state.video] :
    box.querySelector('figcaption, b').firstChild.textContent.trim();
  const name = title.replace(/[^\w.-]+/g, '_').slice(0, 60);
  const link = html('a', {href: URL.createObjectURL(file), download: `${name}.svg`});
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

const svgButton = (find = button => button.closest('figure, .block, .lanes')) => html('button', {
  type: 'button', class: 'save', text: 'SVG', title: 'Save as SVG', onclick: event => saveSvg(find(event.target))});

// ---- controls and keys ----------------------------------------------------------------------------------------------

function setLabel(label) {
  state.label = label;
  $('#label').value = label;
  drawList();
}

const keys = {
  j: () => stepVideo(1), k: () => stepVideo(-1), ArrowLeft: () => pan(-0.25), ArrowRight: () => pan(0.25),
  '+': () => zoom(0.5), '-': () => zoom(2), 0: showWhole, '?': () => $('#help').showModal()};

function onKey(event) {
  const {target, key} = event;
  if (event.ctrlKey || event.metaKey || event.altKey || $('#help').open) return;
  if (key === 'Escape') target.blur();
  if (target.matches('input[type=search], select')) return;
  if (target.matches('input') && key.startsWith('Arrow')) return;    // moves the slider or changes the tIoU
  if (key === ' ' && target.matches('button, input, summary, video')) return;    // presses it
  let action = key === ' ' && canPlay() ? playOrPause : keys[key];
  if (target.id === 'list' && key === 'ArrowDown') action = keys.j;
  if (target.id === 'list' && key === 'ArrowUp') action = keys.k;
  if (!action) return;
  const {top, bottom} = $('#viewer').getBoundingClientRect();
  if (key !== '?' && (bottom < 100 || top > innerHeight - 100)) $('#videos').scrollIntoView();
  action();
  event.preventDefault();
}

function listen() {
  const on = (selector, event, action) => $(selector).addEventListener(event, action);
  $('#tiou').append(...data.tiou.map((key, k) => html('label', {},
    html('input', {
      type: 'radio', name: 'tiou', onchange: () => { state.k = k; drawAll(); }, ...(k === state.k && {checked: ''})}),
    key)));
  $('#label').append(html('option', {value: -1, text: 'all classes'}),
    ...data.labels.map((name, label) => html('option', {value: label, text: truncate(name)})));
  $('#sort').append(...orders.map(([name], index) => html('option', {value: index, text: 'by ' + name})));
  fill($('#threshold'), {
    min: roundDown(lowest), max: (Math.ceil(highest / step) * step).toFixed(decimals), step});
  $('#threshold').value = state.threshold;
  on('#threshold', 'input', event => { state.threshold = Number(event.target.value); drawTimeline(); });
  on('#search', 'input', event => { state.query = event.target.value; drawList(); });
  on('#label', 'change', event => setLabel(Number(event.target.value)));
  on('#sort', 'change', event => { state.order = Number(event.target.value); drawList(); });
  const buttons = {previous: 'k', next: 'j', 'zoom-in': '+', 'zoom-out': '-', 'zoom-reset': '0', 'help-button': '?'};
  for (const [id, key] of Object.entries(buttons)) on('#' + id, 'click', keys[key]);
  on('#classes .scroll', 'scroll', drawTableHint);
  for (const caption of document.querySelectorAll('.charts figcaption')) caption.append(svgButton());
  $('#viewer .title .buttons').append(svgButton(() => $('#timeline')));
  document.addEventListener('keydown', onKey);
  listenToTimeline();
  listenToClip();
  let width = innerWidth;
  addEventListener('resize', () => {
    if (innerWidth !== width) drawAll();    // the height changes where the address bar of a phone comes and goes
    width = innerWidth;
  });
}

// ---- start ----------------------------------------------------------------------------------------------------------

function drawAll() {
  drawSummary();
  if (data.training) drawTraining();
  if (SCORED) {
    drawClasses();
    drawErrors();
  } else drawDetectedClasses();
  drawList();
}

addEventListener('error', event => {
  $('#broken').hidden = false;
  $('#broken').textContent = `This page is incomplete, its script failed: ${event.message}`;
});
document.body.classList.toggle('unscored', !SCORED);
document.body.classList.toggle('untrained', !data.training);
$('.meaning dl').append(...definitions(data.types.map((name, type) => [
  legendKey(`swatch type${type}`, name), DEFINITIONS[type]])));
state.row = data.classes.indexOf(sortedClasses()[0]);
listen();
loadClip();
drawAll();
