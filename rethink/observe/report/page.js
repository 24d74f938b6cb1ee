"use strict";
// What a model wrote is only ever put on the page as text nodes: `element` below is the one way to make content.
(() => {
  const PAGE_SIZE = 12;

  function element(name, attributes = {}, ...children) {
    const node = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) {
      if (key === "class") node.className = value;
      else if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
      else node.setAttribute(key, value);
    }
    for (const child of children) {
      if (child !== null && child !== undefined) {
        node.append(child instanceof Node ? child : document.createTextNode(String(child)));
      }
    }
    return node;
  }

  const isNumber = (value) => typeof value === "number";
  const digits = (value) => (isNumber(value) ? String(Number(value.toPrecision(4))) : "none");

  // --- charts: what the pointer or the arrow keys are at ------------------------------------------------------------

  const tooltip = document.getElementById("tooltip");

  function hide(svg) {
    tooltip.hidden = true;
    svg.classList.remove("active");
  }

  function show(svg, data, index) {
    const [x, step, rows] = data.at[index];
    const lines = rows.map(([label, value, colour]) =>
      element("p", {}, element("span", { class: `key swatch c${Number(colour)}` }), `${label}: ${value}`));
    tooltip.replaceChildren(element("p", {}, element("strong", {}, `step ${step}`)), ...lines);
    tooltip.hidden = false;
    const cursor = svg.querySelector(".cursor");
    cursor.setAttribute("x1", x);
    cursor.setAttribute("x2", x);
    svg.classList.add("active");
    const box = svg.getBoundingClientRect();
    const at = box.left + (x / data.w) * box.width;
    const left = at + 14 + tooltip.offsetWidth > window.innerWidth ? at - 14 - tooltip.offsetWidth : at + 14;
    tooltip.style.left = `${Math.max(4, left)}px`;
    tooltip.style.top = `${Math.max(4, Math.min(box.top + 10, window.innerHeight - tooltip.offsetHeight - 4))}px`;
  }

  function nearest(data, x) {
    let best = 0;
    data.at.forEach((entry, index) => {
      if (Math.abs(entry[0] - x) < Math.abs(data.at[best][0] - x)) best = index;
    });
    return best;
  }

  function watchChart(svg) {
    const data = JSON.parse(svg.dataset.chart);
    if (!data.at.length) return;
    let current = data.at.length - 1;
    const go = (index) => {
      current = Math.max(0, Math.min(data.at.length - 1, index));
      show(svg, data, current);
    };
    const follow = (event) => {
      const box = svg.getBoundingClientRect();
      go(nearest(data, ((event.clientX - box.left) / box.width) * data.w));
    };
    svg.setAttribute("tabindex", "0");
    svg.addEventListener("pointermove", follow);
    svg.addEventListener("pointerdown", follow);
    svg.addEventListener("pointerleave", () => hide(svg));
    svg.addEventListener("focus", () => { if (svg.matches(":focus-visible")) go(current); });
    svg.addEventListener("blur", () => hide(svg));
    svg.addEventListener("keydown", (event) => {
      const moves = { ArrowLeft: current - 1, ArrowRight: current + 1, Home: 0, End: data.at.length - 1 };
      if (event.key in moves) {
        event.preventDefault();
        go(moves[event.key]);
      } else if (event.key === "Escape") hide(svg);
    });
  }

  document.querySelectorAll("svg[data-chart]").forEach(watchChart);

  // --- samples ------------------------------------------------------------------------------------------------------

  const { prompts, rollouts, held_out: heldOut } = JSON.parse(document.getElementById("samples-data").textContent);

  function chip(words, kind = "") {
    return element("li", kind ? { class: kind } : {}, words);
  }

  function partChips(parts) {
    return Object.entries(parts || {}).map(([name, part]) => {
      if (part.failure) return chip(`${name}: failed (${part.failure})`, "bad");
      if (!isNumber(part.score)) return chip(`${name}: no score`);
      return chip(`${name} ${digits(part.score)}`, part.score >= 1 - 1e-9 ? "good" : part.score <= 0 ? "bad" : "");
    });
  }

  function endChips(row) {
    return [
      isNumber(row.tokens) ? chip(`${row.tokens} tokens`) : null,
      row.finish === "length" ? chip("truncated (length)", "bad") : row.finish ? chip(`ended: ${row.finish}`) : null,
    ];
  }

  function completion(row) {
    return element("pre", { tabindex: "0", dir: "auto" }, row.text === "" ? "(empty completion)" : row.text);
  }

  function promptDetails(row) {
    return element("details", {}, element("summary", {}, "Prompt"), element("pre", { tabindex: "0" }, prompts[row.prompt]));
  }

  function select(label, options, onchange) {
    const box = element("select", { onchange },
      ...options.map(([value, words]) => element("option", { value: String(value) }, words)));
    return [element("label", {}, label, box), box];
  }

  // A list that shows the first rows and, on request, more.
  function pagedList(render) {
    const count = element("p", { class: "count", role: "status" });
    const cards = element("div", { class: "cards" });
    const more = element("button", { type: "button", class: "more", onclick: () => add() });
    let rows = [];
    let shown = 0;
    function add() {
      const next = rows.slice(shown, shown + PAGE_SIZE);
      const first = next.map((row, index) => {
        const nodes = render(row, index + shown > 0 ? rows[index + shown - 1] : null).filter(Boolean);
        cards.append(...nodes);
        return nodes[0];
      })[0];
      const focus = shown > 0 && document.activeElement === more;
      shown += next.length;
      more.hidden = shown >= rows.length;
      more.textContent = `Show ${Math.min(PAGE_SIZE, rows.length - shown)} more`;
      if (focus && first) {
        first.setAttribute("tabindex", "-1");
        first.focus();
      }
    }
    function set(next, words) {
      rows = next;
      shown = 0;
      count.textContent = words;
      cards.replaceChildren();
      add();
    }
    return { nodes: [count, cards, more], set };
  }

  // Rewards as choices: each value where there are few, else quarters of the range.
  function rewardChoices() {
    const values = [...new Set(rollouts.map((row) => row.reward).filter(isNumber))].sort((a, b) => b - a);
    const choices = [["", "any", () => true]];
    if (values.length <= 12) {
      values.forEach((value, index) => choices.push([`v${index}`, digits(value), (row) => row.reward === value]));
    } else {
      const high = values[0];
      const low = values[values.length - 1];
      for (let quarter = 3; quarter >= 0; quarter -= 1) {
        const from = low + ((high - low) * quarter) / 4;
        const to = quarter === 3 ? high : low + ((high - low) * (quarter + 1)) / 4;
        choices.push([`q${quarter}`, `${digits(from)} to ${digits(to)}`,
          (row) => isNumber(row.reward) && row.reward >= from && (row.reward < to || (quarter === 3 && row.reward <= to))]);
      }
    }
    if (rollouts.some((row) => !isNumber(row.reward))) choices.push(["none", "none", (row) => !isNumber(row.reward)]);
    return choices;
  }

  const low = (value) => (isNumber(value) ? value : -Infinity);
  const ORDERS = {
    sampled: ["as sampled, by group", () => 0],
    best: ["highest reward first", (a, b) => low(b.reward) - low(a.reward) || 0],
    worst: ["lowest reward first", (a, b) => low(a.reward) - low(b.reward) || 0],
    advantage: ["highest advantage first", (a, b) => low(b.advantage) - low(a.advantage) || 0],
    longest: ["longest first", (a, b) => (b.tokens || 0) - (a.tokens || 0)],
    shortest: ["shortest first", (a, b) => (a.tokens || 0) - (b.tokens || 0)],
  };

  function rolloutCard(row) {
    return element("article", { class: "card" },
      element("ul", { class: "chips" },
        chip(`step ${row.step}`), chip(`prompt ${row.group + 1}, sample ${row.sample + 1}`),
        chip(`reward ${digits(row.reward)}`), ...partChips(row.parts), chip(`advantage ${digits(row.advantage)}`),
        ...endChips(row), row.answer === null ? null : chip(`gold answer: ${row.answer}`)),
      completion(row), promptDetails(row));
  }

  function rolloutBrowser(home) {
    const steps = [...new Set(rollouts.map((row) => row.step))].sort((a, b) => a - b);
    const rewards = rewardChoices();
    const [stepLabel, step] = select("Step",
      [["", "all steps"], ...steps.map((value) => [value, `step ${value}`])], () => update());
    const [rewardLabel, reward] = select("Reward", rewards, () => update());
    const [orderLabel, order] = select("Order", Object.entries(ORDERS).map(([key, [words]]) => [key, words]), () => update());
    const find = element("input", { type: "search", oninput: () => update() });
    const move = (by) => {
      step.selectedIndex = Math.max(1, Math.min(steps.length, step.selectedIndex + by));
      update();
    };
    const earlier = element("button", { type: "button", onclick: () => move(-1) }, "← earlier");
    const later = element("button", { type: "button", onclick: () => move(1) }, "later →");
    const grouped = (row, before) => {
      const head = order.value === "sampled" && (!before || before.batch !== row.batch || before.group !== row.group);
      return [
        head ? element("h3", { class: "group-title" }, `Step ${row.step}, prompt ${row.group + 1}: ${row.problem}`) : null,
        rolloutCard(row),
      ];
    };
    const list = pagedList(grouped);
    function update() {
      const wanted = rewards.find(([key]) => key === reward.value)[2];
      const words = find.value.toLowerCase();
      const found = rollouts.filter((row) => (step.value === "" || String(row.step) === step.value) && wanted(row)
        && (words === "" || row.text.toLowerCase().includes(words)));
      if (order.value !== "sampled") found.sort(ORDERS[order.value][1]);
      earlier.disabled = step.selectedIndex <= 1;
      later.disabled = step.selectedIndex >= steps.length;
      list.set(found, found.length === 1 ? "1 rollout" : `${found.length} rollouts`);
    }
    home.append(
      element("div", { class: "controls" }, stepLabel, earlier, later, rewardLabel, orderLabel,
        element("label", {}, "Find in completions", find)),
      ...list.nodes);
    step.value = String(steps[steps.length - 1]);
    update();
  }

  // --- held-out, before and after -----------------------------------------------------------------------------------

  const evaluationName = (name) => (/^step-\d+$/.test(name) ? `step ${Number(name.slice(5))}` : name);

  function right(row) {
    const score = row && row.parts.accuracy ? row.parts.accuracy.score : null;
    return isNumber(score) ? score >= 1 - 1e-9 : null;
  }

  function heldOutBrowser(home) {
    const names = [...new Set(heldOut.map((row) => row.evaluation))].sort();
    const problems = new Map();
    for (const row of heldOut) {
      if (!problems.has(row.problem)) problems.set(row.problem, new Map());
      if (!problems.get(row.problem).has(row.evaluation)) problems.get(row.problem).set(row.evaluation, row);
    }
    const all = [...problems.values()];
    const two = names.length > 1;
    const ends = (found) => [right(found.get(names[0])), right(found.get(names[names.length - 1]))];
    const is = (first, last) => (found) => ends(found)[0] === first && ends(found)[1] === last;
    const filters = two
      ? [["", "all", () => true], ["gain", "became right", is(false, true)], ["loss", "became wrong", is(true, false)],
        ["right", "right both times", is(true, true)], ["wrong", "wrong both times", is(false, false)]]
      : [["", "all", () => true], ["right", "right", is(true, true)], ["wrong", "wrong", is(false, false)]];
    const options = filters.map(([key, words, test]) => [key, `${words} (${all.filter(test).length})`]);
    const [label, box] = select("Problems", options, () => update());
    const column = (name, index, found) => {
      const row = found.get(name);
      const when = two ? `${index === 0 ? "Before" : "After"} (${evaluationName(name)})` : evaluationName(name);
      return element("div", {}, element("h4", {}, when),
        row ? element("ul", { class: "chips" }, ...partChips(row.parts), ...endChips(row)) : null,
        row ? completion(row) : element("p", { class: "empty" }, "This problem is not in that evaluation."));
    };
    const list = pagedList((found) => {
      const any = found.values().next().value;
      return [element("article", { class: "card" },
        element("ul", { class: "chips" }, chip(String(any.problem)),
          any.answer === null || any.answer === undefined ? null : chip(`gold answer: ${any.answer}`)),
        promptDetails(any),
        element("div", { class: "pair" }, ...names.map((name, index) => column(name, index, found))))];
    });
    function update() {
      const wanted = filters.find(([key]) => key === box.value)[2];
      const found = all.filter(wanted);
      list.set(found, found.length === 1 ? "1 problem" : `${found.length} problems`);
    }
    home.append(element("div", { class: "controls" }, label), ...list.nodes);
    update();
  }

  const rolloutHome = document.getElementById("rollout-browser");
  if (rolloutHome) rolloutBrowser(rolloutHome);
  const heldOutHome = document.getElementById("heldout-browser");
  if (heldOutHome) heldOutBrowser(heldOutHome);
})();
