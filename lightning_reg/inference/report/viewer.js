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
  const reach = {};
  for (const when of ["before", "after"]) reach[when] = new Float32Array((await unpack(data.reach[when])).buffer);

  const planes = {                       // horizontal axis, vertical axis, normal
    axial: { u: 0, v: 1, n: 2 }, coronal: { u: 0, v: 2, n: 1 }, sagittal: { u: 1, v: 2, n: 0 },
  };
  const sides = { axial: "RLAP", coronal: "RLSI", sagittal: "PASI" };     // left, right, top, bottom
  const column = (u, c) => u === 0 ? I - 1 - c : c;   // the patient's right is on the left of the picture
  const shape = [I, J, K];
  const at = data.start.slice();
  const element = id => document.getElementById(id);
  const state = () => ({
    mode: element("mode").value,
    when: document.querySelector("input[name=when]:checked").value,
    split: element("split").value / 100,
  });
  const index = p => (p[0] * J + p[1]) * K + p[2];

  // mapped position of a point of the fixed image along one axis, in voxels of this grid: trilinear interpolation of a coarse field
  const [CI, CJ, CK] = data.coarse;
  function landed(field, p, axis) {
    const c = [0, 1, 2].map(a => Math.min(Math.max((p[a] + .5) * data.coarse[a] / shape[a] - .5, 0), data.coarse[a] - 1));
    const low = c.map(Math.floor), f = c.map((x, a) => x - low[a]);
    let sum = 0;
    for (let corner = 0; corner < 8; corner++) {
      const q = [0, 1, 2].map(a => Math.min(low[a] + (corner >> a & 1), data.coarse[a] - 1));
      const w = [0, 1, 2].reduce((w, a) => w * ((corner >> a & 1) ? f[a] : 1 - f[a]), 1);
      if (w) sum += w * field[((axis * CI + q[0]) * CJ + q[1]) * CK + q[2]];
    }
    return p[axis] + sum;
  }

  function color(s, p, x, width, y) {
    const i = index(p), f = volume.fixed[i], o = volume[s.when][i];
    if (s.mode === "fixed") return [f, f, f];
    if (s.mode === "other" || s.mode === "grid") return [o, o, o];
    if (s.mode === "swipe") { const g = x / width < s.split ? f : o; return [g, g, g]; }
    if (s.mode === "checker") {
      const size = Math.max(4, Math.round(6 + s.split * 40));
      const g = (Math.floor(x / size) + Math.floor(y / size)) % 2 ? o : f;
      return [g, g, g];
    }
    if (s.mode === "overlay") return [f, .55 * f + .45 * o, o];
    if (s.mode === "difference") {
      const d = (o - f) / 255, t = Math.min(1, Math.abs(d) * 1.6);
      return d > 0 ? [255, 255 * (1 - t), 255 * (1 - t)] : [255 * (1 - t), 255 * (1 - t), 255];
    }
    const j = volume.jacobian[i];        // 255: folded; else 100 x determinant, at most 2.54
    if (j === 255) return [220, 0, 0];
    const d = Math.max(-1, Math.min(1, Math.log2(Math.max(j, 1) / 100)));
    return d > 0 ? [255 - 190 * d, 255 - 90 * d, 255 - 165 * d] : [255 + 130 * d, 255 + 205 * d, 255 + 105 * d];
  }

  const legends = {
    swipe: "Left of the divider: the fixed image; right of it: the other image.",
    checker: "The divider sets the size of the squares.",
    overlay: "Grey: both images agree; orange: only in the fixed image; blue: only in the other image.",
    difference: "Other image minus fixed image; red: brighter, blue: darker.",
    fixed: "", other: "",
    grid: "Each line joins points that are mapped onto one plane of the moving image.",
    jacobian: "Green: expands, purple: shrinks (white: keeps its volume; full colour: twice or half); red: folds.",
  };

  function draw(name) {
    const { u, v, n } = planes[name], canvas = element(name), s = state();
    const width = shape[u], height = shape[v], zoom = Math.max(1, Math.round(384 / Math.max(width, height)));
    canvas.width = width * zoom; canvas.height = height * zoom;
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
    context.drawImage(small, 0, 0, canvas.width, canvas.height);
    const X = c => (column(u, c) + .5) * zoom, Y = y => (height - .5 - y) * zoom;
    if (s.mode === "grid") {             // marching squares: points that are mapped onto planes of the moving image
      const step = Math.max(4, Math.round(Math.max(...shape) / 22)), field = reach[s.when];
      context.strokeStyle = "#ffb000";
      context.lineWidth = Math.max(1, zoom / 3);
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
    const shown = element("points");
    if (shown && shown.checked) for (const mark of data.landmarks) {
      const off = Math.abs(mark.fixed[n] - at[n]);
      if (off > 2.5) continue;
      const error = mark[s.when], end = mark.fixed.map((c, a) => c + error[a]);
      context.strokeStyle = context.fillStyle = `hsl(${Math.max(0, 120 - 24 * mark.mm[s.when])} 100% 50%)`;
      context.lineWidth = 2;
      context.beginPath(); context.arc(X(mark.fixed[u]), Y(mark.fixed[v]), 4, 0, 7); context.stroke();
      context.beginPath(); context.moveTo(X(mark.fixed[u]), Y(mark.fixed[v])); context.lineTo(X(end[u]), Y(end[v])); context.stroke();
    }
    if (element("cross").checked) {
      context.strokeStyle = "#3b82f6aa"; context.lineWidth = 1;
      context.beginPath();
      context.moveTo(X(at[u]), 0); context.lineTo(X(at[u]), canvas.height);
      context.moveTo(0, Y(at[v])); context.lineTo(canvas.width, Y(at[v]));
      context.stroke();
    }
    context.fillStyle = "#9ca3af"; context.font = `${Math.round(canvas.width / 28)}px sans-serif`;
    context.textAlign = "center"; context.textBaseline = "middle";
    const edge = canvas.width / 36, [left, right, top, bottom] = sides[name];
    context.fillText(left, edge, canvas.height / 2); context.fillText(right, canvas.width - edge, canvas.height / 2);
    context.fillText(top, canvas.width / 2, edge); context.fillText(bottom, canvas.width / 2, canvas.height - edge);
    element(`slice-${name}`).value = at[n];
    element(`at-${name}`).textContent = `${(data.origin[n] + at[n] * data.spacing).toFixed(1)} mm`;
  }

  function redraw() {
    const { mode } = state();
    element("split-label").style.visibility = ["swipe", "checker"].includes(mode) ? "visible" : "hidden";
    element("legend").textContent = legends[mode];
    Object.keys(planes).forEach(draw);
    document.body.dataset.drawn = [mode, state().when, ...at].join(" ");
  }

  for (const [name, { u, v, n }] of Object.entries(planes)) {
    const slider = element(`slice-${name}`), canvas = element(name);
    slider.max = shape[n] - 1;
    slider.addEventListener("input", () => { at[n] = +slider.value; redraw(); });
    const follow = event => {
      if (!event.buttons) return;
      const box = canvas.getBoundingClientRect();
      at[u] = column(u, Math.min(Math.max(Math.floor((event.clientX - box.left) / box.width * shape[u]), 0), shape[u] - 1));
      at[v] = Math.min(Math.max(shape[v] - 1 - Math.floor((event.clientY - box.top) / box.height * shape[v]), 0), shape[v] - 1);
      redraw();
    };
    canvas.addEventListener("pointerdown", follow);
    canvas.addEventListener("pointermove", follow);
    canvas.addEventListener("wheel", event => {
      event.preventDefault();
      at[n] = Math.min(Math.max(at[n] + Math.sign(event.deltaY), 0), shape[n] - 1);
      redraw();
    }, { passive: false });
  }
  for (const id of ["mode", "split", "cross", "points"]) element(id)?.addEventListener("input", redraw);
  document.querySelectorAll("input[name=when]").forEach(radio => radio.addEventListener("input", redraw));
  document.querySelectorAll("tr[data-at]").forEach(row => row.addEventListener("click", () => {
    row.dataset.at.split(",").forEach((c, a) => { at[a] = Math.min(Math.max(Math.round(+c), 0), shape[a] - 1); });
    redraw();
    element("viewer").scrollIntoView();
  }));
  redraw();
})();
