"use strict";
// Three linked planes of volumes on one isotropic grid with axes to the right, anterior and superior.
(async () => {
  const data = JSON.parse(document.getElementById("volumes").textContent);
  const [I, J, K] = data.shape;

  async function unpack(text) {
    const bytes = Uint8Array.from(atob(text), c => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }
  const volume = {};
  for (const name of ["fixed", "before", "after", "jacobian"]) volume[name] = await unpack(data[name]);
  const reach = {}, contours = {};
  for (const when of ["before", "after"]) reach[when] = new Float32Array((await unpack(data.reach[when])).buffer);
  for (const name of Object.keys(data.contours)) contours[name] = await unpack(data.contours[name]);

  const planes = {                       // horizontal axis, vertical axis, normal
    axial: { u: 0, v: 1, n: 2 }, coronal: { u: 0, v: 2, n: 1 }, sagittal: { u: 1, v: 2, n: 0 },
  };
  const sides = { axial: "RLAP", coronal: "RLSI", sagittal: "PASI" };     // left, right, top, bottom
  const column = (u, c) => u === 0 ? I - 1 - c : c;   // the patient's right is on the left of the picture
  const shape = [I, J, K];
  const at = data.start.slice();
  const view = { zoom: 1, contrast: 1, brightness: 0 };   // contrast: factor of the window's width; brightness: shift of its level, in widths
  const BLUE = "#56b4e9", ORANGE = "#e69f00";             // colours that colour-blind readers tell apart (Okabe and Ito, 2008)
  const element = id => document.getElementById(id);
  const state = () => ({
    mode: element("mode").value,
    when: document.querySelector("input[name=when]:checked").value,
    split: element("split").value / 100,
  });
  const index = p => (p[0] * J + p[1]) * K + p[2];
  const clamp = (x, low, high) => Math.min(Math.max(x, low), high);
  const scale = Math.max(1, Math.round(384 / Math.max(...shape)));        // canvas pixels per voxel, the same in all planes

  // intensities shown as black and as white, and the intensity of a stored byte
  function shownWindow(side) {
    const [low, high] = data.window[side], width = high - low, level = (low + high) / 2 - view.brightness * width;
    return [level - width * view.contrast / 2, level + width * view.contrast / 2];
  }
  const intensity = (side, byte) => data.range[side][0] + byte / 255 * (data.range[side][1] - data.range[side][0]);
  function fraction(side) {
    const [low, high] = shownWindow(side);
    return Float32Array.from({ length: 256 }, (_, byte) => (intensity(side, byte) - low) / (high - low));
  }
  const REACH = .6;                      // fraction of the window's width that has the full colour of a difference
  let greys = {}, fractions = {};

  // mapped position of a point of the fixed image along one axis, in voxels of this grid: trilinear interpolation of a coarse field
  const [CI, CJ, CK] = data.coarse;
  function landed(field, p, axis) {
    const c = [0, 1, 2].map(a => clamp((p[a] + .5) * data.coarse[a] / shape[a] - .5, 0, data.coarse[a] - 1));
    const low = c.map(Math.floor), f = c.map((x, a) => x - low[a]);
    let sum = 0;
    for (let corner = 0; corner < 8; corner++) {
      const q = [0, 1, 2].map(a => Math.min(low[a] + (corner >> a & 1), data.coarse[a] - 1));
      const w = [0, 1, 2].reduce((w, a) => w * ((corner >> a & 1) ? f[a] : 1 - f[a]), 1);
      if (w) sum += w * field[((axis * CI + q[0]) * CJ + q[1]) * CK + q[2]];
    }
    return p[axis] + sum;
  }

  const mixed = (t, from, to) => from.map((c, a) => c + t * (to[a] - c));
  const ramps = {
    difference: t => t > .5 ? mixed(2 * t - 1, [255, 255, 255], [214, 40, 40]) : mixed(1 - 2 * t, [255, 255, 255], [30, 80, 200]),
    jacobian: t => t > .5 ? mixed(2 * t - 1, [255, 255, 255], [230, 97, 1]) : mixed(1 - 2 * t, [255, 255, 255], [94, 60, 153]),
    error: t => t > .5 ? mixed(2 * t - 1, [240, 228, 66], [213, 94, 0]) : mixed(2 * t, [86, 180, 233], [240, 228, 66]),
  };

  function color(s, p, x, width, y) {
    const i = index(p), f = greys.fixed[volume.fixed[i]], o = greys.other[volume[s.when][i]];
    if (s.mode === "fixed") return [f, f, f];
    if (s.mode === "other" || s.mode === "grid") return [o, o, o];
    if (s.mode === "swipe") { const g = x / width < s.split ? f : o; return [g, g, g]; }
    if (s.mode === "checker") {
      const size = Math.max(4, Math.round(6 + s.split * 40));
      const g = (Math.floor(x / size) + Math.floor(y / size)) % 2 ? o : f;
      return [g, g, g];
    }
    if (s.mode === "overlay") return [o, .45 * f + .55 * o, f];
    if (s.mode === "difference") {       // in fractions of the windows' widths, before intensities are cut off at black and white
      const d = fractions.other[volume[s.when][i]] - fractions.fixed[volume.fixed[i]];
      return ramps.difference(clamp(.5 + d / (2 * REACH), 0, 1));
    }
    const j = volume.jacobian[i];        // 255: folded; else 100 x determinant, at most 2.54
    if (j === 255) return [0, 0, 0];
    const tint = ramps.jacobian(clamp(.5 + .5 * Math.log2(Math.max(j, 1) / 100), 0, 1)), light = .45 + .55 * f / 255;
    return tint.map(c => c * light);     // over the anatomy of the fixed image
  }

  const legends = {
    swipe: "Left of the divider: the fixed image; right of it: the other image.",
    checker: "The divider sets the size of the squares.",
    overlay: "Grey: both images agree; blue: brighter in the fixed image; orange: brighter in the other image.",
    difference: "Other image minus fixed image; red: brighter than the fixed image.",
    fixed: "", other: "",
    grid: "Each line joins points that are mapped onto one plane of the moving image.",
    jacobian: "Determinant of the Jacobian over the fixed image: local change of volume. Black: folded.",
  };
  const bars = {                         // ramp and labels from its beginning to its end
    difference: ["difference", () => {   // in intensities where both images have the same window
      const widths = ["fixed", "other"].map(side => shownWindow(side)[1] - shownWindow(side)[0]), same = Math.abs(widths[0] - widths[1]) < 1e-6 * widths[0];
      const end = same ? Number((REACH * widths[0]).toPrecision(2)) : `${REACH} of the window`;
      return [same ? -end : `-${end}`, 0, end];
    }],
    jacobian: ["jacobian", () => ["0.5", "1", "2"]],
  };
  const worst = Math.max(1, ...data.landmarks.map(mark => mark.mm.after));

  // centre of the part that is shown: the crosshair, as far as the part stays inside the plane
  function shownPart({ u, v }) {
    const part = [shape[u] / view.zoom, shape[v] / view.zoom];
    const left = clamp(column(u, at[u]) + .5 - part[0] / 2, 0, shape[u] - part[0]);
    const top = clamp(shape[v] - .5 - at[v] - part[1] / 2, 0, shape[v] - part[1]);
    return { left, top, pixels: scale * view.zoom };
  }

  function draw(name) {
    const plane = planes[name], { u, v, n } = plane, canvas = element(name), s = state();
    const width = shape[u], height = shape[v], { left, top, pixels } = shownPart(plane);
    canvas.width = width * scale; canvas.height = height * scale;
    const small = new OffscreenCanvas(width, height), flat = small.getContext("2d"), image = flat.createImageData(width, height);
    const p = [0, 0, 0]; p[n] = at[n];
    for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) {
      p[u] = column(u, x); p[v] = height - 1 - y;
      const [r, g, b] = color(s, p, x, width, y), o = 4 * (y * width + x);
      image.data[o] = r; image.data[o + 1] = g; image.data[o + 2] = b; image.data[o + 3] = 255;
    }
    flat.putImageData(image, 0, 0);
    const context = canvas.getContext("2d");
    context.imageSmoothingEnabled = false;
    context.drawImage(small, -left * pixels, -top * pixels, width * pixels, height * pixels);
    const X = c => (column(u, c) + .5 - left) * pixels, Y = y => (height - .5 - y - top) * pixels;
    if (s.mode === "grid") drawGrid(context, s, plane, p, X, Y);
    if (element("contours")?.checked) {
      drawContours(context, contours.fixed, plane, BLUE, false, left, top, pixels);
      drawContours(context, contours[s.when], plane, ORANGE, true, left, top, pixels);
    }
    if (element("points")?.checked) drawLandmarks(context, s, plane, X, Y);
    if (element("cross").checked) {
      context.strokeStyle = "#3b82f6aa"; context.lineWidth = 1;
      context.beginPath();
      context.moveTo(X(at[u]), 0); context.lineTo(X(at[u]), canvas.height);
      context.moveTo(0, Y(at[v])); context.lineTo(canvas.width, Y(at[v]));
      context.stroke();
    }
    const edge = 12, [west, east, north, south] = sides[name];
    context.font = "bold 14px sans-serif"; context.textAlign = "center"; context.textBaseline = "middle";
    for (const [letter, x, y] of [[west, edge, canvas.height / 2], [east, canvas.width - edge, canvas.height / 2],
                                  [north, canvas.width / 2, edge], [south, canvas.width / 2, canvas.height - edge]]) outlined(context, letter, x, y);
    drawScale(context, canvas, pixels);
    element(`slice-${name}`).value = at[n];
    element(`at-${name}`).textContent = `${"xyz"[n]} ${(data.origin[n] + at[n] * data.spacing).toFixed(1)} mm`;
  }

  function outlined(context, text, x, y) {
    context.lineWidth = 3; context.strokeStyle = "#000"; context.fillStyle = "#fff"; context.lineJoin = "round";
    context.strokeText(text, x, y); context.fillText(text, x, y);
  }

  function drawScale(context, canvas, pixels) {
    const mm = [200, 100, 50, 20, 10, 5, 2, 1].find(mm => mm / data.spacing * pixels < canvas.width / 3) ?? 1, length = mm / data.spacing * pixels;
    const y = canvas.height - 10;
    for (const [style, width] of [["#000", 5], ["#fff", 2]]) {
      context.strokeStyle = style; context.lineWidth = width;
      context.beginPath(); context.moveTo(10, y); context.lineTo(10 + length, y); context.stroke();
    }
    context.font = "12px sans-serif"; context.textAlign = "left";
    outlined(context, `${mm} mm`, 10, y - 11);
  }

  function drawGrid(context, s, { u, v }, p, X, Y) {   // marching squares: points that are mapped onto planes of the moving image
    const step = Math.max(4, Math.round(Math.max(...shape) / 22)), field = reach[s.when], width = shape[u], height = shape[v];
    context.strokeStyle = ORANGE;
    context.lineWidth = Math.max(1, scale / 3);
    context.beginPath();
    for (const axis of [u, v]) {
      let below = null;
      for (let b = 0; b < height; b++) {
        const row = new Float32Array(width);
        for (let a = 0; a < width; a++) { p[u] = a; p[v] = b; row[a] = landed(field, p, axis) / step; }
        if (below) for (let a = 1; a < width; a++) {
          const corner = [[a - 1, b - 1, below[a - 1]], [a, b - 1, below[a]], [a, b, row[a]], [a - 1, b, row[a - 1]]];
          const values = corner.map(c => c[2]), last = Math.floor(Math.max(...values));
          for (let level = Math.ceil(Math.min(...values)); level <= last; level++) {
            const crossed = [];
            corner.forEach((c, e) => {
              const d = corner[(e + 1) % 4], t = (level - c[2]) / (d[2] - c[2]);
              if ((c[2] < level) !== (d[2] < level)) crossed.push([X(c[0] + t * (d[0] - c[0])), Y(c[1] + t * (d[1] - c[1]))]);
            });
            for (let e = 0; e + 1 < crossed.length; e += 2) { context.moveTo(...crossed[e]); context.lineTo(...crossed[e + 1]); }
          }
        }
        below = row;
      }
    }
    context.stroke();
  }

  function drawContours(context, labels, { u, v, n }, style, dashed, left, top, pixels) {   // edges between voxels of different labels
    const p = [0, 0, 0], width = shape[u], height = shape[v];
    const value = (x, y) => { p[n] = at[n]; p[u] = column(u, x); p[v] = height - 1 - y; return labels[index(p)]; };
    context.strokeStyle = style; context.lineWidth = 1.5;
    context.setLineDash(dashed && pixels >= 6 ? [pixels / 2, pixels / 4] : []);
    context.beginPath();
    for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) {
      if (dashed && pixels < 6 && x + y & 2) continue;
      const here = value(x, y), px = (x + 1 - left) * pixels, py = (y + 1 - top) * pixels;
      if (x + 1 < width && value(x + 1, y) !== here) { context.moveTo(px, py - pixels); context.lineTo(px, py); }
      if (y + 1 < height && value(x, y + 1) !== here) { context.moveTo(px - pixels, py); context.lineTo(px, py); }
    }
    context.stroke();
    context.setLineDash([]);
  }

  function drawLandmarks(context, s, { u, v, n }, X, Y) {
    for (const mark of data.landmarks) {
      if (Math.abs(mark.fixed[n] - at[n]) > 2.5) continue;
      const error = mark[s.when], end = mark.fixed.map((c, a) => c + error[a]), x = X(mark.fixed[u]), y = Y(mark.fixed[v]);
      context.strokeStyle = `rgb(${ramps.error(clamp(mark.mm[s.when] / worst, 0, 1)).map(Math.round)})`;
      context.lineWidth = 2;
      context.beginPath(); context.arc(x, y, 4, 0, 7); context.stroke();
      context.beginPath(); context.moveTo(x, y); context.lineTo(X(end[u]), Y(end[v])); context.stroke();
      context.font = "11px sans-serif"; context.textAlign = "left"; context.textBaseline = "middle";
      outlined(context, mark.mm[s.when].toFixed(1), x + 7, y - 7);
    }
  }

  function drawBar(id, ramp, labels) {
    const canvas = element(id), context = canvas.getContext("2d"), width = 180;
    canvas.width = width + 120; canvas.height = 34;
    for (let x = 0; x < width; x++) {
      context.fillStyle = `rgb(${ramps[ramp](x / (width - 1)).map(Math.round)})`;
      context.fillRect(60 + x, 0, 1, 14);
    }
    context.fillStyle = getComputedStyle(document.body).color; context.font = "12px sans-serif"; context.textAlign = "center";
    labels.forEach((label, number) => context.fillText(label, 60 + number / (labels.length - 1) * width, 29));
  }

  function redraw() {
    const { mode, when } = state();
    for (const side of ["fixed", "other"]) {
      fractions[side] = fraction(side);
      greys[side] = Uint8ClampedArray.from(fractions[side], x => 255 * x);
    }
    element("split-label").style.visibility = ["swipe", "checker"].includes(mode) ? "visible" : "hidden";
    const lines = element("contours")?.checked ? " Contours: fixed image blue, other image orange and dashed." : "";
    element("legend").textContent = legends[mode] + lines;
    element("bar").hidden = !(mode in bars);
    if (mode in bars) drawBar("bar", bars[mode][0], bars[mode][1]());
    const marked = element("points")?.checked;
    element("error-label").hidden = !marked;
    if (marked) drawBar("error-bar", "error", ["0", (worst / 2).toFixed(1), worst.toFixed(1)]);
    Object.keys(planes).forEach(draw);
    const told = side => shownWindow(side).map(x => Number(x.toPrecision(3))).join(" to ");
    element("window-values").textContent = `fixed ${told("fixed")}, moving ${told("other")}`;
    readout(at);
    document.body.dataset.drawn = [mode, when, ...at].join(" ");
  }

  function readout(p) {                  // values at a voxel; intensities are stored in 256 steps
    const i = index(p), { when } = state(), world = p.map((c, a) => (data.origin[a] + c * data.spacing).toFixed(1));
    const far = [0, 1, 2].map(a => (landed(reach[when], p, a) - p[a]) * data.spacing);
    const value = (side, byte) => Number(intensity(side, byte).toPrecision(3));
    const j = volume.jacobian[i];
    element("readout").textContent = `(${world.join(", ")}) mm RAS: fixed ${value("fixed", volume.fixed[i])}, `
      + `${when === "after" ? "warped" : "moving"} ${value("other", volume[when][i])}, displacement ${Math.hypot(...far).toFixed(1)} mm`
      + (when === "after" ? `, Jacobian determinant ${j === 255 ? "0 or less" : (j / 100).toFixed(2)}` : "");
  }

  for (const [name, plane] of Object.entries(planes)) {
    const { u, v, n } = plane, slider = element(`slice-${name}`), canvas = element(name);
    slider.max = shape[n] - 1;
    slider.addEventListener("input", () => { at[n] = +slider.value; redraw(); });
    const under = event => {             // voxel under the pointer
      const box = canvas.getBoundingClientRect(), { left, top } = shownPart(plane), p = at.slice();
      p[u] = column(u, clamp(Math.floor(left + (event.clientX - box.left) / box.width * shape[u] / view.zoom), 0, shape[u] - 1));
      p[v] = clamp(shape[v] - 1 - Math.floor(top + (event.clientY - box.top) / box.height * shape[v] / view.zoom), 0, shape[v] - 1);
      return p;
    };
    let dragged = null;
    canvas.addEventListener("pointerdown", event => {
      canvas.setPointerCapture(event.pointerId);
      if (event.button === 2 || event.shiftKey) dragged = { x: event.clientX, y: event.clientY, ...view };
      else { at.splice(0, 3, ...under(event)); redraw(); }
    });
    canvas.addEventListener("pointermove", event => {
      if (dragged) {
        setWindow(dragged.contrast * Math.exp((event.clientX - dragged.x) / 200), dragged.brightness + (dragged.y - event.clientY) / 400);
      } else if (event.buttons & 1) { at.splice(0, 3, ...under(event)); redraw(); } else readout(under(event));
    });
    for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => { dragged = null; });
    canvas.addEventListener("pointerleave", () => readout(at));
    canvas.addEventListener("contextmenu", event => event.preventDefault());
    canvas.addEventListener("dblclick", () => { view.zoom = 1; setWindow(1, 0); });
    canvas.addEventListener("wheel", event => {
      event.preventDefault();
      if (event.ctrlKey) magnify(event.deltaY < 0 ? 1.25 : .8);
      else { at[n] = clamp(at[n] + Math.sign(event.deltaY), 0, shape[n] - 1); redraw(); }
    }, { passive: false });
    canvas.addEventListener("keydown", event => {
      const move = { ArrowLeft: [u, u === 0 ? 1 : -1], ArrowRight: [u, u === 0 ? -1 : 1], ArrowUp: [v, 1], ArrowDown: [v, -1], PageUp: [n, 1], PageDown: [n, -1] }[event.key];
      if (!move) return;
      event.preventDefault();
      at[move[0]] = clamp(at[move[0]] + move[1], 0, shape[move[0]] - 1);
      redraw();
    });
  }

  function magnify(factor) { view.zoom = clamp(view.zoom * factor, 1, 8); redraw(); }

  element("preset")?.addEventListener("input", event => {   // intensities shown as black and as white, of both images
    const chosen = event.target.value.split(",").map(Number), [low, high] = data.window.fixed;
    if (chosen.length === 2) setWindow((chosen[1] - chosen[0]) / (high - low), ((low + high) - (chosen[0] + chosen[1])) / 2 / (high - low));
    else setWindow(1, 0);
  });

  function setWindow(contrast, brightness) {
    view.contrast = clamp(contrast, .05, 4); view.brightness = clamp(brightness, -1, 1);
    element("contrast").value = -Math.log2(view.contrast); element("brightness").value = view.brightness;
    redraw();
  }

  document.addEventListener("keydown", event => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.tagName === "SELECT") return;
    const modes = element("mode").options;
    if (event.key === "+" || event.key === "=") magnify(1.25);
    else if (event.key === "-") magnify(.8);
    else if (event.key === "0") { view.zoom = 1; setWindow(1, 0); }
    else if (event.key === "b") { document.querySelector("input[name=when]:not(:checked)").click(); }
    else if (event.key >= "1" && event.key <= String(modes.length)) { element("mode").selectedIndex = event.key - 1; redraw(); }
  });
  for (const id of ["contrast", "brightness"]) {
    element(id).addEventListener("input", () => setWindow(2 ** -element("contrast").value, +element("brightness").value));
  }
  for (const id of ["mode", "split", "cross", "points", "contours"]) element(id)?.addEventListener("input", redraw);
  document.querySelectorAll("input[name=when]").forEach(radio => radio.addEventListener("input", redraw));
  document.querySelectorAll("tr[data-at]").forEach(row => row.addEventListener("click", () => {
    row.dataset.at.split(",").forEach((c, a) => { at[a] = clamp(Math.round(+c), 0, shape[a] - 1); });
    redraw();
    element("viewer").scrollIntoView();
  }));
  redraw();
})();
