/** What octamark throws. Every message names the input, what was given and what is allowed. */
export class OctamarkError extends Error {
  constructor(message, options) {
    super(message, options);
    this.name = new.target.name;
  }
}

/** An option with a value that is not allowed. */
export class ConfigError extends OctamarkError {}

/** A picture that cannot be read. */
export class PictureError extends OctamarkError {}

/** Face boxes of another form. */
export class BoxError extends OctamarkError {}

/** A model file that is missing, damaged or of another kind. */
export class WeightsError extends OctamarkError {}

/** A network that gives values that are not finite. */
export class PredictionError extends OctamarkError {}

/** A layout without what was asked for. */
export class LayoutError extends OctamarkError {}

/** Throws a ConfigError unless the value is one of those allowed. */
export function checkChoice(name, value, allowed) {
  if (!allowed.includes(value)) {
    throw new ConfigError(`${name} ${JSON.stringify(value)}; allowed: ${allowed.join(", ")}`);
  }
}

/** Throws a ConfigError unless the value is a number from low to high. */
export function checkNumber(name, value, low, high) {
  if (typeof value !== "number" || !(value >= low && value <= high)) {
    throw new ConfigError(`${name} ${JSON.stringify(value)}; allowed: ${low} to ${high}`);
  }
}
