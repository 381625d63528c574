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
  let source;
  let isOver = false;
  function open() {
    if (isOver || document.hidden) return;
    source?.close();
    source = new EventSource(`${url}/events`);
    source.onopen = () => {
      delay = 500;
      connection("live");
    };
    source.onmessage = (event) => show(JSON.parse(event.data));
    source.addEventListener("end", (event) => {
      const { reason } = JSON.parse(event.data);
      if (reason === "until" || reason === "deleted") {
        isOver = true;
        source.close();
        connection("ended");
        ended(reason);
      }
    });
    source.onerror = async () => {
      connection("connecting");
      if (source.readyState !== EventSource.CLOSED) return;
      if (await isMissing(url)) {
        isOver = true;
        connection("ended");
        ended("deleted");
        return;
      }
      setTimeout(open, delay * (0.5 + Math.random()));
      delay = Math.min(2 * delay, 15000);
    };
  }
  // All tabs share the six connections to a host, so one that is not seen has none.
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden) return open();
    source?.close();
    if (!isOver) connection("connecting");
  });
  open();
}

async function isMissing(url) {
  try {
    return [404, 422].includes((await fetch(url)).status); // 422: no order can have that number
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
    const shown = JSON.stringify(order);
    if (row.dataset.shown !== shown) {
      row.dataset.shown = shown;
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
  const row = element("li", { tabIndex: -1 });
  row.dataset.id = order.id;
  row.append(
    element("a", { href: `/orders/${order.id}` }),
    element("span", { className: "state" }),
    element("span", { className: "actions" }),
  );
  return row;
}

function fillRow(row, order) {
  row.querySelector("a").textContent = `${order.id} · ${order.item}`;
  const state = row.querySelector(".state");
  state.textContent = state.dataset.state = order.status;
  setActions(row.querySelector(".actions"), order, row);
}

// A button that had the focus keeps it. If it is gone, the order gets it, and never the button that
// deletes: the next Enter would press it.
function setActions(place, order, otherwise) {
  const had = place.contains(document.activeElement) && document.activeElement.dataset.action;
  const pay = element("button", { textContent: "Pay", onclick: () => send("POST", `${order.id}/pay`) });
  const remove = element("button", {
    textContent: "Delete", className: "plain", onclick: () => deleteOrder(order),
  });
  for (const [button, action] of [[pay, "pay"], [remove, "delete"]]) {
    button.dataset.action = action;
    button.setAttribute("aria-label", `${button.textContent} order ${order.id}`);
  }
  place.replaceChildren(...(order.status === "new" ? [pay, remove] : [remove]));
  if (had) (place.querySelector(`[data-action="${had}"]`) ?? otherwise).focus();
}

async function deleteOrder(order) {
  if (!confirm(`Delete order ${order.id}?`)) return;
  if ((await send("DELETE", String(order.id))) && orderId) ended("deleted");
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
  setActions(document.querySelector("#order .actions"), order, byId("title"));
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
    return answer.ok;
  } catch {
    say("The server cannot be reached.");
    return false;
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
