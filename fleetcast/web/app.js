// The page: the fleet at /, one vehicle at /?vehicle=…

import { askTime, isVehicle, MANY, ONE } from "./api.js";
import { ahead } from "./clock.js";
import { make, setText } from "./dom.js";
import { enter } from "./enter.js";
import { showFleet } from "./fleet.js";
import { span } from "./format.js";
import { showVehicle } from "./vehicle.js";

const main = document.getElementById("main");
const vehicle = new URLSearchParams(location.search).get("vehicle");

const refused = await enter();
if (refused) {
  document.title = "No entry · Fleetcast";
  main.append(make("h1", {}, "No entry"), make("p", { role: "status" }, refused));
} else if (vehicle === null) show("fleet-view", showFleet);
else if (isVehicle(vehicle)) show("vehicle-view", (view) => showVehicle(view, vehicle));
else {
  document.title = `No such ${ONE} · Fleetcast`;
  main.append(
    make("h1", {}, `No such ${ONE}`),
    make("p", {}, "An id is 1 to 64 of A-Z, a-z, 0-9, - and _."),
    make("p", {}, make("a", { href: "/" }, `All ${MANY}`)),
  );
}

await askTime();
setInterval(sayClock, 5000);
sayClock();

function show(template, start) {
  main.append(document.getElementById(template).content.cloneNode(true));
  start(main);
}

// Ages are by the platform's clock; who compares them with his watch should know.
function sayClock() {
  const note = document.querySelector("[data-clock-note]");
  const off = ahead();
  note.hidden = off === 0;
  setText(
    note,
    off
      ? `This device's clock is ${span(Math.abs(off))} ${off > 0 ? "ahead" : "behind"}. Ages are by the platform's.`
      : "",
  );
}
