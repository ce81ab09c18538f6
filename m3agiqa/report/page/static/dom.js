// Makes elements. A string becomes a text node, never HTML: most strings here are a stranger's.
"use strict";

const $ = (id) => document.getElementById(id);

/** An element with properties or attributes, and children: elements, strings, or null for none. */
function el(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "class") node.className = value;
    else node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

function svg(tag, attributes = {}) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
}

const whole = new Intl.NumberFormat("en").format;

/** "1 image", "2,000 images". */
const counted = (count, noun) => `${whole(count)} ${noun}${count === 1 ? "" : "s"}`;

/** A text of at most `most` characters, for places that cannot scroll; no half of a character is left. */
function cut(text, most) {
  const whole = [...text.slice(0, 2 * most)];
  return whole.length <= most && text.length <= 2 * most ? text : `${whole.slice(0, most).join("")}…`;
}
