// One page for the list and for one order. It has one stream, and shows what the stream says.

const STATES = ["new", "paid", "packed", "shipped", "delivered"];
const byId = (id) => document.getElementById(id);
const orderId = location.pathname.match(/^\/orders\/(\d+)$/)?.[1];

// -- the stream

// A browser connects again by itself when a stream has ended or was cut. It gives up for good when
// the status is another than 200, as from a proxy whose server restarts: then we begin another one,
// unless there is nothing to listen to.
function listen(url, show) {
  let delay = 500;
  function open() {
    const source = new EventSource(`${url}/events`);
    source.onopen = () => {
      delay = 500;
      connection("live");
    };
    source.onmessage = (event) => show(JSON.parse(event.data));
    source.addEventListener("end", (event) => {
      const { reason } = JSON.parse(event.data);
      if (reason === "until" || reason === "deleted") {
        source.close();
        connection("ended");
        ended(reason);
      }
    });
    source.onerror = async () => {
      connection("connecting");
      if (source.readyState !== EventSource.CLOSED) return;
      if (await isMissing(url)) {
        connection("ended");
        ended("deleted");
        return;
      }
      setTimeout(open, delay * (0.5 + Math.random()));
      delay = Math.min(2 * delay, 15000);
    };
  }
  open();
}

async function isMissing(url) {
  try {
    return (await fetch(url)).status === 404;
  } catch {
    return false;
  }
}

function connection(state) {
  const shown = byId("connection");
  if (shown.dataset.state !== state) {
    shown.dataset.state = state;
    shown.textContent = state;
  }
}

function ended(reason) {
  if (reason === "deleted") {
    say("There is no such order any more.");
    document.querySelector("#order .actions").replaceChildren();
  }
}

// -- what is shown: text only ever becomes text, never HTML

function element(name, properties, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

function showList(orders) {
  const list = byId("orders");
  const old = new Map([...list.children].map((row) => [row.dataset.id, row]));
  const isFirst = list.childElementCount === 0;
  const rows = orders.map((order) => {
    const row = old.get(String(order.id)) ?? rowOf(order);
    if (row.dataset.status !== order.status) {
      row.dataset.status = order.status;
      fillRow(row, order);
      if (!isFirst) mark(row);
    }
    return row;
  });
  const kept = new Set(rows);
  [...list.children].filter((row) => !kept.has(row)).forEach((row) => row.remove());
  // A row that is where it belongs is not moved: it would lose the focus.
  rows.forEach((row, place) => {
    if (list.children[place] !== row) list.insertBefore(row, list.children[place] ?? null);
  });
  byId("none").hidden = rows.length > 0;
}

function rowOf(order) {
  const row = element("li", {});
  row.dataset.id = order.id;
  row.append(
    element("a", { href: `/orders/${order.id}`, textContent: `${order.id} · ${order.item}` }),
    element("span", { className: "state" }),
    element("span", { className: "actions" }),
  );
  return row;
}

function fillRow(row, order) {
  const state = row.querySelector(".state");
  state.textContent = state.dataset.state = order.status;
  setActions(row.querySelector(".actions"), order);
}

function setActions(place, order) {
  const had = document.activeElement?.dataset.action;
  const inside = place.contains(document.activeElement);
  const pay = element("button", { textContent: "Pay", onclick: () => send("POST", `${order.id}/pay`) });
  const remove = element("button", {
    textContent: "Delete", className: "plain", onclick: () => send("DELETE", String(order.id)),
  });
  for (const [button, action] of [[pay, "pay"], [remove, "delete"]]) {
    button.dataset.action = action;
    button.setAttribute("aria-label", `${button.textContent} order ${order.id}`);
  }
  place.replaceChildren(...(order.status === "new" ? [pay, remove] : [remove]));
  if (inside) (place.querySelector(`[data-action="${had}"]`) ?? remove).focus();
}

function mark(row) {
  row.classList.remove("changed");
  void row.offsetWidth; // begins the animation again
  row.classList.add("changed");
}

function showOrder(order) {
  document.title = `Order ${order.id}: ${order.status}`;
  byId("title").textContent = `${order.id} · ${order.item}`;
  byId("states").replaceChildren(
    ...STATES.map((state) => {
      const shown = element("li", { textContent: state });
      if (state === order.status) shown.setAttribute("aria-current", "step");
      return shown;
    }),
  );
  const at = order.changed_at ? new Date(order.changed_at).toLocaleTimeString() : "";
  byId("changed").textContent = at && `Changed at ${at}.`;
  setActions(document.querySelector("#order .actions"), order);
}

function say(text) {
  byId("message").textContent = text;
}

// -- what is asked

async function send(method, path, body) {
  try {
    const answer = await fetch(`/api/orders${path && `/${path}`}`, {
      method,
      headers: body && { "Content-Type": "application/json" },
      body: body && JSON.stringify(body),
    });
    say(answer.ok ? "" : `That did not work (${answer.status}).`);
  } catch {
    say("The server cannot be reached.");
  }
}

async function showStatus() {
  try {
    const now = await (await fetch("/api/status")).json();
    const facts = Object.entries(now).filter(([, value]) => value !== null);
    byId("status").replaceChildren(
      ...facts.map(([name, value]) =>
        element("div", {}, element("dt", { textContent: name }), element("dd", { textContent: value })),
      ),
    );
  } catch {
    // the server restarts; the stream says so
  }
}

// -- the beginning

byId("new").addEventListener("submit", (event) => {
  event.preventDefault();
  const item = byId("item").value.trim();
  byId("item").value = "";
  if (item) send("POST", "", { item });
});

byId(orderId ? "order" : "list").hidden = false;
if (orderId) listen(`/api/orders/${orderId}`, showOrder);
else listen("/api/orders", showList);
await showStatus();
setInterval(showStatus, 2000);
