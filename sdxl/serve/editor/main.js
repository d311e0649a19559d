// The editor: makes the parts, and says who listens to whom.
//
// pointer, keys ─▶ painter ─▶ layers ─┐
// panel ─▶ settings ──────────────────┴▶ runner ─▶ session ─▶ server ─▶ strips, cost, stage

import { Api } from "./api.js";
import { addHandle } from "./compare.js";
import { byId, onPress } from "./dom.js";
import { askKey } from "./key.js";
import { keeper } from "./kept_mask.js";
import { listen } from "./keys.js";
import { afterStrokes } from "./live.js";
import { addMaskButtons } from "./mask_buttons.js";
import { Painter } from "./painter.js";
import { Picture } from "./picture.js";
import { Pointer } from "./pointer.js";
import { receiveFiles } from "./files.js";
import { Results } from "./results.js";
import { Runner } from "./runner.js";
import { Session } from "./session.js";
import { Settings } from "./settings.js";
import { bindingsOf } from "./shortcuts.js";
import { Stage } from "./stage.js";
import { Strips } from "./strips.js";
import { complain } from "./toasts.js";
import { Toolbar } from "./toolbar.js";
import { addPanel } from "./panel.js";

const settings = new Settings();
const session = new Session(new Api(askKey));
const painter = new Painter(settings);
const stage = new Stage(painter, settings);
const pointer = new Pointer(stage, painter, settings);
const strips = new Strips(session);
const runner = new Runner(session, painter, settings);
new Toolbar(settings, painter, stage, pointer);
const picture = new Picture(session, settings, painter, stage, strips);
const results = new Results({
  session,
  settings,
  painter,
  stage,
  strips,
  runner,
  placeHandle: addHandle(stage),
  keepMask: keeper(painter),
});
const panel = addPanel({ session, settings, painter, runner, results });

settings.bind();
addMaskButtons(painter, settings, session);
receiveFiles(stage.canvas.parentElement ?? document.body, (file) => void picture.open(file));

const live = afterStrokes(() => settings.values.live && !painter.isPainting && panel.generate({ isLive: true }));
painter.addEventListener("stroke", live);
onPress("welcome-open", () => picture.choose());
onPress("example", () => picture.openExample());
onPress("open", () => picture.choose());
onPress("download", () => picture.download());
onPress("help", () => byId("keys", HTMLDialogElement).showModal());
listen(bindingsOf({ settings, painter, stage, picture, results, panel }));

try {
  panel.showDefaults(await session.api.json("/v1/defaults"));
  await session.resume();
} catch (error) {
  complain(error, { label: "Load again", act: () => location.reload() });
}
