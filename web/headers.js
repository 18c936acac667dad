/* The HTTP headers of the page: for `serve.js`, and for static hosts by way of `build.js`. */

/** Without these two, a browser gives no threads to WebAssembly. */
export const ISOLATION = {
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Embedder-Policy": "require-corp",
};

/** Nothing but this site's own files is loaded or sent anywhere. index.html says the same, for hosts
 * that send no headers; workers obey only the header. */
export const POLICY = {
  "Content-Security-Policy":
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'; " +
    "connect-src 'self'; style-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; " +
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
  "X-Content-Type-Options": "nosniff",
};
