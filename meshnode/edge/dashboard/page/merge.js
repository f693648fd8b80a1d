// JSON merge patch (RFC 7396): null says that something is gone. What did not change stays the same object.

export function merged(target, patch) {
  if (patch === null || typeof patch !== "object" || Array.isArray(patch)) return patch;
  const whole = target !== null && typeof target === "object" && !Array.isArray(target) ? { ...target } : {};
  for (const key of Object.keys(patch)) {
    if (patch[key] === null) delete whole[key];
    else Object.defineProperty(whole, key, { value: merged(whole[key], patch[key]), writable: true, enumerable: true, configurable: true });
  }
  return whole;
}
