// The report of training runs: tables as text, plotly charts in the colours of the theme.
const byId = (id) => document.getElementById(id);
const report = JSON.parse(byId("report").textContent);
// lighter versions of the dark Okabe-Ito colours for the dark theme
const LIFTED = { "#0072B2": "#4aa3df", "#D55E00": "#f0803c", "#009E73": "#2fc49a", "#222222": "#e9e9e6" };

function element(tag, text, className) {
  const created = document.createElement(tag);
  if (text !== undefined) created.textContent = text;
  if (className) created.className = className;
  return created;
}

function fillTable(place, { caption, head, rows, note }) {
  const table = element("table"), top = table.createTHead().insertRow(), body = table.createTBody();
  table.append(element("caption", caption));
  const isText = head.map((_, i) => i === 0 || rows.some((row) => row[i] !== "" && !/^[-−]?[\d.,]+([e][-+]?\d+)?( ?%)?( of [\d,]+)?$/.test(row[i])));
  head.forEach((word, i) => { const cell = element("th", word, isText[i] ? "text" : ""); cell.scope = "col"; top.append(cell); });
  for (const row of rows) {
    const line = body.insertRow();
    row.forEach((word, i) => {
      const cell = element(i ? "td" : "th", word, isText[i] ? "text" : "");
      if (!i) cell.scope = "row";
      line.append(cell);
    });
  }
  place.replaceChildren(table, ...(note ? [element("p", note, "note")] : []));
}

const isDark = () => (document.documentElement.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function themeChart(text, width) {
  const dark = isDark();
  const chart = JSON.parse(dark ? text.replace(/#0072B2|#D55E00|#009E73|#222222/g, (color) => LIFTED[color]) : text);
  const ink = colour("--ink"), line = colour("--line"), axis = { gridcolor: line, zerolinecolor: line, linecolor: line, automargin: true, title: { standoff: 8 } };
  const layout = chart.layout;
  const entries = new Set(chart.data.filter((t) => t.showlegend !== false).map((t) => t.name)).size;
  const rows = Math.ceil(entries / Math.max(1, Math.floor(width / 190)));
  Object.assign(layout, {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", margin: { l: 8, r: 8, t: layout.annotations ? 28 : 8, b: 8 + 20 * rows + 34 }, hovermode: "closest",
    font: { color: ink, family: "system-ui, -apple-system, 'Segoe UI', sans-serif", size: 12 }, height: (layout.height || 290) + 20 * rows,
    hoverlabel: { bgcolor: colour("--box"), bordercolor: line, font: { color: ink }, namelength: -1 },
    legend: { orientation: "h", yref: "container", y: 0, yanchor: "bottom", x: 0, traceorder: "normal" }, showlegend: entries > 1,
  });
  for (const name of Object.keys(layout).filter((key) => /^[xy]axis\d*$/.test(key))) layout[name] = { ...axis, ...layout[name], title: { ...axis.title, ...(layout[name] || {}).title } };
  return chart;
}

function drawCharts() {
  byId("theme").textContent = isDark() ? "Light" : "Dark";
  return Promise.all(report.charts.map(({ text }, i) => {
    const { data, layout } = themeChart(text, byId(`chart${i}`).clientWidth);
    return Plotly.react(`chart${i}`, data, layout, { responsive: true, displaylogo: false, displayModeBar: false });
  }));
}

byId("name").textContent = report.title;
byId("said").textContent = report.said;
document.title = `${report.title} · training report`;
fillTable(byId("numbers"), report.numbers);
if (report.costs.rows.length) fillTable(byId("costs"), report.costs); else byId("costs").remove();
report.charts.forEach(({ title, caption, whole }, i) => {
  const figure = element("figure", undefined, whole ? "whole" : ""), heading = element("figcaption"), place = element("div", undefined, "chart");
  place.id = `chart${i}`;
  heading.id = `caption${i}`;
  heading.append(element("h2", title), element("p", caption));
  figure.setAttribute("role", "group");
  figure.setAttribute("aria-labelledby", heading.id);
  figure.append(heading, place);
  byId("charts").append(figure);
});
byId("theme").addEventListener("click", () => { document.documentElement.dataset.theme = isDark() ? "light" : "dark"; drawCharts(); });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawCharts);
drawCharts().then(() => { document.documentElement.dataset.ready = "yes"; });
