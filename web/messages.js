/* What the page says when something does not work: a title, a sentence, and a way on.
 *
 * `actions` name buttons of the page: "camera" asks for the camera again, "file" opens a picture or
 * a video, "restart" starts the computation again. */

const AGAIN = ["camera", "file"];

const CAMERA = {
  NotAllowedError: {
    title: "The camera is not allowed",
    text: "Allow it in the browser's address bar, then try again.",
    actions: AGAIN,
  },
  NotFoundError: {
    title: "No camera was found",
    text: "Plug one in and try again, or open a picture or a video.",
    actions: AGAIN,
  },
  NotReadableError: {
    title: "The camera is in use",
    text: "Close the other program that uses it, then try again.",
    actions: AGAIN,
  },
  OverconstrainedError: {
    title: "This camera is gone",
    text: "Choose another camera, or try again.",
    actions: AGAIN,
  },
  SecurityError: {
    title: "The browser gives no camera here",
    text: "Browsers give it only to pages from https addresses or from this machine itself.",
    actions: ["file"],
  },
};

const PROBLEMS = {
  unplugged: {
    title: "The camera is gone",
    text: "It was unplugged or switched off. The page goes on by itself when it comes back.",
    actions: AGAIN,
  },
  model: {
    title: "Sharpening cannot start",
    text: "The picture is shown as it is.",
    actions: ["restart"],
  },
  compute: {
    title: "Sharpening has stopped",
    text: "A frame could not be computed. The picture is shown as it is.",
    actions: ["restart"],
  },
  worker: {
    title: "Sharpening has stopped",
    text: "The part of the page that computes has failed.",
    actions: ["restart"],
  },
  unreadable: {
    title: "This file cannot be opened",
    text: "The browser reads neither a picture nor a video in it.",
    actions: ["file"],
  },
  picture: {
    title: "The picture was not sharpened",
    text: "It is shown as it is.",
    actions: ["restart", "file"],
  },
  "too-large": {
    title: "The picture is too large for this page",
    text: "It takes up to 50 megapixels. The command line takes any size.",
    actions: ["file"],
  },
};

/** Short notes that need no answer. */
export const NOTES = {
  "gpu-lost": "The graphics processor has stopped answering. Going on with WebAssembly.",
  "no-gpu": "WebGPU could not start here. Going on with WebAssembly.",
  hidden: "Paused while this tab is hidden.",
  visible: "Going on.",
  off: "This device is too busy to sharpen 12 frames a second. The camera is shown as it is; the page tries again from time to time.",
  "one-thread":
    "The server does not send the headers COOP and COEP, so the browser gives this page one thread only. It works, but more slowly.",
  format: "The browser does not write this file format: the picture is saved as PNG.",
};

export const cameraMessage = (error) =>
  CAMERA[error.name] ?? {
    title: "The camera did not start",
    text: error.message || "Try again, or open a picture or a video.",
    actions: AGAIN,
  };

export const problemMessage = (kind, detail = "") => {
  const message = PROBLEMS[kind] ?? PROBLEMS.compute;
  return { ...message, text: detail ? `${detail} ${message.text}` : message.text };
};
