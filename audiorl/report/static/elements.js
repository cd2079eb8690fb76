"use strict";
// Elements are made of tags, attributes and text nodes; no text ever becomes markup.

const SCHEMES = /^(https?|data|blob):/i; // blob: is what this page makes of embedded clips

function safeAddress(address) {
  // relative, or of a scheme that runs nothing; browsers read a scheme without spaces and control characters
  const colon = address.search(/[:/?#]/);
  return address[colon] !== ":" || SCHEMES.test(address);
}

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if ((name === "href" || name === "src") && !safeAddress(value)) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

function drawn(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

const MINUS = "\u2212";

function signed(text) {
  return text.startsWith("-") ? MINUS + text.slice(1) : "+" + text;
}

function number(value) {
  if (value === null || value === undefined) return "\u2013";
  if (value === 0) return "0";
  const size = Math.abs(value);
  const text = size >= 1e5 || size < 1e-3 ? value.toExponential(2) : String(Number(value.toPrecision(4)));
  return text.replace("-", MINUS);
}

function percent(fraction, digits = 1) {
  return fraction === null || fraction === undefined ? "\u2013" : `${(100 * fraction).toFixed(digits)}\u00a0%`.replace("-", MINUS);
}

function grouped(count) {
  return count.toLocaleString("en-US");
}

function seconds(value) {
  return value === null || value === undefined ? "" : `${value.toFixed(1)} s`;
}

function section(id, title, ...children) {
  return make("section", { id, "aria-label": title }, make("h2", {}, title), ...children);
}
