/* The camera: asked for, listed, and watched. */

/** Ask for a camera -> its stream. Throws what the browser throws; `messages.js` puts it in words. */
export async function openCamera(deviceId, height) {
  if (!navigator.mediaDevices?.getUserMedia) throw new DOMException("", "SecurityError");
  const size = { height: { ideal: height }, width: { ideal: Math.round((height * 16) / 9) } };
  const video = { ...size, frameRate: { ideal: 30 } };
  if (deviceId) video.deviceId = { exact: deviceId };
  return navigator.mediaDevices.getUserMedia({ video, audio: false });
}

export function closeCamera(stream) {
  for (const track of stream?.getTracks() ?? []) track.stop();
}

/** The cameras of this device, [{id, name}]; names are known once a camera was allowed. */
export async function listCameras() {
  const devices = (await navigator.mediaDevices?.enumerateDevices?.()) ?? [];
  return devices
    .filter(({ kind }) => kind === "videoinput")
    .map(({ deviceId, label }, index) => ({ id: deviceId, name: label || `Camera ${index + 1}` }));
}

/** Call `changed` when a camera is plugged in or out. */
export function watchCameras(changed) {
  navigator.mediaDevices?.addEventListener?.("devicechange", changed);
}
